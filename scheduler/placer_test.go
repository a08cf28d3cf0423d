package scheduler

import (
	"fmt"
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
