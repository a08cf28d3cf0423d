package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler"
)

// handleMaintain plans to empty hosts one after the other, to run a hook on each and to fill it again.
func (m *member) handleMaintain(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.PlanRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	width, err := parallel(req)
	if err != nil {
		return nil, err
	}
	if req.Hook != "" && cluster.CheckHook(req.Hook) != nil {
		return nil, cluster.CheckHook(req.Hook)
	}
	s := m.store.State()
	if len(req.Hosts) == 0 {
		for _, h := range s.Hosts() {
			if h.State.Awake() {
				req.Hosts = append(req.Hosts, h.Name)
			}
		}
	}
	var why []string
	plan := scheduler.Plan{}
	for i, host := range req.Hosts {
		if s.Host(host) == nil {
			return nil, notFound("host", host, "vzcluster host ls")
		}
		drain := scheduler.Drain(m.snapshot(""), host)
		plan.Unplaced = append(plan.Unplaced, drain.Unplaced...)
		if len(drain.Unplaced) > 0 {
			why = append(why, drain.Why)
		}
		if i == 0 || req.DryRun {
			plan.Moves = append(plan.Moves, drain.Moves...)
		}
	}
	plan.Why = strings.Join(why, "; ")
	if plan.Why == "" {
		plan.Why = fmt.Sprintf("%s: each is emptied, maintained and filled again, one after the other", strings.Join(req.Hosts, ", "))
	}
	if len(plan.Unplaced) > 0 && !req.DryRun {
		return nil, api.Errorf(api.CodeNoFit, "maintain the other hosts, or look at the plan with --dry-run", "%s", plan.Why)
	}
	op := cluster.Operation{
		ID: newOperationID(), Kind: cluster.OpMaintain, Status: cluster.OpDone, Started: time.Now().UTC(), Width: width, Why: plan.Why, Steps: plan.Moves,
		Round: &cluster.Round{Hosts: req.Hosts, Stage: cluster.RoundDrain, Hook: req.Hook, State: s.Host(req.Hosts[0]).State},
	}
	if req.DryRun {
		op.ID, op.Error = "", plan.Why
		return &op, nil
	}
	if req.Save {
		op.Status = cluster.OpProposed
	}
	return applyHere[*cluster.Operation](r.Context(), m, cluster.BeginPlan{Operation: op})
}

// nextTurn goes on with a maintenance when its steps have ended.
func (m *member) nextTurn(ctx context.Context, plan *cluster.Operation) (goesOn bool, err error) {
	round := *plan.Round
	host := round.Hosts[round.Turn]
	h := m.store.State().Host(host)
	if h == nil {
		return false, m.endPlan(ctx, plan.ID, cluster.OpFailed, "there is no host "+host+" any more")
	}
	switch round.Stage {
	case cluster.RoundDrain:
		return m.emptied(ctx, plan, round, h)
	case cluster.RoundHook:
		return m.runTurnHook(ctx, plan, round)
	case cluster.RoundWait:
		if err := m.returned(ctx, plan.ID, host); err != nil || !m.runs(plan.ID) {
			return false, err
		}
		if err := m.setHostState(ctx, host, round.State, ""); err != nil {
			return false, err
		}
		round.Stage = cluster.RoundFill
		return true, m.extend(ctx, plan, m.wayBack(plan, round), &round)
	}
	round.Turn++
	if round.Turn == len(round.Hosts) {
		return false, m.endPlan(ctx, plan.ID, cluster.OpDone, withdrawnText(plan))
	}
	next := m.store.State().Host(round.Hosts[round.Turn])
	if next == nil {
		return false, m.endPlan(ctx, plan.ID, cluster.OpFailed, "there is no host "+round.Hosts[round.Turn]+" any more")
	}
	round.Stage, round.First, round.State, round.Boot = cluster.RoundDrain, len(plan.Steps), next.State, ""
	return true, m.extend(ctx, plan, nil, &round)
}

// emptied cordons the host whose turn it is and drains it; when it is empty its hook is next.
func (m *member) emptied(ctx context.Context, plan *cluster.Operation, round cluster.Round, h *cluster.Host) (bool, error) {
	if err := m.cordon(ctx, h.Name); err != nil {
		return false, err
	}
	if left := m.store.State().On(h.Name); len(left) > 0 {
		drain := scheduler.Drain(m.snapshot(""), h.Name)
		if len(drain.Unplaced) > 0 || len(drain.Moves) == 0 || replans(plan) > maxReplans*len(round.Hosts) {
			return false, m.endPlan(ctx, plan.ID, cluster.OpFailed, drain.Why+"; it stays cordoned")
		}
		return true, m.extend(ctx, plan, drain.Moves, nil)
	}
	if !m.quorumWithout(h.Name) {
		return false, m.pauseFor(ctx, plan, "another voter is down: without "+h.Name+" there would be no quorum")
	}
	if round.Hook == "" {
		round.Stage = cluster.RoundWait
		if err := m.extend(ctx, plan, nil, &round); err != nil {
			return false, err
		}
		return false, m.pauseFor(ctx, plan, h.Name+" is empty; 'vzcluster plan resume' when it is maintained")
	}
	var boot string
	if err := m.peers.call(ctx, http.MethodGet, h.Name, "/v1/local/boot", nil, &boot); err != nil {
		return false, fmt.Errorf("host %s does not say which kernel runs: %w", h.Name, err)
	}
	round.Stage, round.Boot = cluster.RoundHook, boot
	return true, m.extend(ctx, plan, nil, &round)
}

func (m *member) pauseFor(ctx context.Context, plan *cluster.Operation, why string) error {
	m.log.Info("a plan pauses", "operation", plan.ID, "why", why)
	_, err := m.apply(ctx, cluster.SetPlan{Operation: plan.ID, Status: cluster.OpPaused, Why: why})
	return err
}

// quorumWithout reports whether the living voters without a host are a quorum.
func (m *member) quorumWithout(host string) bool {
	voters, alive := 0, 0
	for _, h := range m.store.State().Hosts() {
		if !h.Voter {
			continue
		}
		voters++
		if h.Name != host && m.alive(h.Name) {
			alive++
		}
	}
	return alive > voters/2 || voters <= 1
}

// turnHook asks a host to run a hook once for a turn.
type turnHook struct {
	Key  string `json:"key"` // the same for each attempt of the same turn
	Hook string `json:"hook"`
	Boot string `json:"boot"` // the kernel that ran when the turn came: with another one the hook has run
}

// runTurnHook has the host run its hook. When the host goes down by it, that is its answer.
func (m *member) runTurnHook(ctx context.Context, plan *cluster.Operation, round cluster.Round) (bool, error) {
	host := round.Hosts[round.Turn]
	if host == m.name && m.store.StepDown() == nil { // somebody else goes on when this host goes down by it
		return false, errors.New("this host is maintained, another one leads meanwhile")
	}
	ask := turnHook{Key: fmt.Sprintf("%s-%d", plan.ID, round.Turn), Hook: round.Hook, Boot: round.Boot}
	err := m.peers.call(ctx, http.MethodPost, host, "/v1/local/turn", ask, nil)
	var answer *api.Error
	if err != nil && errors.As(err, &answer) && ctx.Err() == nil {
		return false, m.endPlan(ctx, plan.ID, cluster.OpFailed, fmt.Sprintf("the hook failed on %s, which stays cordoned: %v", host, err))
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	round.Stage = cluster.RoundWait
	return true, m.extend(ctx, plan, nil, &round)
}

// handleTurn runs a hook for a maintenance, once for each turn, however often it is asked.
func (m *member) handleTurn(_ http.ResponseWriter, r *http.Request) (any, error) {
	var ask turnHook
	if err := readJSON(r, &ask); err != nil {
		return nil, err
	}
	if ask.Boot != m.rec.boot {
		return nil, nil // it rebooted: that was the hook
	}
	_, err, _ := m.fetch.Do("turn "+ask.Key, func() (any, error) {
		if _, did := m.turns.Load(ask.Key); did {
			return nil, nil
		}
		err := m.hook(m.ctx, ask.Hook, "maintain", m.name)
		if err == nil {
			m.turns.Store(ask.Key, true)
			return nil, nil
		}
		return nil, api.Errorf(api.CodeFailed, "", "%v", err)
	})
	return nil, err
}

func (m *member) handleBoot(http.ResponseWriter, *http.Request) (any, error) { return m.rec.boot, nil }

// returned waits until a host answers again, or its plan runs no more.
func (m *member) returned(ctx context.Context, plan, host string) error {
	for m.runs(plan) {
		if m.alive(host) && m.answers(ctx, host) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * m.timing.Retry):
		}
	}
	return nil
}

// wayBack are the moves that bring what was on a host back to it.
func (m *member) wayBack(plan *cluster.Operation, round cluster.Round) []cluster.Move {
	host := round.Hosts[round.Turn]
	last := map[int]cluster.Move{}
	var order []int
	for _, step := range plan.Steps[round.First:] {
		if step.Status == cluster.StepDone && step.From == host {
			last[step.Container] = step
			order = append(order, step.Container)
		}
	}
	s := m.store.State()
	var moves []cluster.Move
	for _, id := range order {
		if c := s.Container(id); c != nil && c.Host == last[id].To {
			moves = append(moves, cluster.Move{Container: id, Name: c.Name, From: c.Host, To: host, Why: host + " is back from its maintenance", Mode: last[id].Mode})
		}
	}
	return moves
}

// defaultHooks is where a host's hooks are.
const defaultHooks = "/etc/vzcluster/hooks"
