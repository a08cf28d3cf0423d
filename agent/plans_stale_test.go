package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// createOn creates a running container on a host, through an election if one is held just then.
func (h *testHost) createOn(host, name string, ram int64) {
	h.t.Helper()
	eventually(h.t, name+" runs", func() error {
		if c, err := h.Container(h.t.Context(), name); err == nil && c.State == cluster.Running {
			return nil
		}
		_, err := h.Create(h.t.Context(), api.CreateRequest{Name: name, Template: "tiny", Host: host, Limits: cluster.Limits{RAM: ram}, Start: true})
		return err
	})
}

// TestPlanGoneStale: while the first move of a drain is under way, one of its containers is destroyed and another one grows.
// Both moves are withdrawn with their reasons, a second drain of the host is refused, and what could be moved is.
func TestPlanGoneStale(t *testing.T) {
	l, held, release := heldMoves(t, 3)
	h, ctx := l.hosts[0], t.Context()
	op, err := h.Drain(ctx, "host1", api.PlanRequest{Parallel: 1})
	must(t, err)
	<-held
	first, gone, grown := op.Steps[0].Name, op.Steps[1].Name, op.Steps[2].Name
	_, err = h.Drain(ctx, "host1", api.PlanRequest{})
	wantCode(t, err, api.CodeConflict)
	if !strings.Contains(err.Error(), op.ID) {
		t.Errorf("the refusal does not name the plan: %v", err)
	}
	_, err = h.Rebalance(ctx, api.PlanRequest{Steps: []cluster.Move{{Container: op.Steps[2].Container, Name: grown, From: "host1", To: "host2"}}})
	wantCode(t, err, api.CodeConflict)
	_, err = h.Action(ctx, gone, "destroy", api.ActionRequest{Now: true, Force: true})
	must(t, err)
	rest := int64(700 << 20)
	h.createOn("host2", "big", 600<<20)
	_, err = h.Set(ctx, grown, api.SetRequest{RAM: &rest})
	must(t, err)
	close(release)
	op = h.finished(op.ID)
	if op.Status != cluster.OpFailed || !strings.Contains(op.Error, grown+" stays") {
		t.Errorf("the drain is %s: %s", op.Status, op.Error)
	}
	for _, s := range op.Steps[:3] {
		want := map[string]string{first: "", gone: "destroyed gone", grown: "memory"}[s.Name]
		if (want == "") != (s.Status == cluster.StepDone) || want != "" && (s.Status != cluster.StepWithdrawn || !anyOf(s.Reason, want)) {
			t.Errorf("the move of %s is %s: %s", s.Name, s.Status, s.Reason)
		}
	}
	for name, host := range map[string]string{first: "host2", grown: "host1"} {
		if c, err := h.Container(ctx, name); err != nil || c.Host != host || c.State != cluster.Running || c.Operation != "" {
			t.Errorf("%s is %s on %s, %v", name, c.State, c.Host, err)
		}
	}
}

func anyOf(text, words string) bool {
	for _, w := range strings.Fields(words) {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}

// TestHostDiesBeforeItsDrain: the moves of a saved plan are withdrawn, the drain says that it is down, and what is on it goes on there.
func TestHostDiesBeforeItsDrain(t *testing.T) {
	l, hosts := newCluster(t, 3)
	eventually(t, "three voters", func() error { return threeVoters(hosts[0]) })
	follower, ctx := l.followers()[0], t.Context()
	dying := follower.cfg.Name
	other := l.leader()
	for i := range 2 {
		other.createOn(dying, fmt.Sprintf("web%d", i), 64<<20)
	}
	saved, err := other.Drain(ctx, dying, api.PlanRequest{Save: true})
	must(t, err)
	follower.stop()
	eventually(t, "it is seen as down", func() error {
		all, err := other.Hosts(ctx)
		for _, h := range all {
			if h.Name == dying && h.Alive {
				err = errors.Join(err, errors.New("it looks alive"))
			}
		}
		return err
	})
	eventually(t, "the plan is approved", func() error { // the loss of a voter may cost an election
		_, err := other.ActOnPlan(ctx, saved.ID, "approve")
		return err
	})
	op := other.finished(saved.ID)
	if op.Status != cluster.OpFailed || !strings.Contains(op.Error, "down") {
		t.Errorf("the drain is %s: %s", op.Status, op.Error)
	}
	for _, s := range op.Steps {
		if s.Status != cluster.StepWithdrawn || !strings.Contains(s.Reason, dying) {
			t.Errorf("the move of %s is %s: %s", s.Name, s.Status, s.Reason)
		}
	}
	follower.start()
	eventually(t, "its containers are as they were", func() error {
		for i := range 2 {
			c, err := other.Container(ctx, fmt.Sprintf("web%d", i))
			if err != nil || c.Host != dying || c.State != cluster.Running || c.Operation != "" {
				return fmt.Errorf("%s is %s on %s, %w", c.Name, c.State, c.Host, errors.Join(err))
			}
		}
		return nil
	})
}

// TestWantedMovesGoByAThirdHost: two containers that have no room beside each other change places.
func TestWantedMovesGoByAThirdHost(t *testing.T) {
	_, hosts := newCluster(t, 3)
	h, ctx := hosts[0], t.Context()
	eventually(t, "three voters", func() error { return threeVoters(h) })
	h.createOn("host1", "a", 700<<20)
	h.createOn("host2", "b", 600<<20)
	var wanted []cluster.Move
	for name, to := range map[string]string{"a": "host2", "b": "host1"} {
		c, err := h.Container(ctx, name)
		must(t, err)
		wanted = append(wanted, cluster.Move{Container: c.ID, Name: name, From: c.Host, To: to, Why: "I want it there"})
	}
	op, err := h.Consolidate(ctx, api.PlanRequest{Steps: wanted})
	must(t, err)
	op = h.finished(op.ID)
	if op.Status != cluster.OpDone || len(op.Steps) != 3 || op.Steps[0].To != "host3" || op.Steps[0].Cost.Bytes == 0 {
		t.Errorf("the plan is %s (%s): %+v", op.Status, op.Error, op.Steps)
	}
	for name, host := range map[string]string{"a": "host2", "b": "host1"} {
		if c, err := h.Container(ctx, name); err != nil || c.Host != host {
			t.Errorf("%s is on %s, %v", name, c.Host, err)
		}
	}
}

// TestNewContainersKeepTheClusterSafe: with the policy survive one that would leave too little room waits, says for which host's
// loss, and is placed when that is wanted no more.
func TestNewContainersKeepTheClusterSafe(t *testing.T) {
	_, hosts := newCluster(t, 2)
	h, ctx := hosts[0], t.Context()
	h.createOn("host1", "a", 500<<20)
	_, err := h.WriteSettings(ctx, api.Settings{Policy: cluster.Policy{Survive: true}})
	must(t, err)
	ask := api.CreateRequest{Name: "b", Template: "tiny", Limits: cluster.Limits{RAM: 600 << 20}, Start: true}
	_, err = h.Create(ctx, ask)
	wantCode(t, err, api.CodeNoFit)
	if !strings.Contains(err.Error(), "could not survive the loss of host") {
		t.Errorf("the refusal is %v", err)
	}
	ask.WaitForRoom = true
	c, err := h.Create(ctx, ask)
	must(t, err)
	if c.Host != "" || !strings.Contains(c.Detail, "could not survive the loss of host") {
		t.Errorf("it waits on %q: %s", c.Host, c.Detail)
	}
	_, err = h.WriteSettings(ctx, api.Settings{})
	must(t, err)
	eventually(t, "it runs", func() error {
		c, err := h.Container(ctx, "b")
		if err == nil && c.State != cluster.Running {
			err = fmt.Errorf("it is %s: %s", c.State, c.Detail)
		}
		return err
	})
}
