package agent

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// reachAgain is when what the kernel refused is tried again.
const reachAgain = 5 * time.Second

// keepReach tells this host's network where containers are, until ctx ends.
func (m *member) keepReach(ctx context.Context) error {
	told := ""
	for {
		changed := m.store.Changed()
		if s := m.store.State(); s.Settings() != nil {
			r := reachOf(s, m.name)
			raw, _ := json.Marshal(r) // plain values always marshal
			if string(raw) != told {
				told = string(raw)
				if err := m.deps.Engine.Reach(r); err != nil {
					m.log.Warn("this host's network does not know yet where all containers are", "error", err)
					told = ""
				}
			}
		}
		again := make(<-chan time.Time)
		if told == "" {
			again = time.After(reachAgain)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again:
		}
	}
}

// reachOf is what a host must know of where containers are, from the replicated state alone.
func reachOf(s *cluster.State, host string) runtime.Reach {
	r := runtime.Reach{Overlays: map[int][]runtime.Far{}}
	for _, n := range s.Networks() {
		if n.Kind == cluster.NetworkOverlay {
			r.Overlays[n.VNI] = []runtime.Far{}
		}
	}
	for _, c := range s.Containers() {
		r.Forwards = append(r.Forwards, forwardsTo(s, c)...)
		at, ok := hostAddress(s, c.Host)
		if c.Host == host || !ok || len(r.Overlays) == 0 {
			continue
		}
		for _, n := range c.AllNICs() {
			network := s.Network(n.Network)
			if network == nil || network.Kind != cluster.NetworkOverlay {
				continue
			}
			r.Overlays[network.VNI] = append(r.Overlays[network.VNI], runtime.Far{
				ID: c.ID, Index: n.Index, MAC: n.MAC, Addresses: addrs(n.Addresses), Host: at,
			})
		}
	}
	return r
}

// forwardsTo are the ports that lead to a container: to its first address of each kind in the hosts' own network.
func forwardsTo(s *cluster.State, c *cluster.Container) []runtime.Forward {
	var all []runtime.Forward
	if len(c.Ports) == 0 {
		return nil
	}
	done := map[bool]bool{}
	for _, n := range c.AllNICs() {
		if network := s.Network(n.Network); network == nil || network.Kind != cluster.NetworkLAN {
			continue
		}
		for _, a := range addrs(n.Addresses) {
			if done[a.Is4()] {
				continue
			}
			done[a.Is4()] = true
			for _, p := range c.Ports {
				proto := byte(unix.IPPROTO_TCP)
				if p.Proto == "udp" {
					proto = unix.IPPROTO_UDP
				}
				all = append(all, runtime.Forward{Proto: proto, Port: p.Host, To: netip.AddrPortFrom(a, p.Container)})
			}
		}
	}
	return all
}

func hostAddress(s *cluster.State, name string) (netip.Addr, bool) {
	h := s.Host(name)
	if h == nil {
		return netip.Addr{}, false
	}
	host, _, err := net.SplitHostPort(h.Address)
	if err != nil {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(host)
	return a.Unmap(), err == nil
}

func addrs(cidrs []string) []netip.Addr {
	var out []netip.Addr
	for _, text := range cidrs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out
}
