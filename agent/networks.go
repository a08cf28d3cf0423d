package agent

import (
	"net/http"
	"net/netip"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func (m *member) handleNetworks(http.ResponseWriter, *http.Request) (any, error) {
	return m.store.State().Networks(), nil
}

func (m *member) handleNetworkAdd(_ http.ResponseWriter, r *http.Request) (any, error) {
	var n cluster.Network
	if err := readJSON(r, &n); err != nil {
		return nil, err
	}
	for i := range n.Pools {
		if err := fillPool(&n.Pools[i]); err != nil {
			return nil, err
		}
	}
	made, err := applyHere[*cluster.Network](r.Context(), m, cluster.AddNetwork{Network: n})
	m.spread()
	return made, err
}

func (m *member) handleNetworkDrop(_ http.ResponseWriter, r *http.Request) (any, error) {
	_, err := applyHere[any](r.Context(), m, cluster.DropNetwork{Name: r.PathValue("name")})
	m.spread()
	return nil, err
}

func (m *member) handleNetworkPool(_ http.ResponseWriter, r *http.Request) (any, error) {
	var pool cluster.AddressPool
	if err := readJSON(r, &pool); err != nil {
		return nil, err
	}
	if err := fillPool(&pool); err != nil {
		return nil, err
	}
	made, err := applyHere[*cluster.Network](r.Context(), m, cluster.AddPool{Network: r.PathValue("name"), Pool: pool})
	m.spread()
	return made, err
}

// fillPool completes a pool of which only the prefix is given: containers get its upper half.
func fillPool(pool *cluster.AddressPool) error {
	p, err := netip.ParsePrefix(pool.Prefix)
	if err != nil {
		return api.Errorf(api.CodeUsage, "", "the address pool %q is no network in CIDR notation, such as 10.9.0.0/16 or fd00::/64", pool.Prefix)
	}
	p = p.Masked()
	pool.Prefix = p.String()
	if pool.First == "" {
		pool.First = middle(p).Next().String()
	}
	if pool.Last == "" {
		pool.Last = last(p).String()
	}
	return nil
}
