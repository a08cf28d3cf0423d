package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// tableName is that of our tables; nobody else's is ever touched.
const tableName = "vzcluster"

// Offsets of what the rules look at, in bytes from the start of the named header.
const (
	etherSource   = 6
	etherType     = 12
	arpSenderMAC  = 8
	arpSenderAddr = 14
	ip4Source     = 12
	ip6Source     = 8
)

// setupNAT lays down the rule that masquerades what leaves the pool by another way than the bridge.
func setupNAT(bridge string, pool netip.Prefix) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	family, src, dst, size := nftables.TableFamilyIPv4, uint32(ip4Source), uint32(16), uint32(4)
	if pool.Addr().Is6() {
		family, src, dst, size = nftables.TableFamilyIPv6, ip6Source, 24, 16
	}
	t := c.AddTable(&nftables.Table{Family: family, Name: tableName})
	c.FlushTable(t)
	ch := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	inPool := func(offset uint32, op expr.CmpOp) []expr.Any {
		mask := net.CIDRMask(pool.Bits(), int(size)*8)
		return []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
			&expr.Cmp{Op: op, Register: 1, Data: pool.Masked().Addr().AsSlice()},
		}
	}
	rule := append(inPool(src, expr.CmpOpEq), inPool(dst, expr.CmpOpNeq)...)
	rule = append(
		rule,
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: ifname(bridge)},
		&expr.Masq{},
	)
	c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: rule})
	return c.Flush()
}

// The guard against spoofing is a table of the bridge family: a map sends the frames of each port to the port's own
// chain, which takes what has the container's MAC and one of its addresses as source, and drops the rest.

func guardTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyBridge, Name: tableName}
}

func guardMap(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: "ports", IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict}
}

func setupGuard() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(guardTable())
	ports := guardMap(t)
	if err := c.AddSet(ports, nil); err != nil {
		return err
	}
	first := nftables.ChainPriority(-300)
	ch := c.AddChain(&nftables.Chain{
		Name: "prerouting", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: &first,
	})
	c.FlushChain(ch)
	c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: ports.Name},
	}})
	return c.Flush()
}

// lay makes the rules of a port, all at once: what its container may say, what goes through it, and how much is counted.
func (n *Network) lay(port string, nic runtime.NIC) error {
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	err = errors.Join(filter(c, port, nic.Firewall), guard(c, port, mac, nic.Addresses), count(c, port, nic.Rates.Out, n.conf.Pool))
	if err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("cannot lay down the rules of %s: %w", port, err)
	}
	return nil
}

// lift removes the rules of a port (idempotent). It looks before: a transaction that fails waits until every processor has
// seen the old rules once more, for each of the names that a container's ports could have.
func lift(port string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	if _, err := c.ListChain(guardTable(), port); isAbsent(err) {
		return nil
	}
	if err := errors.Join(unguard(c, port), unfilter(c, port), uncount(c, port)); err != nil {
		return err
	}
	if err := c.Flush(); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("cannot remove the rules of %s: %w", port, err)
	}
	return nil
}

// isAbsent says that an object of nftables is not there; the library hides the kind of its errors.
func isAbsent(err error) bool {
	return err != nil && strings.Contains(err.Error(), syscall.ENOENT.Error())
}

// guard lets a port speak only for its MAC and addresses.
func guard(c *nftables.Conn, port string, mac net.HardwareAddr, addrs []netip.Prefix) error {
	t := guardTable()
	ch := c.AddChain(&nftables.Chain{Name: port, Table: t})
	c.FlushChain(ch)
	for _, r := range guardRules(mac, addrs, goTo(port+ways()[1].suffix)) {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: r})
	}
	return c.SetAddElements(guardMap(t), []nftables.SetElement{{
		Key: ifname(port), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: port},
	}})
}

func unguard(c *nftables.Conn, port string) error {
	t := guardTable()
	ch := &nftables.Chain{Name: port, Table: t}
	if err := c.SetDeleteElements(guardMap(t), []nftables.SetElement{{Key: ifname(port)}}); err != nil {
		return err
	}
	c.FlushChain(ch)
	c.DelChain(ch)
	return nil
}

// guardRules lets through what a container says for itself: its MAC, its addresses and, with IPv6, the link's own
// address that the MAC makes; next decides about it. Nobody inside may say that another's address is here, or that here is a router.
func guardRules(mac net.HardwareAddr, addrs []netip.Prefix, next []expr.Any) [][]expr.Any {
	accept, drop := verdict(expr.VerdictAccept), verdict(expr.VerdictDrop)
	rules := [][]expr.Any{join(link(etherSource, mac, expr.CmpOpNeq), drop)}
	arp := join(frameType(unix.ETH_P_ARP), header(arpSenderMAC, mac))
	var own6 [][]byte
	for _, p := range addrs {
		a := p.Addr().AsSlice()
		if p.Addr().Is4() {
			rules = append(rules, join(arp, header(arpSenderAddr, a), accept), join(frameType(unix.ETH_P_IP), header(ip4Source, a), next))
		} else {
			own6 = append(own6, a)
		}
	}
	if len(own6) > 0 {
		rules = append(rules, guardRules6(append(own6, linkLocal(mac)), next)...)
	}
	probe := join(arp, header(arpSenderAddr, make([]byte, 4)), accept) // asks whether an address is free, claims none
	return append(rules, probe, drop)
}

// Messages of ICMPv6 that tell others where something is.
const (
	routerAdvertisement    = 134
	neighbourAdvertisement = 136
	redirect6              = 137
)

func guardRules6(own [][]byte, next []expr.Any) [][]expr.Any {
	accept, drop := verdict(expr.VerdictAccept), verdict(expr.VerdictDrop)
	v6 := frameType(unix.ETH_P_IPV6)
	says := func(message byte) []expr.Any {
		return join(v6, protocol(unix.IPPROTO_ICMPV6), transport(0, []byte{message}))
	}
	rules := [][]expr.Any{join(says(routerAdvertisement), drop), join(says(redirect6), drop)}
	for _, a := range own {
		for _, from := range own {
			rules = append(rules, join(says(neighbourAdvertisement), transport(8, a), header(ip6Source, from), accept))
		}
	}
	rules = append(rules, join(says(neighbourAdvertisement), drop))
	for _, a := range append(own, make([]byte, 16)) { // no address: whether one is free is asked that way
		rules = append(rules, join(v6, header(ip6Source, a), next))
	}
	return rules
}

// linkLocal is the address that the kernel makes of a MAC.
func linkLocal(mac net.HardwareAddr) []byte {
	return []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}
}

func protocol(p byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{p}}}
}

func transport(offset uint32, data []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: uint32(len(data))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
	}
}

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func link(offset uint32, data []byte, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: offset, Len: uint32(len(data))},
		&expr.Cmp{Op: op, Register: 1, Data: data},
	}
}

func header(offset uint32, data []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(data))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
	}
}

func frameType(t uint16) []expr.Any {
	return link(etherType, binaryutil.BigEndian.PutUint16(t), expr.CmpOpEq)
}

// goTo hands over to a chain for good.
func goTo(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

// ifname is an interface name as the kernel compares it.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
