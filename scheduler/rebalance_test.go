package scheduler

import (
	"testing"

	"github.com/vzcluster/vzcluster/cluster"
)

// A host that has just joined fills itself.
func TestRebalanceFillsANewHost(t *testing.T) {
	var cs []cluster.Container
	for i := range 12 {
		cs = append(cs, ct(101+i, string(rune('a'+i)), three[i%3], res(0.5, 1, 1)))
	}
	s := snapshot([]string{"host1", "host2", "host3", "host4"}, cs...)
	p := Rebalance(s, 15)
	check(t, s, p)
	if len(p.Moves) != 3 {
		t.Errorf("%d moves, want one of each old host: %s (%s)", len(p.Moves), to(p), p.Why)
	}
	for _, m := range p.Moves {
		if m.To != "host4" {
			t.Errorf("%s goes to %s", m.Name, m.To)
		}
	}
	for i := range s.Containers {
		s.Containers[i].Rules.Constraints = []cluster.Constraint{{Key: cluster.NameKey, Op: cluster.OpNotIn, Values: []string{"host4"}}}
	}
	if none := Rebalance(s, 15); len(none.Moves) != 0 || none.Why == "" {
		t.Errorf("moves that are not allowed: %s (%s)", to(none), none.Why)
	}
}
