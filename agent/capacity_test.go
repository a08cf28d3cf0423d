package agent

import (
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// What fits, and what would be left if a host died, is told of the cluster as it is.
func TestCapacityAndLoss(t *testing.T) {
	_, hosts := newCluster(t, 3)
	eventually(t, "three voters", func() error { return threeVoters(hosts[0]) })
	h := hosts[0]
	all, err := h.Hosts(t.Context())
	must(t, err)
	half := all[0].Capacity.RAM / 2
	shape := api.CreateRequest{Limits: cluster.Limits{RAM: half, CPUUnits: 1024}}
	room, err := h.Capacity(t.Context(), shape)
	must(t, err)
	if room.Now != 6 || room.AfterLoss != 4 {
		t.Errorf("of half a host's memory %+v fit on three hosts, want 6 and 4", room)
	}
	c := h.create("big", half)
	if room, err = h.Capacity(t.Context(), shape); err != nil || room.Now != 5 || room.AfterLoss != 3 {
		t.Errorf("beside one: %+v, %v", room, err)
	}
	loss, err := h.WhatIf(t.Context(), c.Host)
	must(t, err)
	if loss.Protected != 1 || len(loss.Homes) != 1 || len(loss.Unplaced) != 0 || loss.Homes[0].To == c.Host {
		t.Errorf("the loss of %s would mean %+v", c.Host, loss)
	}
	if _, err := h.WhatIf(t.Context(), "nobody"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("the loss of a host that is not there: %v", err)
	}
	if _, err := h.Capacity(t.Context(), api.CreateRequest{}); api.CodeOf(err) != api.CodeUsage {
		t.Errorf("a shape without memory: %v", err)
	}
}
