package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// nicsOf returns a container's NICs, from the replicated state alone. The first that is in a network with a gateway
// has the default route.
func nicsOf(s *cluster.State, c *cluster.Container) ([]runtime.NIC, error) {
	var nics []runtime.NIC
	firewall, err := firewallOf(c.Firewall)
	if err != nil {
		return nil, fmt.Errorf("the firewall of container %d: %w", c.ID, err)
	}
	routed := map[bool]bool{} // by whether it is IPv4
	for _, n := range c.AllNICs() {
		network := s.Network(n.Network)
		if network == nil {
			return nil, fmt.Errorf("the network %s of container %d is not known: %w", n.Network, c.ID, cluster.ErrNotFound)
		}
		nic := runtime.NIC{Index: n.Index, Name: n.Name, MAC: n.MAC, Firewall: firewall, Segment: runtime.Segment{Bridge: network.Bridge, VLAN: network.VLAN, VNI: network.VNI}}
		has := map[bool]bool{}
		for _, a := range n.Addresses {
			p, err := netip.ParsePrefix(a)
			if err != nil {
				return nil, fmt.Errorf("container %d has the address %q: %w", c.ID, a, err)
			}
			nic.Addresses = append(nic.Addresses, p)
			has[p.Addr().Is4()] = true
		}
		for _, pool := range network.Pools {
			if pool.Gateway == "" {
				continue
			}
			gw, err := netip.ParseAddr(pool.Gateway)
			if err != nil {
				return nil, fmt.Errorf("the gateway of network %s is %q: %w", network.Name, pool.Gateway, err)
			}
			if v4 := gw.Is4(); has[v4] && !routed[v4] {
				nic.Gateways, routed[v4] = append(nic.Gateways, gw), true
			}
		}
		nics = append(nics, nic)
	}
	return nics, nil
}

// fingerprint tells NICs apart that differ in anything.
func fingerprint(nics []runtime.NIC) string {
	raw, _ := json.Marshal(shaped(nics, runtime.Rates{})) // plain values always marshal
	return string(raw)
}

// shaped returns the NICs with rates. They are limits, and are changed as such.
func shaped(nics []runtime.NIC, r runtime.Rates) []runtime.NIC {
	nics = slices.Clone(nics)
	for i := range nics {
		nics[i].Rates = r
	}
	return nics
}

func wantedNetwork(s *cluster.State, c *cluster.Container) (string, error) {
	nics, err := nicsOf(s, c)
	return fingerprint(nics), err
}

// connect brings changed NICs to the kernel. A refusal is noted, for whoever waits for the change.
func (r *reconciler) connect(s *cluster.State, c *cluster.Container, a acted) error {
	nics, err := nicsOf(s, c)
	if err != nil {
		return err
	}
	nics = shaped(nics, limitsOf(c).Net)
	a.Network, a.Unplugged = fingerprint(nics), ""
	if err := r.m.deps.Engine.Connect(c.ID, nics); err != nil {
		a.Unplugged = "the kernel refuses the network: " + err.Error()
		r.m.log.Warn("a container's network could not be changed", "container", c.ID, "error", err)
	}
	return r.note(c.ID, a)
}

// connected waits until a running container has the NICs that it should have now, and puts the old ones back when its
// host's kernel refuses.
func (m *member) connected(ctx context.Context, old, now *cluster.Container) error {
	was, err := wantedNetwork(m.store.State(), old)
	if err != nil {
		return err
	}
	want, err := wantedNetwork(m.store.State(), now)
	if err != nil || want == was {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, defaultWait)
	defer cancel()
	if m.down(wait, now.Host) {
		return errDown(now.Host)
	}
	err = m.callOwner(wait, now, "sync", syncRequest{Epoch: now.Epoch, Network: want})
	if api.CodeOf(err) == api.CodeRefused {
		_, undo := applyHere[*cluster.Container](ctx, m, restored(old, now))
		m.spread()
		return errors.Join(err, undo)
	}
	return err
}

// restored is the command that gives a container its former network back.
func restored(old, now *cluster.Container) cluster.SetContainer {
	ip := strings.Join(old.Addresses, ",")
	if ip == "" {
		ip = "none"
	}
	set := cluster.SetContainer{ID: old.ID, IP: &ip, Firewall: old.Firewall}
	for _, n := range now.NICs {
		set.NICDel = append(set.NICDel, n.Name)
	}
	for _, n := range old.NICs {
		if len(n.Addresses) == 0 {
			n.Addresses = []string{"none"}
		}
		set.NICAdd = append(set.NICAdd, n)
	}
	if set.Firewall == nil {
		set.Firewall = &cluster.Firewall{}
	}
	return set
}

// firewallOf is a firewall as the kernel side knows it, nil for one that lets everything through.
func firewallOf(f *cluster.Firewall) (*runtime.Firewall, error) {
	if f.Empty() {
		return nil, nil
	}
	out := &runtime.Firewall{DenyIn: f.In == cluster.Deny, DenyOut: f.Out == cluster.Deny}
	for _, r := range f.Rules {
		rule := runtime.FirewallRule{
			Out: r.Out, Deny: r.Action == cluster.Deny, First: r.First, Last: r.Last,
			Proto: map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "icmp": unix.IPPROTO_ICMP}[r.Proto],
		}
		if r.Peer != "" {
			p, err := netip.ParsePrefix(r.Peer)
			if err != nil {
				return nil, err
			}
			rule.Peer = p.Masked()
		}
		out.Rules = append(out.Rules, rule)
	}
	return out, nil
}
