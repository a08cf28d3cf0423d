package agent

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate"
)

// What keeps a container from being moved live is known to everybody before anyone wants to move it; plans reckon with
// it; and what stays is stopped and moved only if that is asked for.
func TestVerdictsAreKeptAndPlannedWith(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	var blocked atomic.Bool
	var looks atomic.Int64
	blocked.Store(true)
	l.found = func(int) []api.Blocker {
		if n := looks.Add(1); blocked.Load() { // each look sees another process of that name
			return []api.Blocker{{Process: fmt.Sprintf("%d dockerd", n), What: "it has a BPF program open", Remedy: "stop it"}}
		}
		return []api.Blocker{}
	}
	l.grow(2)
	h := l.hosts[0]
	h.create("web", 64<<20)
	movable := func(want bool) func() error {
		return func() error {
			for _, h := range l.hosts {
				c := h.agent.State().Find("web")
				if c == nil || c.Verdict == nil || (c.Immovable() == "") != want {
					return fmt.Errorf("%s has %+v", h.cfg.Name, c)
				}
			}
			return nil
		}
	}
	eventually(t, "the verdict on every host", movable(false))
	c := h.agent.State().Find("web")
	verdict, seen := c.Verdict, looks.Load()
	eventually(t, "more looks", func() error {
		if looks.Load() < seen+3 {
			return fmt.Errorf("%d looks", looks.Load())
		}
		return nil
	})
	if now := h.agent.State().Find("web"); now.Verdict != verdict {
		t.Errorf("the same verdict was reported again: %+v", now.Verdict)
	}
	if _, err := h.Drain(t.Context(), c.Host, api.PlanRequest{}); err == nil || !strings.Contains(err.Error(), "web: it cannot be moved live") {
		t.Errorf("the drain was refused with %v", err)
	}
	plan, err := h.Drain(t.Context(), c.Host, api.PlanRequest{DryRun: true, Offline: true})
	must(t, err)
	if len(plan.Steps) != 1 || plan.Steps[0].Mode != cluster.ModeNearLive || !strings.Contains(plan.Steps[0].Why, "dockerd") {
		t.Errorf("with offline moves the plan is %+v", plan.Steps)
	}
	op, err := h.Drain(t.Context(), c.Host, api.PlanRequest{Offline: true})
	must(t, err)
	op = h.finished(op.ID)
	if m, err := h.Operation(t.Context(), op.Steps[0].Operation, 0); err != nil || m.Mode != cluster.ModeNearLive || op.Status != cluster.OpDone {
		t.Errorf("its move was %+v (%v), the drain %s: %s", m, err, op.Status, op.Error)
	}
	blocked.Store(false)
	eventually(t, "what was in the way is gone", movable(true))
}

// A command that exec runs for a moment does not reach the replicated state.
func TestAPassingBlockerIsNotReported(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	var looks atomic.Int64
	l.found = func(int) []api.Blocker {
		if looks.Add(1)%2 == 1 {
			return []api.Blocker{{Process: "7 ls", What: "it was started from outside", Remedy: "end it"}}
		}
		return []api.Blocker{}
	}
	l.grow(1)
	l.hosts[0].create("web", 64<<20)
	eventually(t, "some looks", func() error {
		c := l.hosts[0].agent.State().Find("web")
		if c != nil && c.Immovable() != "" {
			t.Fatalf("it was reported: %s", c.Immovable())
		}
		if looks.Load() < 6 {
			return fmt.Errorf("%d looks", looks.Load())
		}
		return nil
	})
}

// What is known of a container is renewed when something happens to it, long before the next regular look.
func TestVerdictsFollowEvents(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}, survey: time.Hour}
	var bpf atomic.Bool
	l.found = func(int) []api.Blocker {
		if bpf.Load() {
			return []api.Blocker{{Process: "7 trace", What: "it has a BPF program open", Remedy: "stop it"}}
		}
		for _, e := range l.engines {
			if e.sessions() > 0 {
				return []api.Blocker{{Process: "9 hang", What: "it was started from outside", Remedy: "end it", Session: true}}
			}
		}
		return []api.Blocker{}
	}
	l.fail = func(*cluster.Operation) string { bpf.Store(true); return "criu: Can't dump" }
	l.grow(2)
	h := l.hosts[0]
	h.create("web", 64<<20)
	inTheWay := func(want string) func() error {
		return func() error {
			c := h.agent.State().Find("web")
			if c == nil || c.Verdict == nil || !strings.Contains(c.Immovable(), want) || want == "" && c.Immovable() != "" {
				return fmt.Errorf("web is %+v", c)
			}
			return nil
		}
	}
	eventually(t, "a start is noticed", inTheWay(""))
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = h.Exec(ctx, "web", api.Exec{Args: []string{"hang"}}, api.Streams{Stdout: io.Discard, Stderr: io.Discard})
	}()
	eventually(t, "a session of exec is noticed", inTheWay("9 hang"))
	end()
	<-ended
	eventually(t, "its end is noticed", inTheWay(""))
	op, err := h.Migrate(t.Context(), "web", api.MigrateRequest{})
	must(t, err)
	if op = h.finished(op.ID); op.Status != cluster.OpAborted {
		t.Fatalf("the migration is %s", op.Status)
	}
	eventually(t, "what a failed migration met is noticed", inTheWay("7 trace"))
}

// A target that cannot take a container says so before anything begins; a log of CRIU is had from both hosts.
func TestTheTargetIsAsked(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	l.unfit = func(c *cluster.Container, o migrate.Offer) []migrate.Blocker {
		if !o.Live || o.Need.RAM != int64(c.ID) { // the need is that of the owner's copy
			return nil
		}
		return []migrate.Blocker{{What: "the CPU of it lacks avx2", Remedy: "choose another host"}}
	}
	l.found = func(int) []api.Blocker { return []api.Blocker{} }
	l.grow(2)
	h := l.hosts[0]
	h.create("web", 64<<20)
	eventually(t, "the container runs", func() error {
		if c := h.agent.State().Find("web"); c == nil || c.State != cluster.Running {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
	v, err := h.Check(t.Context(), "web", api.MigrateRequest{})
	must(t, err)
	if v.OK || len(v.Blockers) != 1 || v.To == "" || !strings.Contains(v.Blockers[0].What, "avx2") {
		t.Errorf("the check says %+v", v)
	}
	_, err = h.Migrate(t.Context(), "web", api.MigrateRequest{})
	if api.CodeOf(err) != api.CodeRefused || !strings.Contains(err.Error(), "avx2") || !strings.Contains(err.Error(), "choose another host") {
		t.Errorf("the migration was refused with %v", err)
	}
	if n := len(h.agent.State().Operations()); n != 0 {
		t.Errorf("%d operations were begun", n)
	}
	for _, r := range []api.MigrateRequest{{Mode: "warm"}, {Mode: "LIVE", CheckOnly: true}, {MaxDowntimeMS: -1}} {
		if _, err := h.Migrate(t.Context(), "web", r); api.CodeOf(err) != api.CodeUsage {
			t.Errorf("%+v was answered with %v", r, err)
		}
	}
	op, err := h.Migrate(t.Context(), "web", api.MigrateRequest{Mode: cluster.ModeOffline})
	must(t, err)
	op = h.finished(op.ID)
	for _, h := range l.hosts { // whoever is asked, the source answers
		w, err := h.Watch(t.Context(), op.ID, 0)
		if err != nil || w.Progress == nil || w.Progress.Stages[0].Name != op.ID+" on "+op.From {
			t.Errorf("asked on %s, it is %+v (%v)", h.cfg.Name, w.Progress, err)
		}
	}
	var log strings.Builder
	must(t, h.OperationLog(t.Context(), op.ID, &log))
	for _, host := range []string{op.From, op.To} {
		if !strings.Contains(log.String(), "== "+host+": dump.log ==\nError of "+op.ID+" on "+host) {
			t.Errorf("the log of %s is not in %q", host, log.String())
		}
	}
	if err := h.OperationLog(t.Context(), "../x", &log); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("the log of nothing: %v", err)
	}
}
