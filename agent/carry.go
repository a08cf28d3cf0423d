package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/raftstore"
	"github.com/vzcluster/vzcluster/scheduler"
)

// carryOutPlans starts what carries out each running plan, those of an earlier leader too.
func (m *member) carryOutPlans(ctx context.Context, done *sync.WaitGroup) {
	for _, op := range m.store.State().Operations() {
		if op.Status != cluster.OpRunning || !op.IsPlan() {
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

// stepEnd is how a step of a plan ended, and why it was not done.
type stepEnd struct {
	step   int
	status string
	reason string
	err    error // of the quorum: nothing is known
}

// carryOut does the steps of a plan, as many at once as it is wide, and ends the plan. Its own errors are those of the
// quorum; what stops a plan is recorded in it. A plan that is paused is left when no step is under way any more.
func (m *member) carryOut(ctx context.Context, id string) error {
	for {
		plan := m.store.State().Operation(id)
		if plan == nil || plan.Status != cluster.OpRunning {
			return nil
		}
		failed, err := m.doSteps(ctx, plan)
		if err != nil {
			return err
		}
		if plan = m.store.State().Operation(id); plan == nil || plan.Status != cluster.OpRunning {
			return nil
		}
		if again := m.toTryAgain(plan); len(again) > 0 {
			if err := m.extend(ctx, plan, again, nil); err != nil {
				return err
			}
			continue
		}
		if failed != nil {
			return m.giveUp(ctx, plan, *failed)
		}
		goesOn, err := m.nextStage(ctx, plan)
		if err != nil || !goesOn {
			return err
		}
	}
}

// doSteps does the steps that are left. It returns the one whose failure stops the plan, if any.
func (m *member) doSteps(ctx context.Context, plan *cluster.Operation) (failed *stepEnd, err error) {
	begun, ended := make([]bool, len(plan.Steps)), make([]bool, len(plan.Steps))
	for i, step := range plan.Steps {
		begun[i] = step.Status != "" && step.Status != cluster.StepRunning
		ended[i] = begun[i]
	}
	ends := make(chan stepEnd)
	running := 0
	for {
		traffic := m.snapshot("").Traffic()
		for failed == nil && err == nil && running < max(plan.Width, 1) && m.runs(plan.ID) {
			i := traffic.Next(plan.Steps, begun, ended)
			if i < 0 {
				break
			}
			begun[i] = true
			running++
			go func() { ends <- m.doStep(ctx, plan, i) }()
		}
		if running == 0 {
			return failed, err
		}
		end := <-ends
		running--
		ended[end.step] = end.err == nil
		switch {
		case end.err != nil:
			err = end.err
		case end.status == cluster.StepFailed && !plan.Partial && failed == nil:
			failed = &end
		}
	}
}

// runs reports whether a plan may begin another step; it may be paused or stopped meanwhile.
func (m *member) runs(id string) bool {
	op := m.store.State().Operation(id)
	return op != nil && op.Status == cluster.OpRunning
}

// doStep carries out one step and records how it ended.
func (m *member) doStep(ctx context.Context, plan *cluster.Operation, i int) stepEnd {
	end := m.step(ctx, plan, i)
	end.step = i
	if op := m.store.State().Operation(plan.ID); end.err != nil || op == nil || op.Final() {
		return end
	}
	_, end.err = m.apply(ctx, cluster.StepPlan{Operation: plan.ID, Step: i, Status: end.status, Reason: end.reason})
	return end
}

func withdrawn(format string, args ...any) stepEnd {
	return stepEnd{status: cluster.StepWithdrawn, reason: fmt.Sprintf(format, args...)}
}

// stale says why a step of a plan makes no sense any more, "" when it does.
func (m *member) stale(plan *cluster.Operation, move cluster.Move, ct *cluster.Container) string {
	switch {
	case plan.Kind == cluster.OpPreempt && m.pointless(plan) != "":
		return m.pointless(plan)
	case ct == nil:
		return "the container is gone"
	case ct.Desired == cluster.WantDestroyed || ct.InTrash():
		return "the container is being destroyed"
	case ct.Host != move.From:
		return "the container is on " + ct.Host + " now"
	case ct.Operation != "":
		return "something else is under way with the container"
	case plan.Automatic && ct.Rules.Stay:
		return "the container is to stay where it is"
	case plan.Kind != cluster.OpDrain && plan.Kind != cluster.OpMaintain && !ct.Rules.Window.Open(time.Now()):
		return "the container may be moved " + ct.Rules.Window.String() + " only"
	case !m.alive(move.From):
		return move.From + ", the host that it is on, is down"
	case !m.alive(move.To):
		return move.To + " is down"
	}
	return ""
}

// step moves one container and waits until the move has ended. Whether the move still makes sense is asked when it
// begins.
func (m *member) step(ctx context.Context, plan *cluster.Operation, i int) stepEnd {
	move := plan.Steps[i]
	m.awaitHosts(ctx, plan.ID, move.From, move.To)
	s := m.store.State()
	// The id is derived from the plan, so that a new leader finds the migration if its number was not recorded.
	migration := fmt.Sprintf("%s-%d", plan.ID, i)
	if move.Operation == "" && s.Operation(migration) == nil {
		ct := s.Container(move.Container)
		if ct != nil && ct.Host == move.To {
			return stepEnd{status: cluster.StepDone} // somebody else has moved it
		}
		if why := m.stale(plan, move, ct); why != "" {
			return withdrawn("%s", why)
		}
		mode := cluster.ModeLive
		if ct.State != cluster.Running {
			mode = cluster.ModeOffline
		} else if move.Mode != "" {
			mode = move.Mode
		}
		op := cluster.Operation{ID: migration, To: move.To, Mode: mode, Parent: plan.ID, Why: move.Why}
		if mode == cluster.ModeLive {
			op.MaxDowntimeMS = ct.Rules.MaxDowntimeMS
		}
		_, err := m.beginMigration(ctx, ct, op)
		switch {
		case errors.Is(err, raftstore.ErrNotLeader), errors.Is(err, raftstore.ErrUnknownOutcome), ctx.Err() != nil:
			return stepEnd{err: errors.Join(err, ctx.Err())}
		case err != nil:
			return withdrawn("%v", err)
		}
	}
	if _, err := m.apply(ctx, cluster.StepPlan{Operation: plan.ID, Step: i, Migration: migration, Status: cluster.StepRunning}); err != nil {
		if op := m.store.State().Operation(plan.ID); op == nil || !op.Final() {
			return stepEnd{err: err}
		}
	}
	op, err := m.awaitOperation(ctx, migration)
	switch {
	case err != nil:
		return stepEnd{err: err}
	case op == nil:
		return stepEnd{status: cluster.StepFailed, reason: "its migration is not known any more"}
	case op.Refused: // nothing has failed: it would take longer than it may, or something is in its way
		return withdrawn("%s", op.Error)
	case op.Status != cluster.OpDone:
		return stepEnd{status: cluster.StepFailed, reason: op.Error}
	}
	return stepEnd{status: cluster.StepDone}
}

// giveUp ends a plan at a step that failed.
func (m *member) giveUp(ctx context.Context, plan *cluster.Operation, failed stepEnd) error {
	left, steps := 0, latest(plan.Steps)
	for _, step := range steps {
		if step.Status != cluster.StepDone {
			left++
		}
	}
	move := plan.Steps[failed.step]
	return m.endPlan(ctx, plan.ID, cluster.OpFailed, fmt.Sprintf("stopped at %s from %s to %s: %s; %d of %d moves are left, run it again",
		move.Name, move.From, move.To, failed.reason, left, len(steps)))
}

func (m *member) endPlan(ctx context.Context, id string, status cluster.OperationStatus, reason string) error {
	_, err := m.apply(ctx, cluster.EndPlan{Operation: id, Status: status, Error: reason, At: time.Now().UTC()})
	return err
}

// maxReplans bounds how often a drain is planned again because moves were withdrawn or containers came.
const maxReplans = 3

// nextStage is asked when every step of a plan has ended. It adds steps and reports true, or ends or pauses the plan.
func (m *member) nextStage(ctx context.Context, plan *cluster.Operation) (goesOn bool, err error) {
	switch plan.Kind {
	case cluster.OpMaintain:
		return m.nextTurn(ctx, plan)
	case cluster.OpPreempt:
		return false, m.useRoom(ctx, plan)
	case cluster.OpDrain:
		left := m.store.State().On(plan.Host)
		if len(left) == 0 && plan.Leave {
			return m.letGo(ctx, plan)
		}
		if len(left) == 0 {
			break
		}
		again := scheduler.Drain(m.snapshot(""), plan.Host)
		if len(again.Moves) > 0 && replans(plan) < maxReplans {
			return true, m.extend(ctx, plan, again.Moves, nil)
		}
		if !plan.Partial || plan.Leave {
			return false, m.endPlan(ctx, plan.ID, cluster.OpFailed, plan.Host+" is not empty: "+whyLeft(plan, left, again))
		}
		return false, m.endPlan(ctx, plan.ID, cluster.OpDone, whyLeft(plan, left, again))
	}
	if err := m.endPlan(ctx, plan.ID, cluster.OpDone, withdrawnText(plan)); err != nil || !plan.Park {
		return false, err
	}
	for _, host := range plan.Freed {
		if err := m.park(ctx, host, "it was freed by operation "+plan.ID); err != nil {
			m.log.Warn("a host that was freed stays on", "host", host, "error", err)
		}
	}
	return false, nil
}

// replans counts the steps that were tried for the same container again.
func replans(plan *cluster.Operation) (most int) {
	times := map[int]int{}
	for _, step := range plan.Steps {
		times[step.Container]++
		most = max(most, times[step.Container])
	}
	return most
}

func (m *member) extend(ctx context.Context, plan *cluster.Operation, steps []cluster.Move, round *cluster.Round) error {
	_, err := m.apply(ctx, cluster.ExtendPlan{Operation: plan.ID, Known: len(plan.Steps), Steps: steps, Round: round})
	return err
}

// whyLeft says what is still on a drained host, and why.
func whyLeft(plan *cluster.Operation, left []*cluster.Container, again scheduler.Plan) string {
	why := map[int]string{}
	for _, u := range again.Unplaced {
		why[u.Container] = u.Why
	}
	for _, step := range plan.Steps {
		if step.Reason != "" {
			why[step.Container] = step.Reason
		}
	}
	var parts []string
	for _, c := range left {
		parts = append(parts, c.Name+" stays: "+why[c.ID])
	}
	return strings.Join(parts, "; ")
}

// withdrawnText says which moves of a plan were not made, "" when all were.
func withdrawnText(plan *cluster.Operation) string {
	var parts []string
	steps := latest(plan.Steps)
	for _, step := range steps {
		if step.Status != cluster.StepDone {
			parts = append(parts, step.Name+": "+step.Reason)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d moves were not made: %s", len(parts), len(steps), strings.Join(parts, "; "))
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
