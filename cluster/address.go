package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Numbers that containers get. A container keeps its uid range wherever it runs, so ranges are cluster-wide.
const (
	maxCTID      = 1<<24 - 1 // what the last three bytes of a MAC can hold
	firstUID     = 1 << 20
	uidsPerRange = 1 << 16
	lastUID      = 1<<32 - 2*uidsPerRange // the very last range holds uid -1
)

// AddressPool is what containers get addresses from: those from First to Last of a network.
type AddressPool struct {
	Prefix  string `json:"prefix"` // CIDR
	First   string `json:"first"`
	Last    string `json:"last"`
	Gateway string `json:"gateway,omitempty"` // default route of those who have an address of it
}

// addressPool is a parsed AddressPool.
type addressPool struct {
	prefix      netip.Prefix
	first, last netip.Addr // of those that containers can have
	gateway     netip.Addr // may be zero
}

func (a AddressPool) parse() (*addressPool, error) {
	prefix, err := netip.ParsePrefix(a.Prefix)
	if err != nil {
		return nil, Refuse(ErrInvalid, "the address pool %q is no network in CIDR notation, such as 10.77.0.0/16", a.Prefix)
	}
	p := &addressPool{prefix: prefix.Masked()}
	parts := []struct {
		what, text string
		to         *netip.Addr
		optional   bool
	}{
		{"first address", a.First, &p.first, false},
		{"last address", a.Last, &p.last, false},
		{"gateway", a.Gateway, &p.gateway, true},
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

func parsePools(pools []AddressPool) ([]*addressPool, error) {
	var all []*addressPool
	for _, a := range pools {
		p, err := a.parse()
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
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
	ct.MAC = macOf(ct.ID, 0)
	if ct.UIDBase, err = s.freeUIDs(); err != nil {
		return err
	}
	if err := ct.Firewall.Check(); err != nil {
		return err
	}
	wanted := ct.NICs
	ct.NICs, ct.Ports = nil, nil
	if ct.Addresses, err = s.chooseAddresses(ct, ct.Network, ip, nil); err != nil {
		return err
	}
	for _, n := range wanted {
		if err := s.addNIC(ct, n); err != nil {
			return err
		}
	}
	return nil
}

// macOf is the MAC of a container's NIC.
func macOf(id, nic int) string {
	return fmt.Sprintf("02:76:%02x:%02x:%02x:%02x", 0x7a+nic, byte(id>>16), byte(id>>8), byte(id))
}

func (s *State) freeUIDs() (uint32, error) {
	for base := uint64(max(firstUID, s.containers.lowUID)); base <= lastUID; base += uidsPerRange {
		if _, used := s.containers.uids.get(number(uint32(base))); !used {
			s.containers.lowUID = uint32(base)
			return uint32(base), nil
		}
	}
	return 0, Refuse(ErrConflict, "all user id ranges are taken; destroy a container first")
}

// Words that stand for addresses.
const (
	autoAddress  = "auto"  // a free one of every pool of the network
	autoAddress4 = "auto4" // of the pool of IPv4
	autoAddress6 = "auto6"
	noAddress    = "none"
)

// chooser gathers the addresses of one NIC.
type chooser struct {
	s      *State
	pools  []*addressPool
	keep   []string // what the NIC has; wanted again, they are no conflict
	chosen []netip.Prefix
	others []netip.Addr // of the same container: not recorded yet
}

// chooseAddresses turns what the user asked for, words and addresses between commas, into addresses in CIDR notation.
// What the NIC has now is kept where it is asked for again.
func (s *State) chooseAddresses(ct *Container, network, ip string, have []string) ([]string, error) {
	n, err := s.mustNetwork(network)
	if err != nil {
		return nil, err
	}
	pools, err := parsePools(n.Pools)
	switch {
	case err != nil:
		return nil, err
	case ip == noAddress, ip == "" && len(pools) == 0:
		return []string{}, nil
	case len(pools) == 0:
		return nil, Refuse(ErrInvalid, "%s has no address pool; use --ip none, or give it a pool with 'vzcluster network add-pool'", n.say())
	case ip == "":
		ip = autoAddress
	}
	c := &chooser{s: s, pools: pools, keep: have, others: ct.bareAddresses()}
	for word := range strings.SplitSeq(ip, ",") {
		if err := c.choose(strings.TrimSpace(word)); err != nil {
			return nil, err
		}
	}
	return c.texts(), nil
}

// addAddresses chooses further addresses beside those that the NIC has.
func (s *State) addAddresses(network string, have, words []string) ([]string, error) {
	n, err := s.mustNetwork(network)
	if err != nil {
		return nil, err
	}
	pools, err := parsePools(n.Pools)
	if err != nil {
		return nil, err
	}
	c := &chooser{s: s, pools: pools}
	for _, text := range have {
		if p, err := netip.ParsePrefix(text); err == nil {
			c.chosen = append(c.chosen, p)
		}
	}
	for _, word := range words {
		if word == noAddress {
			return nil, Refuse(ErrInvalid, "none is nothing to add; --ip none takes all addresses away")
		}
		if err := c.choose(word); err != nil {
			return nil, err
		}
	}
	return c.texts(), nil
}

// dropAddresses takes addresses away.
func dropAddresses(ct *Container, have, words []string) ([]string, error) {
	left := slices.Clone(have)
	for _, word := range words {
		i := slices.IndexFunc(left, func(text string) bool { return text == word || strings.HasPrefix(text, word+"/") })
		if i < 0 {
			return nil, Refuse(ErrInvalid, "%s does not have the address %s; 'vzcluster show %s' lists what it has", ct.Ref(), word, ct.Name)
		}
		left = slices.Delete(left, i, i+1)
	}
	return left, nil
}

func (c *chooser) texts() []string {
	out := make([]string, len(c.chosen))
	for i, p := range c.chosen {
		out[i] = p.String()
	}
	return out
}

// choose adds the address or addresses that a word stands for.
func (c *chooser) choose(word string) error {
	switch word {
	case autoAddress, autoAddress4, autoAddress6:
		return c.auto(word)
	case noAddress:
		return Refuse(ErrInvalid, "none stands alone; give addresses or none, not both")
	}
	if len(c.chosen) >= maxAddresses {
		return Refuse(ErrInvalid, "a network card can have %d addresses at most", maxAddresses)
	}
	pool := c.pools[0]
	if a, err := parseAddress(word); err == nil {
		for _, p := range c.pools {
			if p.prefix.Contains(a) || p.prefix.Addr().Is4() == a.Is4() && !pool.prefix.Contains(a) {
				pool = p
			}
		}
	}
	addr, err := pool.check(word, c.taken)
	if err != nil {
		return err
	}
	return c.add(pool, addr)
}

// maxAddresses of one NIC; each is several firewall rules.
const maxAddresses = 32

func (c *chooser) add(p *addressPool, a netip.Addr) error {
	prefix := netip.PrefixFrom(a, p.prefix.Bits())
	if slices.Contains(c.chosen, prefix) {
		return Refuse(ErrInvalid, "the address %s is there already, or was given twice", a)
	}
	c.chosen = append(c.chosen, prefix)
	return nil
}

// taken says who has an address that is not the NIC's own.
func (c *chooser) taken(a netip.Addr) string {
	for _, text := range c.keep {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr() == a {
			return ""
		}
	}
	if who := c.s.taken(a); who != "" {
		return who
	}
	if slices.Contains(c.others, a) {
		return "another of its network cards"
	}
	return ""
}

func (c *chooser) auto(word string) error {
	found := false
	for _, p := range c.pools {
		if v4 := p.prefix.Addr().Is4(); word == autoAddress4 && !v4 || word == autoAddress6 && v4 {
			continue
		}
		found = true
		a, ok := c.kept(p)
		if !ok {
			var err error
			if a, err = c.s.lowestFree(p, c.chosen, c.others); err != nil {
				return err
			}
		}
		if err := c.add(p, a); err != nil {
			return err
		}
	}
	if !found {
		return Refuse(ErrInvalid, "the network has no address pool for %s; add one with 'vzcluster network add-pool'", word)
	}
	return nil
}

// kept is an address of the pool that the NIC has and that is not among the chosen ones yet.
func (c *chooser) kept(pool *addressPool) (netip.Addr, bool) {
	for _, text := range c.keep {
		if p, err := netip.ParsePrefix(text); err == nil && pool.prefix.Contains(p.Addr()) && !slices.Contains(c.chosen, p) {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// lowestFree is the lowest address of a pool that nobody has and that is not about to be given out.
func (s *State) lowestFree(p *addressPool, chosen []netip.Prefix, others []netip.Addr) (netip.Addr, error) {
	from := p.first
	if low, ok := s.containers.low[p.prefix]; ok && from.Less(low) {
		from = low
	}
	for a := from; a.IsValid() && !p.last.Less(a); a = a.Next() {
		if p.reserved(a) == "" && s.taken(a) == "" && !slices.Contains(others, a) && !slices.Contains(chosen, netip.PrefixFrom(a, p.prefix.Bits())) {
			s.containers.noneBelow(p.prefix, a)
			return a, nil
		}
	}
	return netip.Addr{}, Refuse(ErrConflict, "all addresses from %s to %s are taken; destroy a container, or create this one with --ip none", p.first, p.last)
}

// parseAddress reads an address with or without its prefix length.
func parseAddress(text string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr(), nil
	}
	return netip.ParseAddr(text)
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
