package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
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

// guard lets the port of a container speak only for its MAC and addresses.
func guard(id int, mac net.HardwareAddr, addrs []netip.Prefix) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := guardTable()
	ch := c.AddChain(&nftables.Chain{Name: PortName(id), Table: t})
	c.FlushChain(ch)
	for _, r := range guardRules(mac, addrs) {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: r})
	}
	if err := c.SetAddElements(guardMap(t), guardElement(id)); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("cannot guard the NIC against spoofing: %w", err)
	}
	return nil
}

func guardElement(id int) []nftables.SetElement {
	return []nftables.SetElement{{
		Key: ifname(PortName(id)), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: PortName(id)},
	}}
}

// unguard removes the rules of a port (idempotent).
func unguard(id int) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := guardTable()
	ch := &nftables.Chain{Name: PortName(id), Table: t}
	if err := c.SetDeleteElements(guardMap(t), []nftables.SetElement{{Key: ifname(PortName(id))}}); err != nil {
		return err
	}
	c.FlushChain(ch)
	c.DelChain(ch)
	if err := c.Flush(); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("cannot remove the rules of container %d: %w", id, err)
	}
	return nil
}

func guardRules(mac net.HardwareAddr, addrs []netip.Prefix) [][]expr.Any {
	accept, drop := verdict(expr.VerdictAccept), verdict(expr.VerdictDrop)
	rules := [][]expr.Any{join(link(etherSource, mac, expr.CmpOpNeq), drop)}
	arp := join(frameType(unix.ETH_P_ARP), header(arpSenderMAC, mac))
	v6 := false
	for _, p := range addrs {
		a := p.Addr().AsSlice()
		if p.Addr().Is4() {
			rules = append(rules, join(arp, header(arpSenderAddr, a), accept), join(frameType(unix.ETH_P_IP), header(ip4Source, a), accept))
		} else {
			v6 = true
			rules = append(rules, join(frameType(unix.ETH_P_IPV6), header(ip6Source, a), accept))
		}
	}
	if v6 { // the link-local address and, before it is chosen, none
		rules = append(
			rules,
			join(frameType(unix.ETH_P_IPV6), header(ip6Source, []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0}), accept),
			join(frameType(unix.ETH_P_IPV6), header(ip6Source, make([]byte, 16)), accept),
		)
	}
	probe := join(arp, header(arpSenderAddr, make([]byte, 4)), accept) // asks whether an address is free, claims none
	return append(rules, probe, drop)
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

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

// ifname is an interface name as the kernel compares it.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
