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
	if op.Status != cluster.OpFailed || !strings.Contains(op.Error, "no CRIU") || op.Steps[0].Status != cluster.StepFailed {
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

// heldMoves makes two hosts with running containers on the first one. Each move says on held that it is under way, and waits
// until release is closed.
func heldMoves(t *testing.T, containers int) (l *testCluster, held, release chan struct{}) {
	t.Helper()
	l = &testCluster{t: t, engines: map[string]*fakeEngine{}}
	held, release = make(chan struct{}, 10), make(chan struct{})
	l.fail = func(*cluster.Operation) string {
		held <- struct{}{}
		<-release
		return ""
	}
	l.grow(2)
	for i := range containers {
		_, err := l.hosts[0].Create(t.Context(), api.CreateRequest{
			Name: fmt.Sprintf("web%d", i), Template: "tiny", Host: "host1", Limits: cluster.Limits{RAM: 64 << 20}, Start: true,
		})
		must(t, err)
	}
	return l, held, release
}

// TestPlanMovesInParallel: two moves are under way at once, as the plan is two wide, and a width out of bounds is refused.
func TestPlanMovesInParallel(t *testing.T) {
	l, held, release := heldMoves(t, 3)
	h, ctx := l.hosts[0], t.Context()
	_, err := h.Drain(ctx, "host1", api.PlanRequest{Parallel: api.MaxParallel + 1})
	wantCode(t, err, api.CodeUsage)
	op, err := h.Drain(ctx, "host1", api.PlanRequest{Parallel: 2})
	must(t, err)
	for range 2 { // neither has ended
		select {
		case <-held:
		case <-time.After(patience):
			close(release)
			t.Fatal("the second move waits for the first")
		}
	}
	running := 0
	for _, o := range operations(t, h) {
		if o.Kind == cluster.OpMigrate && !o.Final() {
			running++
		}
	}
	if running != 2 {
		t.Errorf("%d moves are under way", running)
	}
	close(release)
	eventually(t, "the plan ends", func() error {
		now, err := h.Operation(ctx, op.ID, 0)
		if err == nil && now.Status != cluster.OpDone {
			err = fmt.Errorf("it is %s: %s", now.Status, now.Error)
		}
		return err
	})
}

func operations(t *testing.T, h *testHost) []cluster.Operation {
	t.Helper()
	all, err := h.Operations(t.Context())
	must(t, err)
	return all
}

// TestPlanIsStoppedHalfWay: the move under way is finished, the other one never begins.
func TestPlanIsStoppedHalfWay(t *testing.T) {
	l, held, release := heldMoves(t, 2)
	h, ctx := l.hosts[0], t.Context()
	op, err := h.Drain(ctx, "host1", api.PlanRequest{Parallel: 1})
	must(t, err)
	<-held // the first move is under way
	op, err = l.hosts[1].Stop(ctx, op.ID)
	must(t, err)
	if op.Status != cluster.OpAborted || !strings.Contains(op.Error, "of 2 moves were not begun") {
		t.Errorf("stopped, the drain is %s: %s", op.Status, op.Error)
	}
	close(release)
	moved := func() (n int) {
		for i := range 2 {
			c, err := h.Container(ctx, fmt.Sprintf("web%d", i))
			must(t, err)
			if c.Host == "host2" && c.Operation == "" {
				n++
			}
		}
		return n
	}
	eventually(t, "the move under way is finished", func() error {
		if moved() != 1 {
			return fmt.Errorf("%d containers have moved", moved())
		}
		return nil
	})
	migrations, err := h.Operations(ctx)
	must(t, err)
	if len(migrations) != 2 { // the drain and one move
		t.Errorf("%d operations were begun", len(migrations))
	}
	_, err = h.Stop(ctx, "none")
	wantCode(t, err, api.CodeNotFound)
	for _, m := range migrations {
		if m.Kind == cluster.OpMigrate {
			_, err = h.Stop(ctx, m.ID)
			wantCode(t, err, api.CodeConflict)
		}
	}
}

// TestSavedPlanIsReplayed: a plan is carried out as it was saved, and refused once it is out of date.
func TestSavedPlanIsReplayed(t *testing.T) {
	_, hosts := newCluster(t, 2)
	h, ctx := hosts[0], t.Context()
	h.create("web", 64<<20)
	plan, err := h.Consolidate(ctx, api.PlanRequest{DryRun: true})
	must(t, err)
	if len(plan.Steps) != 0 {
		t.Fatalf("with one container on one host the plan has %d moves", len(plan.Steps))
	}
	c, err := h.Container(ctx, "web")
	must(t, err)
	to := map[string]string{"host1": "host2", "host2": "host1"}[c.Host]
	saved := []cluster.Move{{Container: c.ID, Name: "web", From: c.Host, To: to, Operation: "old", Status: "done"}}
	op, err := h.Consolidate(ctx, api.PlanRequest{Steps: saved})
	must(t, err)
	if op = h.finished(op.ID); op.Status != cluster.OpDone {
		t.Fatalf("the replay is %s: %s", op.Status, op.Error)
	}
	if now, err := h.Container(ctx, "web"); err != nil || now.Host != to {
		t.Errorf("it is on %s, %v", now.Host, err)
	}
	_, err = h.Consolidate(ctx, api.PlanRequest{Steps: saved})
	wantCode(t, err, api.CodeConflict)
}
