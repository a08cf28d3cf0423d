package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/raftstore"
	"github.com/vzcluster/vzcluster/scheduler"
)

// snapshot is the cluster as the scheduler sees it; digest is the template of what is to be placed, if any.
func (m *member) snapshot(digest string) scheduler.Snapshot {
	s := m.store.State()
	snap := scheduler.Snapshot{Policy: s.Policy(), Now: time.Now()}
	t := s.TemplateByDigest(digest)
	for _, h := range s.Hosts() {
		v := scheduler.HostView{
			Name: h.Name, State: h.State, Labels: h.Labels, Alive: m.alive(h.Name), Capacity: s.Policy().Offer(h), Reserved: s.Reserved(h.Name),
		}
		if t != nil {
			for _, has := range t.Hosts {
				v.HasTemplate = v.HasTemplate || has == h.Name
			}
		}
		snap.Hosts = append(snap.Hosts, v)
	}
	for _, c := range s.Containers() {
		snap.Containers = append(snap.Containers, *c)
	}
	return snap
}

func newOperationID() string {
	raw := make([]byte, 6)
	_, _ = rand.Read(raw) // never fails
	return hex.EncodeToString(raw)
}

// handleDrain plans to empty a host, cordons it and has the plan carried out.
func (m *member) handleDrain(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.PlanRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	host := r.PathValue("host")
	h := m.store.State().Host(host)
	if h == nil {
		return nil, notFound("host", host, "vzcluster host ls")
	}
	width, err := parallel(req)
	if err != nil {
		return nil, err
	}
	snap := m.snapshot("")
	blocked := map[int]string{}
	if req.Offline {
		blocked = unblock(snap)
	}
	plan := scheduler.Drain(snap, host)
	markOffline(plan.Moves, blocked)
	op := cluster.Operation{Kind: cluster.OpDrain, Host: host, Width: width}
	if !req.DryRun && len(plan.Unplaced) == 0 && h.State != cluster.HostCordoned {
		cordon := cluster.SetHostState{Name: host, State: cluster.HostCordoned}
		if _, err := applyHere[*cluster.Host](r.Context(), m, cordon); err != nil {
			return nil, err
		}
	}
	return m.begin(r.Context(), op, plan, req.DryRun)
}

// handleConsolidate plans to empty as many hosts as possible and has the plan carried out.
func (m *member) handleConsolidate(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.PlanRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	width, err := parallel(req)
	if err != nil {
		return nil, err
	}
	snap := m.snapshot("")
	blocked := map[int]string{}
	if req.Offline {
		blocked = unblock(snap)
	}
	plan := scheduler.Consolidate(snap, req.Max)
	markOffline(plan.Moves, blocked)
	if len(req.Steps) > 0 {
		if plan, err = m.replay(req.Steps); err != nil {
			return nil, err
		}
	}
	return m.begin(r.Context(), cluster.Operation{Kind: cluster.OpConsolidate, Width: width}, plan, req.DryRun)
}

// parallel is how many moves a plan may make at once.
func parallel(r api.PlanRequest) (int, error) {
	if r.Parallel < 0 || r.Parallel > api.MaxParallel {
		return 0, api.Errorf(api.CodeUsage, "", "%d moves at once cannot be made; between 1 and %d can", r.Parallel, api.MaxParallel)
	}
	return cmp.Or(r.Parallel, api.DefaultParallel), nil
}

// unblock has the scheduler take containers that cannot be moved live for movable, and returns what is in their way.
func unblock(snap scheduler.Snapshot) map[int]string {
	blocked := map[int]string{}
	for i := range snap.Containers {
		c := &snap.Containers[i]
		if why := c.Immovable(); why != "" {
			blocked[c.ID], c.Verdict = why, nil
		}
	}
	return blocked
}

// markOffline notes which moves stop their container.
func markOffline(moves []cluster.Move, blocked map[int]string) {
	for i := range moves {
		if why := blocked[moves[i].Container]; why != "" {
			moves[i].Mode = cluster.ModeNearLive
			moves[i].Why += "; it is stopped for that: " + why
		}
	}
}

// replay takes a plan that was saved: each container must still be where it was. Whether it still fits where it is
// sent is asked again at each move.
func (m *member) replay(steps []cluster.Move) (plan scheduler.Plan, err error) {
	s := m.store.State()
	for _, step := range steps {
		c := s.Container(step.Container)
		switch {
		case c == nil:
			return plan, notFound("container", step.Name, "vzcluster ls")
		case c.Host != step.From:
			return plan, api.Errorf(api.CodeConflict, "make a new plan with --dry-run", "%s is on %s now, the plan has it on %s", c.Ref(), c.Host, step.From)
		case s.Host(step.To) == nil:
			return plan, notFound("host", step.To, "vzcluster host ls")
		}
		plan.Moves = append(plan.Moves, cluster.Move{Container: c.ID, Name: c.Name, From: step.From, To: step.To, Why: step.Why, Mode: step.Mode})
	}
	return plan, nil
}

// handleStop ends a plan: the moves that are under way are finished, no other one begins.
func (m *member) handleStop(_ http.ResponseWriter, r *http.Request) (any, error) {
	id := r.PathValue("id")
	op := m.store.State().Operation(id)
	switch {
	case op == nil:
		return nil, notFound("operation", id, "vzcluster operation list")
	case op.Kind == cluster.OpMigrate:
		return nil, api.Errorf(api.CodeConflict, "", "operation %s is one migration; only a drain or a consolidation can be stopped half-way", id)
	case op.Final():
		return op, nil
	}
	left := 0
	for _, step := range op.Steps {
		if step.Status == "" {
			left++
		}
	}
	return applyHere[*cluster.Operation](r.Context(), m, cluster.EndPlan{
		Operation: id, Status: cluster.OpAborted, Error: fmt.Sprintf("stopped by the user; %d of %d moves were not begun", left, len(op.Steps)), At: time.Now().UTC(),
	})
}

// begin records a plan. One with nothing to do, or that is only shown, is not recorded and comes back ended. A plan
// that must leave something behind is refused unless it is only shown.
func (m *member) begin(ctx context.Context, op cluster.Operation, plan scheduler.Plan, dry bool) (*cluster.Operation, error) {
	op.ID, op.Started, op.Steps, op.Status = newOperationID(), time.Now().UTC(), plan.Moves, cluster.OpDone
	if len(plan.Unplaced) > 0 && !dry {
		return nil, api.Errorf(api.CodeNoFit, "add room, or look at the plan with --dry-run", "%s", plan.Why)
	}
	if dry || len(plan.Moves) == 0 {
		op.ID, op.Error = "", plan.Why
		return &op, nil
	}
	return applyHere[*cluster.Operation](ctx, m, cluster.BeginPlan{Operation: op})
}

// carryOutPlans starts what carries out each running plan, those of an earlier leader too.
func (m *member) carryOutPlans(ctx context.Context, done *sync.WaitGroup) {
	for _, op := range m.store.State().Operations() {
		if op.Final() || op.Kind == cluster.OpMigrate {
			continue
		}
		id := op.ID
		if _, runs := m.plans.LoadOrStore(id, struct{}{}); runs {
			continue
		}
		done.Go(func() {
			defer m.plans.Delete(id)
			if err := m.carryOut(ctx, id); err != nil && ctx.Err() == nil {
				m.log.Warn("a plan is interrupted and will be taken up again", "operation", id, "error", err)
				select { // carryOutPlans starts it again
				case <-ctx.Done():
				case <-time.After(10 * m.timing.Retry):
				}
			}
		})
	}
}

// stepEnd is how a step of a plan ended; reason says why it failed.
type stepEnd struct {
	step   int
	reason string
	err    error // of the quorum: nothing is known
}

// carryOut does the steps of a plan, as many at once as it is wide, and ends the plan. Its own errors are those of the
// quorum; what stops a plan is recorded in it.
func (m *member) carryOut(ctx context.Context, id string) error {
	plan := m.store.State().Operation(id)
	begun, ended := make([]bool, len(plan.Steps)), make([]bool, len(plan.Steps))
	for i, step := range plan.Steps {
		begun[i], ended[i] = step.Status == cluster.StepDone, step.Status == cluster.StepDone
	}
	ends := make(chan stepEnd)
	running := 0
	var failed *stepEnd
	for {
		for failed == nil && running < max(plan.Width, 1) && !m.store.State().Operation(id).Final() { // it may be stopped meanwhile
			i := scheduler.Next(plan.Steps, begun, ended)
			if i < 0 {
				break
			}
			begun[i] = true
			running++
			go func() { ends <- m.doStep(ctx, plan, i) }()
		}
		if running == 0 {
			return m.conclude(ctx, plan, ended, failed)
		}
		end := <-ends
		running--
		ended[end.step] = end.err == nil && end.reason == ""
		if !ended[end.step] && (failed == nil || failed.err == nil) {
			failed = &end
		}
	}
}

// doStep carries out one step and records how it ended.
func (m *member) doStep(ctx context.Context, plan *cluster.Operation, i int) stepEnd {
	reason, err := m.step(ctx, plan, i)
	if err != nil || m.store.State().Operation(plan.ID).Final() {
		return stepEnd{i, reason, err}
	}
	status := cluster.StepDone
	if reason != "" {
		status = cluster.StepFailed
	}
	_, err = m.apply(ctx, cluster.StepPlan{Operation: plan.ID, Step: i, Status: status})
	return stepEnd{i, reason, err}
}

// conclude ends a plan of which no step is under way.
func (m *member) conclude(ctx context.Context, plan *cluster.Operation, ended []bool, failed *stepEnd) error {
	switch {
	case m.store.State().Operation(plan.ID).Final():
		return nil
	case failed == nil:
		return m.endPlan(ctx, plan.ID, cluster.OpDone, "")
	case failed.err != nil:
		return failed.err
	}
	left := 0
	for _, done := range ended {
		if !done {
			left++
		}
	}
	move := plan.Steps[failed.step]
	return m.endPlan(ctx, plan.ID, cluster.OpFailed, fmt.Sprintf("stopped at %s from %s to %s: %s; %d of %d moves are left, run it again",
		move.Name, move.From, move.To, failed.reason, left, len(plan.Steps)))
}

func (m *member) endPlan(ctx context.Context, id string, status cluster.OperationStatus, reason string) error {
	_, err := m.apply(ctx, cluster.EndPlan{Operation: id, Status: status, Error: reason, At: time.Now().UTC()})
	return err
}

// step moves one container and waits until the move has ended; reason says why it failed.
func (m *member) step(ctx context.Context, plan *cluster.Operation, i int) (reason string, err error) {
	move, s := plan.Steps[i], m.store.State()
	migration := move.Operation
	if migration == "" {
		ct := s.Container(move.Container)
		if ct == nil || ct.Desired == cluster.WantDestroyed || ct.Host == move.To {
			return "", nil // nothing is left to move
		}
		mode := cluster.ModeLive
		if ct.State != cluster.Running {
			mode = cluster.ModeOffline
		} else if move.Mode != "" {
			mode = move.Mode
		}
		// The id is derived from the plan, so that a new leader finds the migration if its number was not recorded.
		migration = fmt.Sprintf("%s-%d", plan.ID, i)
		if s.Operation(migration) == nil {
			_, err := m.beginMigration(ctx, ct, cluster.Operation{ID: migration, To: move.To, Mode: mode, Parent: plan.ID})
			if errors.Is(err, raftstore.ErrNotLeader) || errors.Is(err, raftstore.ErrUnknownOutcome) {
				return "", err
			}
			if err != nil {
				return err.Error(), nil
			}
		}
		if _, err := m.apply(ctx, cluster.StepPlan{Operation: plan.ID, Step: i, Migration: migration, Status: cluster.StepRunning}); err != nil {
			return "", err
		}
	}
	op, err := m.awaitOperation(ctx, migration)
	switch {
	case err != nil:
		return "", err
	case op == nil:
		return "its migration is not known any more", nil
	case op.Status != cluster.OpDone:
		return op.Error, nil
	}
	return "", nil
}

// awaitOperation waits until an operation is final and returns it; nil when it is not known.
func (m *member) awaitOperation(ctx context.Context, id string) (*cluster.Operation, error) {
	for {
		changed := m.store.Changed()
		op := m.store.State().Operation(id)
		if op == nil || op.Final() {
			return op, nil
		}
		select {
		case <-ctx.Done():
			return op, ctx.Err()
		case <-changed:
		}
	}
}

// beginMigration records that a container shall move; the agents of both hosts see the record and carry it out. The
// operation says which id it gets, where to and how.
func (m *member) beginMigration(ctx context.Context, ct *cluster.Container, op cluster.Operation) (*cluster.Operation, error) {
	op.Kind, op.Started = cluster.OpMigrate, time.Now().UTC()
	op.Container, op.Generation, op.From = ct.ID, ct.Generation, ct.Host
	result, err := m.store.Apply(ctx, cluster.BeginMigration{Operation: op})
	if err != nil {
		return nil, err
	}
	m.spread()
	begun, _ := result.(*cluster.Operation)
	return begun, nil
}

// spread makes the followers apply what has just been committed: they learn of a commit with the next entry, which
// may be long in coming.
func (m *member) spread() {
	if len(m.store.State().Hosts()) == 1 {
		return // nobody follows
	}
	go func() { _ = m.store.Barrier(m.ctx) }() // without a quorum there is nothing to spread
}
