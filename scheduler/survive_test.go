package scheduler

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vzcluster/vzcluster/cluster"
)

func TestWhatIfAndCapacity(t *testing.T) {
	s := snapshot(three, ct(101, "a", "host1", res(2, 5, 1)), ct(102, "b", "host2", res(2, 5, 1)), ct(103, "c", "host1", res(1, 1, 1)))
	loss, moves := WhatIf(s, "host1")
	if len(loss.Unplaced) > 0 || len(moves) != 2 || loss.Protects != 2 || moves[0].To != "host3" {
		t.Errorf("%s, %+v", loss, moves)
	}
	room := Capacity(s, Request{Need: res(1, 3, 1)})
	if room.Now != 3 || room.AfterAny != 1 {
		t.Errorf("%+v; 1 fits on host2 and 2 on host3, and 1 on host2 or host3 once what was on host1 has gone there", room)
	}
	s.Containers[2].Limits.RAM, s.Containers[0].Limits.RAM = 7*gib, 0
	s = snapshot(three[:2], s.Containers[1], s.Containers[2])
	if losses := Losses(s); len(losses) != 2 || !strings.Contains(losses[0].String(), "would fit nowhere") {
		t.Errorf("%v", losses)
	}
	for i := range s.Containers {
		s.Containers[i].Rules.Priority = -1
	}
	if losses := Losses(s); len(losses) != 0 {
		t.Errorf("what is not protected counts: %v", losses)
	}
}

func TestDrainKeepsTheClusterSafe(t *testing.T) {
	s := snapshot([]string{"host1", "host2", "host3", "host4"}, ct(101, "a", "host1", res(1, 3, 1)), ct(102, "b", "host2", res(1, 3, 1)),
		ct(103, "c", "host3", res(1, 3, 1)), ct(104, "d", "host4", res(0.5, 1, 1)), ct(105, "e", "host4", res(0.5, 1, 1)))
	s.Policy = cluster.Policy{Survive: true}
	p := Drain(s, "host4")
	check(t, s, p)
	if len(p.Unplaced) != 0 {
		t.Errorf("it is safe without host4: %s", p.Why)
	}
	s = snapshot(s.names(), append(s.Containers, ct(106, "f", "host4", res(1, 5, 1)))...)
	s.Policy.Survive = true
	p = Drain(s, "host4")
	check(t, s, p)
	if len(p.Unplaced) != 0 {
		t.Errorf("16G fit on any two of three hosts, if they are put there with that in mind: %s, %s", to(p), p.Why)
	}
	s = snapshot(s.names(), append(s.Containers, ct(107, "g", "host4", res(0.5, 1, 1)))...)
	s.Policy.Survive = true
	if p := Drain(s, "host4"); len(p.Unplaced) == 0 || !strings.Contains(p.Why, "could not survive the loss") {
		t.Errorf("with so much on three hosts none may die: %s, %s", to(p), p.Why)
	}
	s.Policy.Survive = false
	if p := Drain(s, "host4"); len(p.Unplaced) != 0 {
		t.Errorf("nobody asked for it: %s", p.Why)
	}
}

func (s Snapshot) names() (names []string) {
	for _, h := range s.hosts() {
		names = append(names, h.Name)
	}
	return names
}

func TestPlaceAsksTheRules(t *testing.T) {
	web := ct(101, "a", "host1", res(1, 1, 1))
	web.Rules = cluster.Rules{Group: "web", MaxPerHost: 1}
	s := snapshot(three, web)
	s.Hosts[1].Labels = map[string]string{"zone": "a"}
	for name, c := range map[string]struct {
		rules cluster.Rules
		want  string
	}{
		"apart":      {web.Rules, "host2"},
		"constraint": {cluster.Rules{Constraints: []cluster.Constraint{{Key: "zone", Op: cluster.OpAbsent}}}, "host3"},
		"wish":       {cluster.Rules{Affinities: []cluster.Affinity{{Constraint: cluster.Constraint{Key: "group", Op: cluster.OpIn, Values: []string{"web"}}, Weight: 100}}}, "host1"},
		"pack":       {cluster.Rules{Policy: cluster.Pack}, "host1"},
		"pinned":     {cluster.Rules{Pinned: "host9"}, ""},
	} {
		if d := Place(s, Request{Need: res(1, 1, 1), Rules: c.rules}); d.Host != c.want {
			t.Errorf("%s: placed on %q, want %q: %s", name, d.Host, c.want, d.Why)
		}
	}
}

// With the policy survive a container comes only where any one host may die afterwards, and the reason names the host
// whose death would be too much.
func TestPlacementKeepsTheClusterSafe(t *testing.T) {
	s := snapshot(three, ct(101, "a", "host1", res(1, 5, 1)), ct(102, "b", "host2", res(1, 2, 1)))
	s.Policy.Survive = true
	if d := Place(s, Request{Need: res(1, 3, 1)}); d.Host != "host3" {
		t.Errorf("placed on %q: %s", d.Host, d.Why)
	}
	// On host3 it leaves a no home that is big enough but host2, and there it would have none itself.
	full := snapshot(three, ct(101, "a", "host1", res(1, 5, 1)), ct(102, "b", "host2", res(1, 5, 1)))
	full.Policy.Survive = true
	d := Place(full, Request{Need: res(1, 4, 1)})
	if d.Host != "" || !strings.Contains(d.Why, "could not survive the loss of host") {
		t.Errorf("placed on %q: %s", d.Host, d.Why)
	}
	full.Policy.Survive = false
	if d := Place(full, Request{Need: res(1, 4, 1)}); d.Host != "host3" {
		t.Errorf("nobody asked for it: placed on %q: %s", d.Host, d.Why)
	}
	full.Policy.Survive = true
	if d := Place(full, Request{Need: res(1, 3, 1), Rules: cluster.Rules{Pinned: "host3"}}); d.Host != "" {
		t.Errorf("what is pinned is lost with its host, but was placed on %s", d.Host)
	}
	if d := Place(full, Request{Need: res(1, 3, 1), Rules: cluster.Rules{Pinned: "host3", Priority: -1}}); d.Host != "host3" {
		t.Errorf("what is not protected may be lost: %s", d.Why)
	}
}

// TestAdmissionProperties: whatever a Placer has admitted one after the other, no loss that could be survived at first is
// one that cannot; and all that it refuses for that reason names a host.
func TestAdmissionProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawRuled(t)
		s.Policy.Survive = true
		w := newWorld(s)
		safe := w.survivable(false, "")
		p := NewPlacer(s)
		for id := 201; id < 207; id++ {
			c := drawContainer(t, id, "", s.names())
			d := p.Place(Request{Need: c.Need(), Rules: c.Rules})
			if d.Host == "" {
				if d.Why == "" {
					t.Fatal("refused without a reason")
				}
				continue
			}
			p.Put(d)
			w.containers[id], w.at[id] = &c, d.Host
			for host, now := range w.survivable(false, "") {
				if safe[host] && !now {
					t.Fatalf("with %+v on %s the loss of %s cannot be survived", c, d.Host, host)
				}
			}
		}
	})
}

// BenchmarkPlaceSafely is what the policy survive adds to a placement.
func BenchmarkPlaceSafely(b *testing.B) {
	for _, hosts := range []int{100, 1000} {
		for _, survive := range []bool{false, true} {
			b.Run(fmt.Sprintf("hosts=%d survive=%v", hosts, survive), func(b *testing.B) {
				s := Snapshot{Policy: cluster.Policy{Survive: survive}}
				for i := range hosts {
					s.Hosts = append(s.Hosts, HostView{Name: fmt.Sprintf("host%04d", i), State: cluster.HostActive, Alive: true, Capacity: many(res(64, 256, 4000))})
				}
				p := NewPlacer(s)
				n := 0
				for b.Loop() {
					if n++; n%(hosts*60) == 0 { // it is full
						p = NewPlacer(s)
					}
					if d := p.Place(Request{Need: res(1, 4, 10)}); d.Host != "" {
						p.Put(d)
					}
				}
			})
		}
	}
}
