package scheduler

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/vzcluster/vzcluster/cluster"
)

func anywhere(*cluster.Container, string) bool { return true }

// A host that has just joined fills itself.
func TestRebalanceFillsANewHost(t *testing.T) {
	var cs []cluster.Container
	for i := range 12 {
		cs = append(cs, ct(101+i, string(rune('a'+i)), three[i%3], res(0.5, 1, 1)))
	}
	s := snapshot([]string{"host1", "host2", "host3", "host4"}, cs...)
	p := Rebalance(s, 15, anywhere)
	check(t, s, p)
	if len(p.Moves) != 3 {
		t.Errorf("%d moves, want one of each old host: %s (%s)", len(p.Moves), to(p), p.Why)
	}
	for _, m := range p.Moves {
		if m.To != "host4" {
			t.Errorf("%s goes to %s", m.Name, m.To)
		}
	}
	none := Rebalance(s, 15, func(c *cluster.Container, host string) bool { return host != "host4" })
	if len(none.Moves) != 0 || none.Why == "" {
		t.Errorf("moves that are not allowed: %s (%s)", to(none), none.Why)
	}
}

// Every state in between is feasible, nothing moves twice, and a second plan right after the first has nothing to do.
func TestRebalanceProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		points := rapid.IntRange(1, 40).Draw(t, "points")
		p := Rebalance(s, points, anywhere)
		check(t, s, p)
		after := Snapshot{Hosts: s.hosts(), Containers: append([]cluster.Container(nil), s.Containers...)}
		moved := map[int]bool{}
		for _, m := range p.Moves {
			if moved[m.Container] {
				t.Fatalf("%s moves twice", m.Name)
			}
			moved[m.Container] = true
			for i := range after.Containers {
				if c := &after.Containers[i]; c.ID == m.Container {
					from, to := find(after.Hosts, m.From), find(after.Hosts, m.To)
					from.Reserved, to.Reserved = from.Reserved.Sub(c.Need()), to.Reserved.Add(c.Need())
					c.Host = m.To
				}
			}
		}
		if again := Rebalance(after, points, func(c *cluster.Container, _ string) bool { return !moved[c.ID] }); len(again.Moves) > 0 {
			t.Fatalf("a second plan moves %s", to(again))
		}
	})
}
