package cluster

import (
	"fmt"
	"net/netip"
)

// Numbers that containers get. A container keeps its uid range wherever it runs, so ranges are cluster-wide.
const (
	maxCTID      = 1<<24 - 1 // what the last three bytes of a MAC can hold
	firstUID     = 1 << 20
	uidsPerRange = 1 << 16
	lastUID      = 1<<32 - 2*uidsPerRange // the very last range holds uid -1
)

// addressPool is the parsed pool of the settings.
type addressPool struct {
	prefix      netip.Prefix
	first, last netip.Addr // of those that containers can have
	gateway     netip.Addr // may be zero
}

// pool parses and checks the pool; nil when the settings have none.
func (s *Settings) pool() (*addressPool, error) {
	if s == nil || s.Pool == "" {
		return nil, nil
	}
	prefix, err := netip.ParsePrefix(s.Pool)
	if err != nil {
		return nil, Refuse(ErrInvalid, "the address pool %q is no network in CIDR notation, such as 10.77.0.0/16", s.Pool)
	}
	p := &addressPool{prefix: prefix.Masked()}
	parts := []struct {
		what, text string
		to         *netip.Addr
		optional   bool
	}{
		{"first address", s.PoolFirst, &p.first, false},
		{"last address", s.PoolLast, &p.last, false},
		{"gateway", s.Gateway, &p.gateway, true},
	}
	for _, part := range parts {
		if part.text == "" && part.optional {
			continue
		}
		*part.to, err = netip.ParseAddr(part.text)
		if err != nil || !p.prefix.Contains(*part.to) {
			return nil, Refuse(ErrInvalid, "the %s %q of the address pool is no address in %s", part.what, part.text, p.prefix)
		}
	}
	if p.last.Less(p.first) {
		return nil, Refuse(ErrInvalid, "the address pool ends at %s before it begins at %s", p.last, p.first)
	}
	return p, nil
}

// reserved names why an address of the pool's network can belong to nobody, "" when it can.
func (p *addressPool) reserved(a netip.Addr) string {
	small := p.prefix.Bits() < a.BitLen()-1 // a /31 or /32 has neither network nor broadcast address
	switch {
	case a == p.gateway:
		return "the gateway"
	case small && a == p.prefix.Addr():
		return "the network's own address"
	case small && a.Is4() && !p.prefix.Contains(a.Next()):
		return "the broadcast address"
	}
	return ""
}

// taken says who has an address, hosts included; "" when it is free.
func (s *State) taken(a netip.Addr) string {
	if who := s.hostAddresses()[a]; who != "" {
		return who
	}
	return s.containers.holder(a)
}

// addressesOf maps the hosts' addresses to who has them.
func addressesOf(hosts map[string]*Host) map[netip.Addr]string {
	m := map[netip.Addr]string{}
	for _, h := range hosts {
		for _, text := range []string{h.Address, h.Gossip} {
			if ap, err := netip.ParseAddrPort(text); err == nil {
				m[ap.Addr().Unmap()] = fmt.Sprintf("host %q", h.Name)
			}
		}
	}
	return m
}

// checkHostAddress refuses an address that another host or a container has.
func (s *State) checkHostAddress(h *Host) error {
	for _, text := range []string{h.Address, h.Gossip} {
		ap, err := netip.ParseAddrPort(text)
		if err != nil {
			continue
		}
		if who := s.containers.holder(ap.Addr().Unmap()); who != "" {
			return Refuse(ErrConflict, "the address %s of host %q is that of %s; give the host another address", ap.Addr(), h.Name, who)
		}
	}
	for _, o := range s.hosts {
		if o.Name != h.Name && o.Address == h.Address && h.Address != "" {
			return Refuse(ErrConflict, "the address %s is that of host %q already; give host %q another address", h.Address, o.Name, h.Name)
		}
	}
	return nil
}

// allocate gives a new container its addresses, MAC and uid range.
func (s *State) allocate(ct *Container, ip string) (err error) {
	ct.MAC = fmt.Sprintf("02:76:7a:%02x:%02x:%02x", byte(ct.ID>>16), byte(ct.ID>>8), byte(ct.ID))
	if ct.UIDBase, err = s.freeUIDs(); err != nil {
		return err
	}
	ct.Addresses, err = s.chooseAddresses(ip)
	return err
}

func (s *State) freeUIDs() (uint32, error) {
	for base := uint64(max(firstUID, s.containers.lowUID)); base <= lastUID; base += uidsPerRange {
		if _, used := s.containers.uids.Get(number(uint32(base))); !used {
			s.containers.lowUID = uint32(base)
			return uint32(base), nil
		}
	}
	return 0, Refuse(ErrConflict, "all user id ranges are taken; destroy a container first")
}

// chooseAddresses turns what the user asked for into addresses in CIDR notation.
func (s *State) chooseAddresses(ip string) ([]string, error) {
	pool, err := s.settings.pool()
	switch {
	case err != nil:
		return nil, err
	case ip == "none", ip == "" && pool == nil:
		return []string{}, nil
	case pool == nil:
		return nil, Refuse(ErrInvalid, "the cluster has no address pool; create the container with --ip none")
	}
	addr := netip.Addr{}
	if ip == "" || ip == "auto" {
		addr, err = s.lowestFree(pool)
	} else {
		addr, err = pool.check(ip, s.taken)
	}
	if err != nil {
		return nil, err
	}
	return []string{netip.PrefixFrom(addr, pool.prefix.Bits()).String()}, nil
}

func (s *State) lowestFree(p *addressPool) (netip.Addr, error) {
	from := p.first
	if from.Less(s.containers.lowAddr) {
		from = s.containers.lowAddr
	}
	for a := from; a.IsValid() && !p.last.Less(a); a = a.Next() {
		if p.reserved(a) == "" && s.taken(a) == "" {
			s.containers.lowAddr = a
			return a, nil
		}
	}
	return netip.Addr{}, Refuse(ErrConflict, "all addresses from %s to %s are taken; destroy a container, or create this one with --ip none", p.first, p.last)
}

func (p *addressPool) check(text string, taken func(netip.Addr) string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		prefix, perr := netip.ParsePrefix(text)
		if perr != nil {
			return addr, Refuse(ErrInvalid, "%q is no IP address; use auto, none or an address in %s", text, p.prefix)
		}
		if prefix.Bits() != p.prefix.Bits() {
			return addr, Refuse(ErrInvalid, "%s has the wrong prefix length; the pool's network is %s", text, p.prefix)
		}
		addr = prefix.Addr()
	}
	switch {
	case !p.prefix.Contains(addr):
		return addr, Refuse(ErrInvalid, "%s is not in the pool's network %s; choose an address in it, or auto", addr, p.prefix)
	case p.reserved(addr) != "":
		return addr, Refuse(ErrInvalid, "%s is %s of the pool; choose another address, or auto", addr, p.reserved(addr))
	case addr.Less(p.first) || p.last.Less(addr):
		return addr, Refuse(ErrInvalid, "%s is not among the containers' addresses, %s to %s; choose one of those, or auto", addr, p.first, p.last)
	case taken(addr) != "":
		return addr, Refuse(ErrConflict, "the address %s is taken by %s; choose another address, or auto", addr, taken(addr))
	}
	return addr, nil
}
