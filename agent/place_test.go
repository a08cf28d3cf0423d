package agent

import (
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// Requests that come at once are placed one after the other, each with the earlier ones in sight.
func TestPlacementsAtOnce(t *testing.T) {
	_, hosts := newCluster(t, 3)
	eventually(t, "three voters", func() error { return threeVoters(hosts[0]) })
	hosts[0].create("first", 64<<20) // the template comes with it
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			_, err := hosts[i%3].Create(t.Context(), api.CreateRequest{
				Name: fmt.Sprintf("ct%d", i), Template: "tiny", Limits: cluster.Limits{RAM: 64 << 20},
			})
			return err
		})
	}
	must(t, g.Wait())
	all, err := hosts[0].Hosts(t.Context())
	must(t, err)
	for _, h := range all {
		if h.Containers != 3 {
			t.Errorf("%s has %d containers, want 3 of 9", h.Name, h.Containers)
		}
	}
}

// A host whose agent has just died may look alive to gossip still, and the emptiest of all.
func TestNothingIsPlacedOnASilentHost(t *testing.T) {
	l, hosts := newCluster(t, 3)
	eventually(t, "three voters", func() error { return threeVoters(hosts[0]) })
	hosts[0].create("first", 64<<20)
	leader, rest := l.leader(), l.followers()
	for _, h := range []*testHost{leader, rest[0]} {
		_, err := hosts[0].Create(t.Context(), api.CreateRequest{
			Template: "tiny", Limits: cluster.Limits{RAM: 512 << 20}, Host: h.cfg.Name,
		})
		must(t, err)
	}
	rest[1].stop()
	c, err := leader.Create(t.Context(), api.CreateRequest{Template: "tiny", Limits: cluster.Limits{RAM: 64 << 20}, Start: true})
	must(t, err)
	if c.Host == rest[1].cfg.Name || c.State != cluster.Running {
		t.Errorf("it is %s on %s, want it to run on another host than the silent one", c.State, c.Host)
	}
}
