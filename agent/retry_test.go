package agent

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// TestMoveThatAFaultEndsIsTriedAgain: the restart of an agent under a move does not end the plan.
func TestMoveThatAFaultEndsIsTriedAgain(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	var faults atomic.Int64
	l.fail = func(*cluster.Operation) string {
		if faults.Add(1) <= 2 {
			return "the source's agent was restarted"
		}
		return ""
	}
	l.grow(2)
	h, ctx := l.hosts[0], t.Context()
	for _, name := range []string{"web0", "web1", "web2"} {
		_, err := h.Create(ctx, api.CreateRequest{Name: name, Template: "tiny", Host: "host1", Limits: cluster.Limits{RAM: 64 << 20}, Start: true})
		must(t, err)
	}
	op, err := h.Drain(ctx, "host1", api.PlanRequest{Parallel: 2})
	must(t, err)
	if op = h.finished(op.ID); op.Status != cluster.OpDone || op.Error != "" || len(op.Steps) != 5 {
		t.Errorf("the drain is %s: %s, with %d steps, want three and two once more", op.Status, op.Error, len(op.Steps))
	}
	if on := l.byHost(t); on["host1"] != 0 {
		t.Errorf("hosts have %v", on)
	}
}

// TestHostDiesDuringItsDrain: the drain ends and says what is still there, and nothing stays locked.
func TestHostDiesDuringItsDrain(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	held, release := make(chan struct{}, 10), make(chan struct{})
	l.fail = func(op *cluster.Operation) string {
		held <- struct{}{}
		<-release
		return "its agent ends"
	}
	l.grow(3)
	eventually(t, "three voters", func() error { return threeVoters(l.hosts[0]) })
	f, ctx := l.followers(), t.Context()
	dead, alive := f[0], f[1]
	for i := range 3 {
		_, err := alive.Create(ctx, api.CreateRequest{Name: fmt.Sprintf("web%d", i), Template: "tiny", Host: dead.cfg.Name, Limits: cluster.Limits{RAM: 64 << 20}, Start: true})
		must(t, err)
	}
	op, err := alive.Drain(ctx, dead.cfg.Name, api.PlanRequest{Parallel: 1})
	must(t, err)
	<-held // the first move is under way
	dead.agent.cancel()
	op = alive.finished(op.ID)
	close(release)
	dead.stop()
	if op.Status != cluster.OpFailed || !strings.Contains(op.Error, "web0 stays: ") || !strings.Contains(op.Error, "down") {
		t.Errorf("the drain is %s: %s", op.Status, op.Error)
	}
	for i := range 3 {
		c, err := alive.Container(ctx, fmt.Sprintf("web%d", i))
		must(t, err)
		if c.Host != dead.cfg.Name || c.Operation != "" {
			t.Errorf("%s is on %s, operation %q", c.Name, c.Host, c.Operation)
		}
	}
	l.forget(alive, dead)
}
