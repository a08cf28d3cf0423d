package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// plans counts the plans that there have been.
func (h *testHost) plans() (n int) {
	h.t.Helper()
	for _, op := range operations(h.t, h) {
		if op.IsPlan() {
			n++
		}
	}
	return n
}

// TestNothingBeginsByItselfUnlessItIsOn: off, outside of its window and before its time no plan begins; the hours are made up.
func TestNothingBeginsByItselfUnlessItIsOn(t *testing.T) {
	for _, kind := range []cluster.OperationKind{cluster.OpRebalance, cluster.OpConsolidate} {
		t.Run(string(kind), func(t *testing.T) {
			l, hosts := newCluster(t, 2)
			ctx := t.Context()
			for i := range 5 {
				host := "host1"
				if kind == cluster.OpConsolidate && i == 0 {
					host = "host2"
				}
				_, err := hosts[0].Create(ctx, api.CreateRequest{Name: fmt.Sprintf("web%d", i), Template: "tiny", Host: host, Limits: cluster.Limits{RAM: 100 << 20}, Start: true})
				must(t, err)
			}
			m := l.leader().agent.member.Load()
			noon := time.Date(2030, 1, 7, 12, 0, 0, 0, time.UTC)
			passes := func(what string, hours, begun int) {
				t.Helper()
				var h habits
				for i := range hours + 1 {
					must(t, m.automate(ctx, &h, noon.Add(time.Duration(i)*time.Hour)))
				}
				if n := hosts[0].plans(); n != begun {
					t.Errorf("%s %d plans have begun, want %d", what, n, begun)
				}
			}
			settings := func(a cluster.Automation) {
				t.Helper()
				_, err := hosts[0].WriteSettings(ctx, api.Settings{Automation: a})
				must(t, err)
			}
			night, err := cluster.ParseWindow("22:00-23:00")
			must(t, err)
			on := cluster.Automation{Rebalance: kind == cluster.OpRebalance, Consolidate: kind == cluster.OpConsolidate, Spare: 1, HoldMS: 3 * 3600_000, RestMS: 1}
			passes("off,", 48, 0)
			on.Window = night
			settings(on)
			passes("outside of the window,", 9, 0)
			on.Window = cluster.Window{}
			settings(on)
			passes("before its time,", 2, 0)
			passes("after its time,", 3, 1)
		})
	}
}
