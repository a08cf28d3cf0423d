package scheduler

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/vzcluster/vzcluster/cluster"
)

// drawSnapshot draws a cluster that is not overcommitted, with hosts in every state and containers in most.
func drawSnapshot(t *rapid.T) Snapshot {
	var s Snapshot
	id := 100
	for i := range rapid.IntRange(0, 7).Draw(t, "hosts") {
		h := HostView{
			Name: fmt.Sprintf("host%d", i+1), State: cluster.HostActive,
			Alive:    rapid.IntRange(0, 7).Draw(t, "dead") > 0,
			Capacity: cluster.Resources{MilliCPU: rapid.Int64Range(1, 8).Draw(t, "cpu"), RAM: rapid.Int64Range(1, 16).Draw(t, "ram"), Disk: 20, Containers: 1 << 20},
		}
		if rapid.IntRange(0, 7).Draw(t, "cordoned") == 0 {
			h.State = cluster.HostCordoned
		}
		for range rapid.IntRange(0, 5).Draw(t, "containers") {
			id++
			c := ct(id, fmt.Sprintf("ct%d", id), h.Name, cluster.Resources{
				MilliCPU: rapid.Int64Range(0, 3).Draw(t, "c"), RAM: rapid.Int64Range(1, 6).Draw(t, "r"), Disk: rapid.Int64Range(0, 6).Draw(t, "d"),
			})
			if !h.Free().Fits(c.Need()) {
				continue
			}
			c.State = rapid.SampledFrom([]cluster.ContainerState{cluster.Running, cluster.Running, cluster.Running, cluster.Stopped, cluster.Starting}).Draw(t, "state")
			if rapid.IntRange(0, 15).Draw(t, "locked") == 0 {
				c.Operation = "op"
			}
			h.Reserved = h.Reserved.Add(c.Need())
			s.Containers = append(s.Containers, c)
		}
		s.Hosts = append(s.Hosts, h)
	}
	return s
}

// check replays a plan and fails at the first step that breaks a rule.
func check(t rapid.TB, s Snapshot, p Plan) {
	t.Helper()
	hosts, owner := map[string]*HostView{}, map[int]string{}
	byID := map[int]cluster.Container{}
	for _, h := range s.hosts() {
		hosts[h.Name] = &h
	}
	for _, c := range s.Containers {
		owner[c.ID], byID[c.ID] = c.Host, c
	}
	for i, m := range p.Moves {
		c, to, from := byID[m.Container], hosts[m.To], hosts[m.From]
		need := c.Need()
		switch {
		case to == nil || from == nil || owner[m.Container] != m.From || m.Name != c.Name:
			t.Fatalf("move %d: %+v does not describe a container where it is", i, m)
		case m.From == m.To:
			t.Fatalf("move %d: %s moves to the host that it is on", i, m.Name)
		case !to.Alive || !from.Alive || to.State != cluster.HostActive:
			t.Fatalf("move %d: from %+v to %+v", i, from, to)
		case immovable(c) != "":
			t.Fatalf("move %d: %s moves but %s", i, c.Name, immovable(c))
		case !to.Free().Fits(need):
			t.Fatalf("move %d: %s lacks %s", i, m.To, to.Free().Lacks(need))
		case m.Why == "":
			t.Fatalf("move %d: no reason", i)
		}
		to.Reserved, from.Reserved = to.Reserved.Add(need), from.Reserved.Sub(need)
		owner[m.Container] = m.To
	}
	for _, f := range p.Freed {
		if hosts[f].Reserved != (cluster.Resources{}) {
			t.Fatalf("%s is called freed but reserves %+v", f, hosts[f].Reserved)
		}
		for id, h := range owner {
			if h == f {
				t.Fatalf("%s is called freed but holds %d", f, id)
			}
		}
	}
}

// shuffled is the same snapshot in another order.
func shuffled(s Snapshot, seed uint64) Snapshot {
	r := rand.New(rand.NewPCG(seed, 1))
	s.Hosts, s.Containers = slices.Clone(s.Hosts), slices.Clone(s.Containers)
	r.Shuffle(len(s.Hosts), func(i, j int) { s.Hosts[i], s.Hosts[j] = s.Hosts[j], s.Hosts[i] })
	r.Shuffle(len(s.Containers), func(i, j int) { s.Containers[i], s.Containers[j] = s.Containers[j], s.Containers[i] })
	return s
}

func TestPlacementProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		req := Request{Need: cluster.Resources{MilliCPU: rapid.Int64Range(0, 8).Draw(t, "cpu"), RAM: rapid.Int64Range(1, 16).Draw(t, "ram"), Disk: 1}}
		d := Place(s, req)
		if again := Place(shuffled(s, rapid.Uint64().Draw(t, "seed")), req); !reflect.DeepEqual(d, again) {
			t.Fatalf("another order, another decision:\n%+v\n%+v", d, again)
		}
		possible := false
		for _, h := range s.Hosts {
			possible = possible || h.barred() == "" && h.Free().Fits(req.Need)
		}
		if possible != (d.Host != "") {
			t.Fatalf("possible: %v, but placed on %q: %s", possible, d.Host, d.Why)
		}
		if d.Host != "" {
			if h := find(s.Hosts, d.Host); h.barred() != "" || !h.Free().Fits(req.Need) {
				t.Fatalf("placed on %+v", h)
			}
		}
		if len(d.Hosts) != len(s.Hosts) {
			t.Fatalf("%d hosts have reasons, of %d", len(d.Hosts), len(s.Hosts))
		}
	})
}

func TestDrainProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		if len(s.Hosts) == 0 {
			return
		}
		host := rapid.SampledFrom(s.Hosts).Draw(t, "host").Name
		p := Drain(s, host)
		check(t, s, p)
		if again := Drain(shuffled(s, rapid.Uint64().Draw(t, "seed")), host); !reflect.DeepEqual(p, again) {
			t.Fatalf("another order, another plan:\n%+v\n%+v", p, again)
		}
		if n := len(s.on(host)); len(p.Moves)+len(p.Unplaced) != n {
			t.Fatalf("%d moves and %d that stay, of %d containers", len(p.Moves), len(p.Unplaced), n)
		}
		for i := 1; i < len(p.Moves); i++ {
			if ram(s, p.Moves[i-1]) < ram(s, p.Moves[i]) {
				t.Fatalf("not the biggest first: %s", to(p))
			}
		}
	})
}

func ram(s Snapshot, m cluster.Move) int64 {
	for _, c := range s.Containers {
		if c.ID == m.Container {
			return c.Limits.RAM
		}
	}
	return 0
}

func TestConsolidateProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		limit := rapid.IntRange(0, 2).Draw(t, "limit")
		p := Consolidate(s, limit)
		check(t, s, p)
		if again := Consolidate(shuffled(s, rapid.Uint64().Draw(t, "seed")), limit); !reflect.DeepEqual(p, again) {
			t.Fatalf("another order, another plan:\n%+v\n%+v", p, again)
		}
		if limit > 0 && len(p.Freed) > limit {
			t.Fatalf("%d hosts freed, at most %d asked for", len(p.Freed), limit)
		}
		if (len(p.Freed) == 0) != (len(p.Moves) == 0) || p.Why == "" {
			t.Fatalf("plan %+v", p)
		}
	})
}

// TestConsolidateIsExact compares with every possible assignment of all movable containers of hosts that become empty.
func TestConsolidateIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		if len(s.Hosts) > 4 || len(s.Containers) > 8 {
			return
		}
		before := len(emptyHosts(s.hosts()))
		p := Consolidate(s, 0)
		gained := 0
		if len(p.Moves) > 0 {
			received := map[string]bool{}
			for _, m := range p.Moves {
				if sum(s.on(m.To)) == (cluster.Resources{}) {
					received[m.To] = true
				}
			}
			gained = len(p.Freed) - len(received)
		}
		if best := bruteForce(s) - before; gained != max(best, 0) {
			t.Fatalf("gained %d hosts, %d are possible: %s", gained, best, to(p))
		}
	})
}

func emptyHosts(hosts []HostView) []string {
	var names []string
	for _, h := range hosts {
		if h.Alive && h.Reserved == (cluster.Resources{}) {
			names = append(names, h.Name)
		}
	}
	return names
}

// bruteForce returns how many living hosts can be empty when whole hosts are emptied into those that stay.
func bruteForce(s Snapshot) int {
	hosts, best := s.hosts(), 0
	for set := range 1 << len(hosts) {
		var items []cluster.Container
		n, ok := 0, true
		stay := map[string]cluster.Resources{}
		for i, h := range hosts {
			if set&(1<<i) == 0 {
				if h.barred() == "" {
					stay[h.Name] = h.Free()
				}
				continue
			}
			n++
			ok = ok && h.Alive
			for _, c := range s.on(h.Name) {
				ok = ok && immovable(c) == ""
				items = append(items, c)
			}
		}
		if ok && n > best && assign(items, stay) {
			best = n
		}
	}
	return best
}

func assign(items []cluster.Container, free map[string]cluster.Resources) bool {
	if len(items) == 0 {
		return true
	}
	need := items[0].Need()
	for h, f := range free {
		if f.Fits(need) {
			free[h] = f.Sub(need)
			if assign(items[1:], free) {
				return true
			}
			free[h] = f
		}
	}
	return false
}

func find(hosts []HostView, name string) *HostView {
	for i := range hosts {
		if hosts[i].Name == name {
			return &hosts[i]
		}
	}
	return nil
}
