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

// finished waits for an operation's end.
func (h *testHost) finished(id string) cluster.Operation {
	h.t.Helper()
	var op cluster.Operation
	eventually(h.t, "operation "+id+" ends", func() (err error) {
		op, err = h.Operation(h.t.Context(), id, 5*time.Second)
		if err == nil && !op.Final() {
			err = fmt.Errorf("it is %s", op.Status)
		}
		return err
	})
	return op
}

func TestMigrate(t *testing.T) {
	l, hosts := newCluster(t, 2)
	c := hosts[0].create("web", 64<<20)
	op, err := hosts[1].Migrate(t.Context(), "web", api.MigrateRequest{})
	must(t, err)
	op = hosts[1].finished(op.ID)
	if op.Status != cluster.OpDone || op.To == c.Host || op.Result == nil {
		t.Fatalf("the migration is %+v", op)
	}
	now, err := hosts[0].Container(t.Context(), "web")
	must(t, err)
	if now.Host != op.To || now.Generation != c.Generation+1 || now.LastMove == nil {
		t.Errorf("after the move: %+v", now)
	}
	if !l.engines[op.To].runs(c.ID) || l.engines[op.From].runs(c.ID) {
		t.Error("it does not run on the target alone")
	}
	// The new owner has adopted it, and did not start it again.
	_, err = hosts[0].Action(t.Context(), "web", "restart", api.ActionRequest{})
	must(t, err)
	if got := l.engines[op.To].count(); got != 2 {
		t.Errorf("the target has started it %d times, want the move and the restart", got)
	}

	v, err := hosts[0].Check(t.Context(), "web", api.MigrateRequest{})
	must(t, err)
	if !v.OK || v.To != c.Host {
		t.Errorf("the check says %+v", v)
	}
	_, err = hosts[0].Migrate(t.Context(), "web", api.MigrateRequest{To: op.To})
	wantCode(t, err, api.CodeConflict)
	_, err = hosts[0].Migrate(t.Context(), "web", api.MigrateRequest{To: "none"})
	wantCode(t, err, api.CodeNotFound)
}

func TestDrain(t *testing.T) {
	_, hosts := newCluster(t, 3)
	for i := range 6 {
		hosts[0].create(fmt.Sprintf("web%d", i), 64<<20)
	}
	ctx := t.Context()
	plan, err := hosts[1].Drain(ctx, "host2", api.PlanRequest{DryRun: true})
	must(t, err)
	if len(plan.Steps) != 2 || plan.ID != "" {
		t.Errorf("the plan has %d steps and id %q, want two moves and no record", len(plan.Steps), plan.ID)
	}
	op, err := hosts[1].Drain(ctx, "host2", api.PlanRequest{})
	must(t, err)
	op = hosts[2].finished(op.ID)
	if op.Status != cluster.OpDone {
		t.Fatalf("the drain is %s: %s", op.Status, op.Error)
	}
	all, err := hosts[0].Hosts(ctx)
	must(t, err)
	for _, h := range all {
		if h.Name == "host2" && (h.Containers != 0 || h.State != cluster.HostCordoned) {
			t.Errorf("after the drain: %d containers, %s", h.Containers, h.State)
		}
	}
	_, err = hosts[0].SetHostState(ctx, "host2", cluster.HostActive)
	must(t, err)
	_, err = hosts[0].Drain(ctx, "none", api.PlanRequest{})
	wantCode(t, err, api.CodeNotFound)

	op, err = hosts[0].Consolidate(ctx, api.PlanRequest{})
	must(t, err)
	if op = hosts[0].finished(op.ID); op.Status != cluster.OpDone {
		t.Fatalf("the consolidation is %s: %s", op.Status, op.Error)
	}
	all, err = hosts[0].Hosts(ctx)
	must(t, err)
	empty := 0
	for _, h := range all {
		if h.Containers == 0 {
			empty++
		}
	}
	if empty != 2 {
		t.Errorf("%d hosts are empty after the consolidation, want two", empty)
	}
}

func TestFailedMoveStopsThePlan(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	l.fail = func(*cluster.Operation) string { return "the target has no CRIU" }
	l.grow(2)
	l.hosts[0].create("web", 64<<20)
	c, err := l.hosts[0].Container(t.Context(), "web")
	must(t, err)
	op, err := l.hosts[0].Drain(t.Context(), c.Host, api.PlanRequest{})
	must(t, err)
	op = l.hosts[0].finished(op.ID)
	if op.Status != cluster.OpFailed || !strings.Contains(op.Error, "no CRIU") || op.Steps[0].Status != stepFailed {
		t.Errorf("the drain is %s: %q, its step %s", op.Status, op.Error, op.Steps[0].Status)
	}
	if !l.engines[c.Host].runs(c.ID) {
		t.Error("the container does not run where it was")
	}
}

func TestNewLeaderTakesUpThePlan(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	var hold atomic.Bool
	hold.Store(true)
	held := make(chan struct{}, 10)
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
	leader := l.leader()
	f := l.followers()
	for i := range 2 {
		_, err := f[0].Create(t.Context(), api.CreateRequest{
			Name: fmt.Sprintf("web%d", i), Template: "tiny", Host: f[0].cfg.Name, Limits: cluster.Limits{RAM: 64 << 20}, Start: true,
		})
		must(t, err)
	}
	_, err := f[0].SetHostState(t.Context(), leader.cfg.Name, cluster.HostCordoned) // so that nothing goes there
	must(t, err)
	op, err := f[0].Drain(t.Context(), f[0].cfg.Name, api.PlanRequest{})
	must(t, err)
	<-held // the first move is under way
	leader.stop()
	hold.Store(false)
	op = f[1].finished(op.ID)
	if op.Status != cluster.OpDone {
		t.Errorf("under the new leader the drain is %s: %s", op.Status, op.Error)
	}
}
