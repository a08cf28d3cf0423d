package scheduler

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vzcluster/vzcluster/cluster"
)

func important(need cluster.Resources, priority int) Request {
	return Request{Need: need, Rules: cluster.Rules{Priority: priority}}
}

// The fewest moves are made, of those the cheapest, and what is as important stays.
func TestMakeRoom(t *testing.T) {
	cs := []cluster.Container{
		ct(101, "a", "host1", res(1, 5, 1)), ct(102, "b", "host1", res(1, 2, 1)),
		ct(103, "c", "host2", res(1, 6, 1)), ct(104, "d", "host3", res(1, 6, 1)),
	}
	s := snapshot(three, cs...)
	p := MakeRoom(s, important(res(1, 3, 1), 10))
	if got := to(p.Plan); p.Host != "host1" || got != "b:host1>host2" {
		t.Errorf("room is made on %s by %s: %s", p.Host, got, p.Why)
	}
	check(t, s, p.Plan)
	if p := MakeRoom(s, important(res(1, 3, 1), 0)); p.Host != "" || len(p.Moves) > 0 || !strings.Contains(p.Why, "nothing of a lower priority") {
		t.Errorf("for a container of the same priority: %+v", p)
	}
	if p := MakeRoom(s, important(res(1, 2, 1), 10)); p.Host == "" || len(p.Moves) > 0 {
		t.Errorf("for one that fits anyway: %+v", p)
	}
	if p := MakeRoom(s, important(res(1, 8, 1), 10)); p.Host != "" || !strings.Contains(p.Why, "no room either") {
		t.Errorf("for one that needs a whole host: %+v", p)
	}
	s.Containers[1].Rules.Stay = true
	if p := MakeRoom(s, important(res(1, 3, 1), 10)); p.Host != "" || !strings.Contains(p.Why, "b must stay: it is to stay") {
		t.Errorf("what is to stay is moved: %+v", p)
	}
}

// What fits nowhere else is given room by moving a third container aside.
func TestMakeRoomMovesAside(t *testing.T) {
	s := snapshot(three,
		ct(101, "a", "host1", res(1, 4, 1)), ct(102, "big", "host1", res(1, 4, 1)),
		ct(103, "c", "host2", res(1, 5, 1)), ct(104, "small", "host2", res(1, 2, 1)),
		ct(105, "e", "host3", res(1, 6, 1)))
	for _, i := range []int{0, 2, 4} {
		s.Containers[i].Rules.Priority = 10
	}
	s.Containers[1].Limits.RAM, s.Hosts[0].Reserved.RAM = 3*gib, 7*gib
	p := MakeRoom(s, important(res(1, 4, 1), 10))
	check(t, s, p.Plan)
	if got := to(p.Plan); p.Host != "host1" || got != "small:host2>host3 big:host1>host2" {
		t.Errorf("room is made on %s by %s: %s", p.Host, got, p.Why)
	}
}

// What cannot be moved live is stopped only if that is allowed, and only if nothing else helps.
func TestMakeRoomStopsOnlyIfAllowed(t *testing.T) {
	verdict := cluster.NewVerdict([]cluster.Blocker{{Process: "12 dockerd", What: "it has a BPF program open", Remedy: "stop it"}})
	s := snapshot(three, ct(101, "a", "host1", res(1, 7, 1)), ct(102, "b", "host2", res(1, 7, 1)), ct(103, "c", "host3", res(1, 1, 1)))
	for i := range s.Containers {
		s.Containers[i].Verdict = &verdict
	}
	s.Containers[2].Rules.Priority = 10
	req := important(res(1, 8, 1), 10)
	if p := MakeRoom(s, req); p.Host != "" || !strings.Contains(p.Why, "cannot be moved live") {
		t.Errorf("it was not allowed, and yet: %s: %s", to(p.Plan), p.Why)
	}
	req.Rules.Preempt = cluster.PreemptOffline
	p := MakeRoom(s, req)
	if len(p.Moves) != 1 || p.Moves[0].Mode != cluster.ModeNearLive || !strings.Contains(p.Moves[0].Why, "stopped for that") {
		t.Errorf("it was allowed, and yet: %+v", p)
	}
	s.Containers[1].Verdict = nil
	if p := MakeRoom(s, req); to(p.Plan) != "b:host2>host3" || p.Moves[0].Mode != "" {
		t.Errorf("one could be moved live, and yet: %+v", p)
	}
}

// A group's limit is an obstacle like memory: the container of the group makes room.
func TestMakeRoomInAGroup(t *testing.T) {
	s := snapshot(three, ct(101, "a", "host1", res(1, 1, 1)), ct(102, "b", "host2", res(1, 1, 1)), ct(103, "c", "host1", res(1, 1, 1)))
	for i := range 2 {
		s.Containers[i].Rules = cluster.Rules{Group: "web", MaxPerHost: 1}
	}
	req := Request{Need: res(1, 1, 1), Rules: cluster.Rules{Group: "web", MaxPerHost: 1, Priority: 5, Pinned: "host1"}}
	p := MakeRoom(s, req)
	check(t, s, p.Plan)
	if to(p.Plan) != "a:host1>host3" {
		t.Errorf("room is made by %s: %s", to(p.Plan), p.Why)
	}
}

// With the policy that a loss is to be survived, no room is made that spoils it.
func TestMakeRoomSurvives(t *testing.T) {
	s := snapshot(three, ct(101, "a", "host1", res(1, 5, 1)), ct(102, "b", "host2", res(1, 5, 1)))
	s.Policy.Survive = true
	if p := MakeRoom(s, important(res(1, 7, 1), 10)); p.Host != "" {
		t.Errorf("its host could die, and it would fit nowhere: %s: %s", to(p.Plan), p.Why)
	}
	s.Containers[0].Rules.Priority = -1 // not protected, but the other one is
	if p := MakeRoom(s, important(res(1, 3, 1), 10)); p.Host == "" || len(p.Moves) != 0 {
		t.Errorf("it fits anyway: %s: %s", to(p.Plan), p.Why)
	}
}

func TestMakeRoomProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		for i := range s.Containers {
			s.Containers[i].Rules.Priority = rapid.IntRange(-1, 2).Draw(t, "priority")
		}
		req := important(cluster.Resources{MilliCPU: rapid.Int64Range(0, 6).Draw(t, "cpu"), RAM: rapid.Int64Range(1, 12).Draw(t, "ram"), Disk: 1}, rapid.IntRange(-1, 3).Draw(t, "of"))
		p := MakeRoom(s, req)
		check(t, s, p.Plan)
		if again := MakeRoom(shuffled(s, rapid.Uint64().Draw(t, "seed")), req); !reflect.DeepEqual(p, again) {
			t.Fatalf("another order, another plan:\n%+v\n%+v", p, again)
		}
		fits := Place(s, req).Host != ""
		if fits && (len(p.Moves) > 0 || p.Host == "") || p.Why == "" {
			t.Fatalf("it fits: %v, and the plan is %+v", fits, p)
		}
		after := s.after(p.Moves)
		for _, m := range p.Moves {
			for _, c := range s.Containers {
				if c.ID == m.Container && c.Rules.Priority >= req.Rules.Priority {
					t.Fatalf("%s moves, its priority is %d", c.Name, c.Rules.Priority)
				}
			}
		}
		if p.Host != "" {
			if h := find(after.Hosts, p.Host); h.barred() != "" || !h.Free().Fits(req.Need) {
				t.Fatalf("no room on %s after %s", p.Host, to(p.Plan))
			}
		}
		if len(s.Hosts) <= 4 && !fits {
			if n := fewestMoves(s, req); n > 0 && (p.Host == "" || len(p.Moves) > n) {
				t.Fatalf("%d moves suffice, the plan is %s: %s", n, to(p.Plan), p.Why)
			}
		}
	})
}

// fewestMoves tries every set of containers of one host, 0 when none makes room.
func fewestMoves(s Snapshot, req Request) int {
	best := 0
	for _, h := range s.hosts() {
		if h.barred() != "" {
			continue
		}
		var may []cluster.Container
		for _, c := range s.on(h.Name) {
			if c.Rules.Priority < req.Rules.Priority && immovable(c) == "" {
				may = append(may, c)
			}
		}
		for set := 1; set < 1<<len(may); set++ {
			var items []cluster.Container
			for i, c := range may {
				if set&(1<<i) != 0 {
					items = append(items, c)
				}
			}
			others := map[string]cluster.Resources{}
			for _, o := range s.Hosts {
				if o.Name != h.Name && o.barred() == "" {
					others[o.Name] = o.Free()
				}
			}
			if h.Free().Add(sum(items)).Fits(req.Need) && (best == 0 || len(items) < best) && assign(items, others) {
				best = len(items)
			}
		}
	}
	return best
}
