package agent

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// vip asks for a container before which those of priority 0 make room.
func vip(name string, ram int64) api.CreateRequest {
	req := like(name, 0, ram)
	req.Rules.Priority, req.Start = 10, true
	return req
}

// full makes two hosts of 1 GiB that have 300 and 600 MiB free, so that nothing of 700 MiB fits before a move.
func full(t *testing.T, l *testCluster) {
	t.Helper()
	l.grow(2)
	for name, r := range map[string]struct {
		host string
		ram  int64
	}{"small": {"host1", 300 << 20}, "big": {"host1", 400 << 20}, "other": {"host2", 400 << 20}} {
		_, err := l.hosts[0].Create(t.Context(), api.CreateRequest{Name: name, Template: "tiny", Host: r.host, Limits: cluster.Limits{RAM: r.ram}, Start: true})
		must(t, err)
	}
}

func (h *testHost) preemptions() (plans []cluster.Operation) {
	ops, err := h.Operations(h.t.Context())
	must(h.t, err)
	for _, op := range ops {
		if op.Kind == cluster.OpPreempt {
			plans = append(plans, op)
		}
	}
	return plans
}

func (h *testHost) onceOn(name string) (c api.Container) {
	h.t.Helper()
	eventually(h.t, name+" runs", func() (err error) {
		if c, err = h.Container(h.t.Context(), name); err == nil && c.State != cluster.Running {
			err = fmt.Errorf("it is %s: %s", c.State, c.Detail)
		}
		return err
	})
	return c
}

func TestPreempt(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	full(t, l)
	ctx, h := t.Context(), l.hosts[1]
	wait := vip("polite", 700<<20)
	wait.Rules.Preempt = cluster.PreemptNever
	_, err := h.Create(ctx, wait)
	wantCode(t, err, api.CodeNoFit)
	equal := vip("equal", 700<<20)
	equal.Rules.Priority = 0
	_, err = h.Create(ctx, equal)
	wantCode(t, err, api.CodeNoFit)

	p, err := h.Place(ctx, vip("vip", 700<<20))
	must(t, err)
	if p.Host != "" || p.RoomOn != "host1" && p.RoomOn != "host2" || len(p.Moves) != 1 || !strings.Contains(p.Why, "makes room") && !strings.Contains(p.Why, "make room") {
		t.Errorf("place says %+v", p)
	}
	c, err := h.Create(ctx, vip("vip", 700<<20))
	must(t, err)
	if !c.Waits() {
		t.Errorf("it is on %s at once", c.Host)
	}
	c = h.onceOn("vip")
	plans := h.preemptions()
	if len(plans) != 1 || len(plans[0].Steps) != 1 || c.Host != plans[0].Host {
		t.Fatalf("it is on %s after %+v", c.Host, plans)
	}
	if op := h.finished(plans[0].ID); op.Status != cluster.OpDone || op.Error != "" {
		t.Errorf("the plan is %s: %s", op.Status, op.Error)
	}
	for _, name := range []string{"small", "big", "other"} {
		if c := h.onceOn(name); c.Restarted != 0 {
			t.Errorf("%s was restarted", name)
		}
	}
	if n := l.engines["host1"].count() + l.engines["host2"].count(); n != 5 { // four containers, and the fake starts what it moves
		t.Errorf("%d starts, so something was stopped", n)
	}
	// A batch is made as a whole or not at all.
	_, err = h.CreateMany(ctx, api.CreateManyRequest{Containers: []api.CreateRequest{vip("a", 600<<20), vip("b", 600<<20)}})
	wantCode(t, err, api.CodeNoFit)
}

// While room is made, the container says so, nobody else gets the room, a new leader goes on, and a container that is gone
// stops the rest.
func TestPreemptionSurvives(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	var hold atomic.Bool
	held := make(chan struct{}, 100)
	l.fail = func(*cluster.Operation) string {
		for hold.Load() {
			select {
			case held <- struct{}{}:
			default:
			}
			time.Sleep(10 * time.Millisecond)
		}
		return ""
	}
	defer hold.Store(false)
	l.grow(3)
	eventually(t, "three voters", func() error { return threeVoters(l.hosts[0]) })
	leader, f := l.leader(), l.followers()
	ctx := t.Context()
	_, err := f[0].SetHostState(ctx, leader.cfg.Name, cluster.HostCordoned)
	must(t, err)
	for i, ram := range []int64{300 << 20, 300 << 20, 300 << 20} {
		_, err := f[0].Create(ctx, api.CreateRequest{Name: fmt.Sprintf("web%d", i), Template: "tiny", Host: f[min(i, 1)].cfg.Name, Limits: cluster.Limits{RAM: ram}, Start: true})
		must(t, err)
	}
	hold.Store(true)
	_, err = f[0].Create(ctx, vip("vip", 1000<<20))
	must(t, err)
	<-held // the move is under way
	plan := f[0].preemptions()[0]
	eventually(t, "it says what it waits for", func() error {
		c, err := f[0].Container(ctx, "vip")
		if err == nil && !strings.Contains(c.Detail, "waits for plan "+plan.ID+" that makes room on "+plan.Host) {
			err = fmt.Errorf("it says %q", c.Detail)
		}
		return err
	})
	if _, err := f[0].Create(ctx, like("thief", 0, 300<<20)); api.CodeOf(err) != api.CodeNoFit {
		t.Errorf("another container got the room: %v", err)
	}
	leader.stop()
	hold.Store(false)
	if op := f[1].finished(plan.ID); op.Status != cluster.OpDone || op.Error != "" {
		t.Errorf("under the new leader the plan is %s: %s", op.Status, op.Error)
	}
	if c := f[1].onceOn("vip"); c.Host != plan.Host {
		t.Errorf("it is on %s, room was made on %s", c.Host, plan.Host)
	}
}

func TestPreemptionGoesStale(t *testing.T) {
	l, held, release := heldMoves(t, 0)
	for i, host := range []string{"host1", "host1", "host2"} {
		_, err := l.hosts[0].Create(t.Context(), api.CreateRequest{
			Name: fmt.Sprintf("web%d", i), Template: "tiny", Host: host, Limits: cluster.Limits{RAM: 300 << 20}, Start: true,
		})
		must(t, err)
	}
	h := l.hosts[0]
	_, err := h.Create(t.Context(), vip("vip", 1000<<20))
	must(t, err)
	<-held
	_, err = h.Action(t.Context(), "vip", "destroy", api.ActionRequest{Force: true})
	must(t, err)
	close(release)
	op := h.finished(h.preemptions()[0].ID)
	if op.Status != cluster.OpDone || !strings.Contains(op.Error, "is gone") {
		t.Errorf("the plan is %s: %s", op.Status, op.Error)
	}
}

// What failed is not tried again at once, and what a user has stopped not for long.
func TestPreemptionIsPatient(t *testing.T) {
	s := cluster.NewState()
	if at := mayTryAgain(s, &cluster.Container{ID: 101}); !at.IsZero() {
		t.Errorf("nothing was tried, and yet it may be tried after %s", at)
	}
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	l.fail = func(*cluster.Operation) string { return "the target has no CRIU" }
	full(t, l)
	_, err := l.hosts[0].Create(t.Context(), vip("vip", 700<<20))
	must(t, err)
	eventually(t, "it says when it is tried again", func() error {
		c, err := l.hosts[0].Container(t.Context(), "vip")
		if err == nil && !strings.Contains(c.Detail, "tried again after") {
			err = fmt.Errorf("it says %q", c.Detail)
		}
		return err
	})
	if plans := l.hosts[0].preemptions(); len(plans) != 1 || plans[0].Status != cluster.OpFailed {
		t.Errorf("the plans are %+v", plans)
	}
}
