package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// PublishedPort is a port of every host that leads to a container, wherever it is.
type PublishedPort struct {
	Host      uint16 `json:"host"`
	Container uint16 `json:"container"`
	Proto     string `json:"proto"` // tcp or udp
}

// String is what ParsePublishedPort reads.
func (p PublishedPort) String() string {
	s := fmt.Sprintf("%d:%d", p.Host, p.Container)
	if p.Proto != "tcp" {
		s += "/" + p.Proto
	}
	return s
}

// ParsePublishedPort reads HOSTPORT:CTPORT, with /udp for UDP; one number stands for both.
func ParsePublishedPort(text string) (p PublishedPort, err error) {
	ports, proto, some := strings.Cut(text, "/")
	if !some {
		proto = "tcp"
	}
	host, container, both := strings.Cut(ports, ":")
	if !both {
		container = host
	}
	a, errA := strconv.ParseUint(host, 10, 16)
	b, errB := strconv.ParseUint(container, 10, 16)
	p = PublishedPort{uint16(a), uint16(b), strings.ToLower(proto)}
	if errA != nil || errB != nil || p.check() != nil {
		return p, Refuse(ErrInvalid, "%q is no port to publish; write for example 8080:80 or 53:53/udp", text)
	}
	return p, nil
}

func (p PublishedPort) check() error {
	if p.Host == 0 || p.Container == 0 || p.Proto != "tcp" && p.Proto != "udp" {
		return Refuse(ErrInvalid, "%s is no port to publish; ports go from 1 to 65535, of tcp or udp", p)
	}
	return nil
}

// setPorts changes a container's published ports as the command says.
func (c SetContainer) setPorts(s *State, ct *Container) error {
	ct.Ports = slices.Clone(ct.Ports)
	for _, p := range c.Unpublish {
		i := slices.IndexFunc(ct.Ports, func(o PublishedPort) bool { return o.Host == p.Host && o.Proto == p.Proto })
		if i < 0 {
			return Refuse(ErrInvalid, "port %d of %s does not lead to %s", p.Host, p.Proto, ct.Ref())
		}
		ct.Ports = slices.Delete(ct.Ports, i, i+1)
	}
	for _, p := range c.Publish {
		if slices.Contains(ct.Ports, p) {
			continue
		}
		if err := s.checkPort(ct, p); err != nil {
			return err
		}
		ct.Ports = append(ct.Ports, p)
	}
	return nil
}

// checkPort says whether a port of the hosts is free: it is not their own, and leads to no other container.
func (s *State) checkPort(ct *Container, p PublishedPort) error {
	if err := p.check(); err != nil {
		return err
	}
	if !slices.ContainsFunc(ct.AllNICs(), func(n NIC) bool { return n.inDefault() && len(n.Addresses) > 0 }) {
		return Refuse(ErrInvalid, "%s has no address in the default network, to which a port could lead; give it one with --ip auto", ct.Ref())
	}
	own := map[uint16]string{22: "remote login", 53: "name service"}
	for _, h := range s.hosts {
		for _, text := range []string{h.Address, h.Gossip} {
			if ap, err := netip.ParseAddrPort(text); err == nil {
				own[ap.Port()] = "the cluster"
			}
		}
	}
	if why := own[p.Host]; why != "" {
		return Refuse(ErrConflict, "the hosts need port %d themselves, for %s; publish another one", p.Host, why)
	}
	for _, o := range append(s.containers.all(), ct) {
		for _, taken := range o.Ports {
			if taken.Host == p.Host && taken.Proto == p.Proto && (o.ID != ct.ID || o == ct) {
				return Refuse(ErrConflict, "port %d of %s leads to %s already; publish another one, or take that one back first", p.Host, p.Proto, o.Ref())
			}
		}
	}
	return nil
}
