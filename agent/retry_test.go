package agent

import (
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
