package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler"
)

// snapshot is the cluster as the scheduler sees it; digest is the template of what is to be placed, if any.
func (m *member) snapshot(digest string) scheduler.Snapshot {
	return m.snapshotOf(m.store.State(), digest)
}

func (m *member) snapshotOf(s *cluster.State, digest string) scheduler.Snapshot {
	a := s.Automation().WithDefaults()
	snap := scheduler.Snapshot{Policy: s.Policy(), Now: time.Now(), Moves: map[int]*cluster.MoveResult{}, Gain: float64(a.MinGain)}
	t := s.TemplateByDigest(digest)
	snap.Hosts = m.hostViews(s)
	for i, v := range snap.Hosts {
		snap.Hosts[i].HasTemplate = t != nil && slices.Contains(t.Hosts, v.Name)
	}
	for _, c := range s.Containers() {
		snap.Containers = append(snap.Containers, *c)
		if last := s.LastMove(c.ID); last != nil {
			snap.Moves[c.ID] = last
		}
	}
	return snap
}

// hostViews are the hosts as the scheduler sees them.
func (m *member) hostViews(s *cluster.State) (views []scheduler.HostView) {
	spoken := spokenFor(s)
	for _, h := range s.Hosts() {
		views = append(views, scheduler.HostView{
			Name: h.Name, State: h.State, Labels: h.Labels, Alive: m.alive(h.Name), Capacity: s.Policy().Offer(h),
			Reserved: s.Reserved(h.Name).Add(spoken[h.Name]),
		})
	}
	return views
}

func newOperationID() string {
	raw := make([]byte, 6)
	_, _ = rand.Read(raw) // never fails
	return hex.EncodeToString(raw)
}

// handleDrain plans to empty a host, cordons it and has the plan carried out.
func (m *member) handleDrain(_ http.ResponseWriter, r *http.Request) (any, error) {
	host := r.PathValue("host")
	if m.store.State().Host(host) == nil {
		return nil, notFound("host", host, "vzcluster host ls")
	}
	return m.planFor(r, cluster.Operation{Kind: cluster.OpDrain, Host: host}, func(snap scheduler.Snapshot, _ api.PlanRequest) scheduler.Plan {
		return scheduler.Drain(snap, host)
	})
}

// handleConsolidate plans to empty as many hosts as possible and has the plan carried out.
func (m *member) handleConsolidate(_ http.ResponseWriter, r *http.Request) (any, error) {
	return m.planFor(r, cluster.Operation{Kind: cluster.OpConsolidate}, func(snap scheduler.Snapshot, req api.PlanRequest) scheduler.Plan {
		return scheduler.Consolidate(snap, req.Max)
	})
}

// handleRebalance plans to even out how full hosts are and has the plan carried out.
func (m *member) handleRebalance(_ http.ResponseWriter, r *http.Request) (any, error) {
	return m.planFor(r, cluster.Operation{Kind: cluster.OpRebalance}, func(snap scheduler.Snapshot, req api.PlanRequest) scheduler.Plan {
		return scheduler.Rebalance(snap, cmp.Or(req.Imbalance, rebalanceTo))
	})
}

// rebalanceTo is how many points of a hundred hosts may differ after a rebalancing that somebody asks for.
const rebalanceTo = 10

// planFor reads a request, makes its plan and begins it.
func (m *member) planFor(r *http.Request, op cluster.Operation, plan func(scheduler.Snapshot, api.PlanRequest) scheduler.Plan) (any, error) {
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
	made := scheduler.Plan{}
	if len(req.Steps) == 0 {
		made = plan(snap, req)
	} else if made, err = m.replay(snap, req.Steps); err != nil {
		return nil, err
	}
	markOffline(made.Moves, blocked)
	op.Width, op.Partial, op.Park = width, req.Partial, req.Park
	return m.begin(r.Context(), op, made, req)
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
		if why := snap.OverBudget(*c); why != "" {
			blocked[c.ID], c.Rules.MaxDowntimeMS = why, 0
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

// replay takes a plan that was saved, or written by hand: each container must still be where it was. The moves are put in
// an order in which each is possible, if need be by a third host.
func (m *member) replay(snap scheduler.Snapshot, steps []cluster.Move) (plan scheduler.Plan, err error) {
	s := m.store.State()
	at := map[int]string{}
	for _, step := range steps {
		c := s.Container(step.Container)
		if c != nil && at[c.ID] == "" {
			at[c.ID] = c.Host
		}
		switch {
		case c == nil:
			return plan, notFound("container", step.Name, "vzcluster ls")
		case at[c.ID] != step.From:
			return plan, api.Errorf(api.CodeConflict, "make a new plan with --dry-run", "%s is on %s now, the plan has it on %s", c.Ref(), at[c.ID], step.From)
		case s.Host(step.To) == nil:
			return plan, notFound("host", step.To, "vzcluster host ls")
		}
		at[c.ID] = step.To
	}
	plan = scheduler.Arrange(snap, steps)
	plan.Why = fmt.Sprintf("%d moves that were asked for", len(plan.Moves))
	if len(plan.Unplaced) > 0 {
		plan.Why = fmt.Sprintf("%d of %d moves are possible in no order: %s", len(plan.Unplaced), len(steps), plan.Left())
	}
	return plan, nil
}

// begin records a plan. One with nothing to do, or that is only shown, is not recorded and comes back ended. A plan
// that must leave something behind is refused unless it is only shown, or that was asked for.
func (m *member) begin(ctx context.Context, op cluster.Operation, plan scheduler.Plan, req api.PlanRequest) (*cluster.Operation, error) {
	op.ID, op.Started, op.Steps, op.Status = newOperationID(), time.Now().UTC(), plan.Moves, cluster.OpDone
	op.Why, op.Freed, op.Kept = plan.Why, plan.Freed, plan.Kept
	if len(plan.Unplaced) > 0 && !req.DryRun && !req.Partial {
		if _, _, err := m.store.State().Apply(cluster.BeginPlan{Operation: op}); err != nil && !req.Save {
			return nil, err // another plan is under way, and may be why something must stay
		}
		return nil, api.Errorf(api.CodeNoFit, "add room, or move the others with --partial", "%s", plan.Why)
	}
	if req.DryRun || len(plan.Moves) == 0 && !op.Leave {
		op.ID, op.Error = "", plan.Why
		if !req.DryRun && !req.Save && op.Kind == cluster.OpDrain { // an empty host takes nothing new either
			return &op, m.cordon(ctx, op.Host)
		}
		return &op, nil
	}
	begin := cluster.BeginPlan{Operation: op}
	if req.Save {
		begin.Operation.Status = cluster.OpProposed
		return applyHere[*cluster.Operation](ctx, m, begin)
	}
	if _, _, err := m.store.State().Apply(begin); err != nil { // before anything is cordoned
		return nil, err
	}
	if op.Kind == cluster.OpDrain {
		if err := m.cordon(ctx, op.Host); err != nil {
			return nil, err
		}
	}
	return applyHere[*cluster.Operation](ctx, m, begin)
}

// cordon keeps new containers off a host that takes them.
func (m *member) cordon(ctx context.Context, host string) error {
	if h := m.store.State().Host(host); h == nil || h.State != cluster.HostActive {
		return nil
	}
	_, err := applyHere[*cluster.Host](ctx, m, cluster.SetHostState{Name: host, State: cluster.HostCordoned, At: time.Now().UTC()})
	return err
}

// handlePlanAction approves, rejects, pauses, resumes or stops a plan.
func (m *member) handlePlanAction(_ http.ResponseWriter, r *http.Request) (any, error) {
	return m.actOnPlan(r.Context(), r.PathValue("id"), r.PathValue("action"))
}

// handleStop ends a plan.
func (m *member) handleStop(_ http.ResponseWriter, r *http.Request) (any, error) {
	return m.actOnPlan(r.Context(), r.PathValue("id"), "stop")
}

func (m *member) actOnPlan(ctx context.Context, id, action string) (any, error) {
	op := m.store.State().Operation(id)
	switch {
	case op == nil:
		return nil, notFound("plan", id, "vzcluster plan ls")
	case !op.IsPlan():
		return nil, api.Errorf(api.CodeConflict, "", "operation %s is a %s; only plans such as a drain or a consolidation can be %s", id, op.Kind, pastOf(action))
	case (action == "approve" || action == "reject") && op.Status != cluster.OpProposed:
		return nil, api.Errorf(api.CodeConflict, "", "the %s %s is %s, it does not wait for approval", op.Kind, id, op.Status)
	case action == "resume" && op.Status == cluster.OpProposed:
		return nil, api.Errorf(api.CodeConflict, "'vzcluster plan approve "+id+"' has it carried out", "the %s %s waits for approval", op.Kind, id)
	}
	switch action {
	case "approve":
		if _, _, err := m.store.State().Apply(cluster.SetPlan{Operation: id, Status: cluster.OpRunning}); err != nil {
			return nil, err
		}
		if op.Kind == cluster.OpDrain {
			if err := m.cordon(ctx, op.Host); err != nil {
				return nil, err
			}
		}
		return applyHere[*cluster.Operation](ctx, m, cluster.SetPlan{Operation: id, Status: cluster.OpRunning})
	case "resume":
		return applyHere[*cluster.Operation](ctx, m, cluster.SetPlan{Operation: id, Status: cluster.OpRunning})
	case "pause":
		return applyHere[*cluster.Operation](ctx, m, cluster.SetPlan{Operation: id, Status: cluster.OpPaused})
	case "reject":
		return applyHere[*cluster.Operation](ctx, m, cluster.EndPlan{Operation: id, Status: cluster.OpAborted, Error: "rejected", At: time.Now().UTC()})
	case "stop":
		return m.stopPlan(ctx, op)
	}
	return nil, api.Errorf(api.CodeUsage, "use approve, reject, pause, resume or stop", "%q cannot be done to a plan", action)
}

func pastOf(action string) string {
	if strings.HasSuffix(action, "e") {
		return action + "d"
	}
	return map[string]string{"stop": "stopped"}[action] + map[string]string{"reject": "rejected"}[action]
}

// stopPlan ends a plan: the moves that are under way are finished, no other one begins.
func (m *member) stopPlan(ctx context.Context, op *cluster.Operation) (any, error) {
	if op.Final() {
		return op, nil
	}
	left := 0
	for _, step := range op.Steps {
		if step.Status == "" {
			left++
		}
	}
	return applyHere[*cluster.Operation](ctx, m, cluster.EndPlan{
		Operation: op.ID, Status: cluster.OpAborted, Error: fmt.Sprintf("stopped by the user; %d of %d moves were not begun", left, len(op.Steps)), At: time.Now().UTC(),
	})
}
