package agent

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// handleOwnerStats measures the running containers of this host.
func (m *member) handleOwnerStats(http.ResponseWriter, *http.Request) (any, error) {
	out := []api.Stats{}
	for _, c := range m.store.State().On(m.name) {
		if c.State != cluster.Running {
			continue
		}
		u, err := m.deps.Engine.Usage(c.ID)
		if err != nil {
			continue // it has just ended
		}
		out = append(out, api.Stats{
			ID: c.ID, Name: c.Name, Host: m.name, At: time.Now().UTC(), CPUUsec: u.CPUUsec, MilliCPU: c.Limits.MilliCPU,
			RAM: u.RAM, RAMLimit: c.Limits.RAM, PIDs: u.PIDs, OOMKills: u.OOMKills,
		})
	}
	return out, nil
}

// handleStats gathers what containers use on all hosts that answer.
func (m *member) handleStats(_ http.ResponseWriter, r *http.Request) (any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), progressTime)
	defer cancel()
	var all errgroup.Group
	hosts := m.store.State().Hosts()
	found := make([][]api.Stats, len(hosts))
	for i, h := range hosts {
		if h.Name != m.name && !m.alive(h.Name) {
			continue
		}
		all.Go(func() error {
			if err := m.peers.call(ctx, http.MethodGet, h.Name, "/v1/local/stats", nil, &found[i]); err != nil {
				m.log.Warn("a host does not say what its containers use", "host", h.Name, "error", err)
			}
			return nil
		})
	}
	_ = all.Wait() // none fails
	out := slices.Concat(found...)
	slices.SortFunc(out, func(a, b api.Stats) int { return cmp.Compare(a.ID, b.ID) })
	return append([]api.Stats{}, out...), nil
}
