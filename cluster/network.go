package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// DefaultNetwork is the name of the network that init lays down: the bridge of every host, on one LAN.
const DefaultNetwork = "default"

// NIC is a network card of a container beside its first one.
type NIC struct {
	Index     int      `json:"index"`   // from 1
	Name      string   `json:"name"`    // inside
	Network   string   `json:"network"` // empty: the default one
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses"` // CIDR notation
}

func (n NIC) inDefault() bool { return n.Network == "" || n.Network == DefaultNetwork }

// AllNICs returns a container's NICs, the first one included.
func (c *Container) AllNICs() []NIC {
	return append([]NIC{{Name: "eth0", Network: c.Network, MAC: c.MAC, Addresses: c.Addresses}}, c.NICs...)
}

// NetworkKind says what joins the hosts' parts of a network.
type NetworkKind string

// The kinds of network.
const (
	NetworkLAN     NetworkKind = "lan"     // the LAN of the hosts' uplinks: the default network
	NetworkVLAN    NetworkKind = "vlan"    // a VLAN of that LAN
	NetworkBridge  NetworkKind = "bridge"  // a bridge that every host has; what joins them is not ours
	NetworkOverlay NetworkKind = "overlay" // VXLAN between the hosts, which need no LAN in common
)

// Network is what containers' NICs are in. Addresses are the cluster's to give: no two networks share any.
type Network struct {
	Name   string        `json:"name"`
	Kind   NetworkKind   `json:"kind"`
	VLAN   int           `json:"vlan,omitempty"`   // vlan
	Bridge string        `json:"bridge,omitempty"` // bridge
	VNI    int           `json:"vni,omitempty"`    // overlay; of the VXLAN
	Pools  []AddressPool `json:"pools"`            // at most one of IPv4 and one of IPv6
}

// say names the network in sentences.
func (n *Network) say() string {
	if n.Name == DefaultNetwork {
		return "the cluster"
	}
	return "network " + n.Name
}

// pools are those of the default network.
func (s *Settings) pools() []AddressPool {
	var all []AddressPool
	if s == nil {
		return nil
	}
	if s.Pool != "" {
		all = append(all, AddressPool{Prefix: s.Pool, First: s.PoolFirst, Last: s.PoolLast, Gateway: s.Gateway})
	}
	if s.Pool6 != nil {
		all = append(all, *s.Pool6)
	}
	return all
}

// Network returns a network by name, nil when there is none; the empty name is the default one's.
func (s *State) Network(name string) *Network {
	if name == "" || name == DefaultNetwork {
		return &Network{Name: DefaultNetwork, Kind: NetworkLAN, Pools: s.settings.pools()}
	}
	return s.networks[name]
}

// Networks returns all networks, the default one first.
func (s *State) Networks() []*Network {
	others := slices.SortedFunc(maps.Values(s.networks), func(a, b *Network) int { return cmp.Compare(a.Name, b.Name) })
	return append([]*Network{s.Network("")}, others...)
}

func (s *State) mustNetwork(name string) (*Network, error) {
	n := s.Network(name)
	if n == nil {
		return nil, Refuse(ErrNotFound, "there is no network %q; 'vzcluster network ls' shows the networks", name)
	}
	return n, nil
}

func (c AddNetwork) apply(s *State) (any, error) {
	n := c.Network
	if err := n.check(); err != nil {
		return nil, err
	}
	if n.Kind == NetworkOverlay && n.VNI == 0 {
		n.VNI = s.freeVNI()
	}
	if old := s.networks[n.Name]; old != nil {
		if old.same(&n) || c.Network.VNI == 0 && old.sameBut(&n) {
			return old, nil
		}
		return nil, Refuse(ErrConflict, "there is a network %q already; choose another name", n.Name)
	}
	for _, o := range s.networks {
		if o.Kind == n.Kind && o.VLAN == n.VLAN && o.VNI == n.VNI && o.Bridge == n.Bridge {
			return nil, Refuse(ErrConflict, "network %s is the same %s already; use that", o.Name, n.where())
		}
	}
	pools := n.Pools
	n.Pools = nil
	for _, p := range pools {
		if _, err := s.checkPool(&n, p); err != nil {
			return nil, err
		}
		n.Pools = append(n.Pools, p)
	}
	put(s, &s.networks, n.Name, &n)
	return &n, nil
}

// Bounds of what a network is told apart by.
const (
	maxVLAN     = 4094
	firstVNI    = 1000
	maxVNI      = 1<<24 - 1
	maxLinkName = 15
)

func (n *Network) check() error {
	if err := CheckName("network", n.Name); err != nil {
		return err
	}
	if n.Name == DefaultNetwork {
		return Refuse(ErrConflict, "the network %q is there from the beginning; choose another name", n.Name)
	}
	switch n.Kind {
	case NetworkVLAN:
		if n.VLAN < 1 || n.VLAN > maxVLAN {
			return Refuse(ErrInvalid, "%d is no VLAN; choose one from 1 to %d", n.VLAN, maxVLAN)
		}
	case NetworkBridge:
		if n.Bridge == "" || len(n.Bridge) > maxLinkName || strings.ContainsAny(n.Bridge, "/ :") {
			return Refuse(ErrInvalid, "%q is no name of a bridge", n.Bridge)
		}
	case NetworkOverlay:
		if n.VNI < 0 || n.VNI > maxVNI {
			return Refuse(ErrInvalid, "%d is no number of a VXLAN; choose one up to %d, or none to get a free one", n.VNI, maxVNI)
		}
	default:
		return Refuse(ErrInvalid, "%q is no kind of network; use vlan, bridge or overlay", n.Kind)
	}
	if n.VLAN != 0 && n.Kind != NetworkVLAN || n.Bridge != "" && n.Kind != NetworkBridge || n.VNI != 0 && n.Kind != NetworkOverlay {
		return Refuse(ErrInvalid, "a network is one of a VLAN, a bridge and an overlay; give the number or the name of one")
	}
	return nil
}

// where says what joins the network's parts.
func (n *Network) where() string {
	switch n.Kind {
	case NetworkVLAN:
		return fmt.Sprintf("VLAN %d", n.VLAN)
	case NetworkBridge:
		return "bridge " + n.Bridge
	case NetworkOverlay:
		return fmt.Sprintf("VXLAN %d", n.VNI)
	}
	return "LAN"
}

func (n *Network) same(o *Network) bool { return n.VNI == o.VNI && n.sameBut(o) }

// sameBut compares all but the number that the state may have chosen.
func (n *Network) sameBut(o *Network) bool {
	return n.Kind == o.Kind && n.VLAN == o.VLAN && n.Bridge == o.Bridge && slices.Equal(n.Pools, o.Pools)
}

func (s *State) freeVNI() int {
	used := map[int]bool{}
	for _, n := range s.networks {
		used[n.VNI] = true
	}
	vni := firstVNI
	for used[vni] {
		vni++
	}
	return vni
}

func (c DropNetwork) apply(s *State) (any, error) {
	if c.Name == DefaultNetwork {
		return nil, Refuse(ErrConflict, "the default network cannot be removed")
	}
	if _, err := s.mustNetwork(c.Name); err != nil {
		return nil, err
	}
	for _, ct := range s.list() {
		for _, nic := range ct.AllNICs() {
			if nic.Network == c.Name {
				return nil, Refuse(ErrConflict, "%s is in network %s; take it out or destroy it first", ct.Ref(), c.Name)
			}
		}
	}
	drop(s, &s.networks, c.Name)
	return nil, nil
}

func (c AddPool) apply(s *State) (any, error) {
	if s.settings == nil {
		return nil, Refuse(ErrConflict, "there is no cluster yet; run 'vzcluster init' on its first host")
	}
	n, err := s.mustNetwork(c.Network)
	if err != nil {
		return nil, err
	}
	if slices.Contains(n.Pools, c.Pool) {
		return n, nil
	}
	pool, err := s.checkPool(n, c.Pool)
	if err != nil {
		return nil, err
	}
	now := *n
	now.Pools = append(slices.Clone(n.Pools), c.Pool)
	if n.Name != DefaultNetwork {
		put(s, &s.networks, now.Name, &now)
		return &now, nil
	}
	settings := *s.settings
	if pool.prefix.Addr().Is4() {
		settings.Pool, settings.PoolFirst, settings.PoolLast, settings.Gateway = c.Pool.Prefix, c.Pool.First, c.Pool.Last, c.Pool.Gateway
	} else {
		settings.Pool6 = &c.Pool
	}
	s.settings = &settings
	s.touch()
	return s.Network(""), nil
}

// checkPool says whether a network may have one more pool.
func (s *State) checkPool(n *Network, a AddressPool) (*addressPool, error) {
	pool, err := a.parse()
	if err != nil {
		return nil, err
	}
	for _, old := range n.Pools {
		if p, err := netip.ParsePrefix(old.Prefix); err == nil && p.Addr().Is4() == pool.prefix.Addr().Is4() {
			return nil, Refuse(ErrConflict, "network %s has the pool %s already, and one pool of a kind is enough", n.Name, old.Prefix)
		}
	}
	for _, o := range s.Networks() {
		for _, old := range o.Pools {
			if p, err := netip.ParsePrefix(old.Prefix); err == nil && p.Overlaps(pool.prefix) {
				return nil, Refuse(ErrConflict, "%s overlaps with %s of network %s; choose another range", pool.prefix, old.Prefix, o.Name)
			}
		}
	}
	return pool, nil
}

// setNetwork changes a container's network cards, firewall and published ports as the command says.
func (c SetContainer) setNetwork(s *State, ct *Container) (err error) {
	if c.Firewall != nil {
		if err := c.Firewall.Check(); err != nil {
			return err
		}
		if ct.Firewall = c.Firewall; ct.Firewall.Empty() {
			ct.Firewall = nil
		}
	}
	if c.IP != nil {
		if ct.Addresses, err = s.chooseAddresses(&Container{NICs: ct.NICs}, ct.Network, *c.IP, ct.Addresses); err != nil {
			return err
		}
	}
	if ct.Addresses, err = dropAddresses(ct, ct.Addresses, c.IPDel); err != nil {
		return err
	}
	if len(c.IPAdd) > 0 {
		if ct.Addresses, err = s.addAddresses(ct.Network, ct.Addresses, c.IPAdd); err != nil {
			return err
		}
	}
	if err := ct.setDNS(c.NameServers, c.SearchDomains); err != nil {
		return err
	}
	if err := c.setNICs(s, ct); err != nil {
		return err
	}
	return c.setPorts(s, ct)
}

func (c SetContainer) setNICs(s *State, ct *Container) error {
	ct.NICs = slices.Clone(ct.NICs)
	for _, name := range c.NICDel {
		i := slices.IndexFunc(ct.NICs, func(n NIC) bool { return n.Name == name })
		if i < 0 {
			return Refuse(ErrInvalid, "%s has no network card %q beside eth0 that could be taken away; 'vzcluster show %s' lists them", ct.Ref(), name, ct.Name)
		}
		ct.NICs = slices.Delete(ct.NICs, i, i+1)
	}
	for _, n := range c.NICAdd {
		if err := s.addNIC(ct, n); err != nil {
			return err
		}
	}
	return nil
}

// maxNICs is how many network cards a container can have, the first one included.
const maxNICs = 8

// addNIC gives a container one more card; its addresses are words as in SetContainer.IP.
func (s *State) addNIC(ct *Container, n NIC) (err error) {
	if n.Name == "" || len(n.Name) > maxLinkName || strings.ContainsAny(n.Name, "/ :.") || n.Name == "lo" {
		return Refuse(ErrInvalid, "%q is no name of a network card; use up to %d letters and digits, such as eth1", n.Name, maxLinkName)
	}
	used := map[int]bool{}
	for _, o := range ct.AllNICs() {
		used[o.Index] = true
		if o.Name == n.Name {
			return Refuse(ErrConflict, "%s has a network card %s already; choose another name", ct.Ref(), n.Name)
		}
	}
	if n.Index == 0 || used[n.Index] {
		for n.Index = 1; used[n.Index]; n.Index++ {
		}
	}
	if n.Index < 1 || n.Index >= maxNICs {
		return Refuse(ErrInvalid, "a container can have %d network cards at most", maxNICs)
	}
	n.MAC = macOf(ct.ID, n.Index)
	if n.Addresses, err = s.chooseAddresses(ct, n.Network, strings.Join(n.Addresses, ","), nil); err != nil {
		return err
	}
	ct.NICs = append(ct.NICs, n)
	slices.SortFunc(ct.NICs, func(a, b NIC) int { return cmp.Compare(a.Index, b.Index) })
	return nil
}

// sameNetwork reports whether two records of a container have the same NICs, firewall and resolver.
func (c *Container) sameNetwork(o *Container) bool {
	same := func(a, b NIC) bool {
		return a.Index == b.Index && a.Name == b.Name && a.Network == b.Network && a.MAC == b.MAC && slices.Equal(a.Addresses, b.Addresses)
	}
	return slices.EqualFunc(c.AllNICs(), o.AllNICs(), same) && c.Firewall.equal(o.Firewall) && slices.Equal(c.Ports, o.Ports) && c.sameDNS(o)
}
