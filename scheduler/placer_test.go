package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/vzcluster/vzcluster/cluster"
)

// A Placer decides as Place does on a snapshot in which what it has placed already is, and forgets what is taken back.
func TestPlacerSeesWhatItPlaced(t *testing.T) {
	const gib = 1 << 30
	for _, policy := range []cluster.Placement{cluster.Spread, cluster.Pack, cluster.Balanced} {
		snap := Snapshot{Policy: cluster.Policy{Placement: policy}}
		for i := range 4 {
			snap.Hosts = append(snap.Hosts, HostView{
				Name: fmt.Sprintf("host%d", i), State: cluster.HostActive, Alive: true,
				Capacity: cluster.Resources{MilliCPU: 8000, RAM: 16 * gib, Disk: 100 * gib},
			})
		}
		p := NewPlacer(snap)
		for i := range 20 {
			c := cluster.Container{
				ID: 101 + i, Limits: cluster.Limits{RAM: int64(1+i%3) * gib, MilliCPU: 500},
				Rules: cluster.Rules{Group: fmt.Sprintf("g%d", i%5), MaxPerHost: 1},
			}
			req := Request{Need: c.Need(), Rules: c.Rules}
			want, got := Place(snap, req), p.Place(req)
			if got.Host != want.Host {
				t.Errorf("%s, container %d: %q (%s), want %q (%s)", policy, i, got.Host, got.Why, want.Host, want.Why)
			}
			if want.Host == "" {
				continue
			}
			p.Put(got)
			again := p.Place(req) // its group is there now
			if again.Host == got.Host {
				t.Errorf("%s: a second one of a group is put on %s", policy, got.Host)
			}
			p.Take(got)
			p.Put(got)
			c.Host = got.Host
			snap.Containers = append(snap.Containers, c)
			h := find(snap.Hosts, c.Host)
			h.Reserved = h.Reserved.Add(c.Need())
		}
	}
}

// A Placer that is kept, and told what has changed, decides as one that is made anew.
func TestPlacerThatIsKept(t *testing.T) {
	const gib = 1 << 30
	for _, policy := range []cluster.Placement{cluster.Spread, cluster.Balanced} {
		r := rand.New(rand.NewPCG(1, 2))
		snap := Snapshot{Policy: cluster.Policy{Placement: policy}}
		for i := range 5 {
			snap.Hosts = append(snap.Hosts, HostView{
				Name: fmt.Sprintf("host%d", i), State: cluster.HostActive, Alive: true,
				Capacity: cluster.Resources{MilliCPU: 8000, RAM: 16 * gib, Disk: 100 * gib},
			})
		}
		kept, there := NewPlacer(snap), map[int]*cluster.Container{}
		for step := range 300 {
			id := 101 + r.IntN(40)
			switch c := there[id]; {
			case c == nil: // it is placed on the one that is kept, and created or given up
				c = &cluster.Container{ID: id, Limits: cluster.Limits{RAM: int64(1+r.IntN(3)) * gib, MilliCPU: 500}}
				c.Rules = cluster.Rules{Group: fmt.Sprintf("g%d", id%4), MaxPerHost: 2}
				req := Request{Need: c.Need(), Rules: c.Rules}
				got, want := kept.Place(req), NewPlacer(snap).Place(req)
				if got.Host != want.Host || got.Why != want.Why {
					t.Fatalf("%s, step %d: %q (%s), want %q (%s)", policy, step, got.Host, got.Why, want.Host, want.Why)
				}
				if got.Host == "" {
					continue
				}
				kept.Put(got)
				if r.IntN(4) == 0 {
					kept.Take(got)
					break
				}
				kept.Keep(got, id)
				c.Host = got.Host
				there[id] = c
			case r.IntN(2) == 0: // another host has moved it, or others have changed it
				now := *c
				now.Host, now.Limits.RAM = snap.Hosts[r.IntN(5)].Name, gib
				there[id] = &now
			default:
				delete(there, id)
			}
			kept.Set(id, there[id])
			snap.Containers = nil
			for i := range snap.Hosts {
				snap.Hosts[i].Reserved = cluster.Resources{}
				snap.Hosts[i].Alive = i != step%7
			}
			for _, c := range there {
				snap.Containers = append(snap.Containers, *c)
				h := find(snap.Hosts, c.Host)
				h.Reserved = h.Reserved.Add(c.Need())
			}
			if !kept.Refresh(snap.Hosts, snap.Policy) {
				t.Fatal("it cannot be kept")
			}
		}
	}
	p := NewPlacer(Snapshot{Hosts: []HostView{{Name: "a"}}})
	if p.Refresh([]HostView{{Name: "b"}}, cluster.Policy{}) || p.Refresh([]HostView{{Name: "a"}}, cluster.Policy{Survive: true}) {
		t.Error("it was kept for other hosts, or another policy")
	}
}
