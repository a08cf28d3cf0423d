package network

import (
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// A container's firewall is two chains of its port, for what it gets and for what it sends. It keeps no connections: a
// container that has moved goes on with those that it has, on a host that has never seen them. Of TCP only the segment
// that begins a connection is asked for; of UDP, an exchange that was let through once goes on in both directions until
// it rests for a while.

// flowTime is how long an exchange of UDP may rest.
const flowTime = 3 * time.Minute

// way is one of the two directions of a firewall.
type way struct {
	out            bool
	suffix         string
	ip4, ip6       uint32 // offsets of the other side's address
	remote, local  uint32 // offsets of the ports
	always4, more6 []byte // messages of ICMP that are let through: answers, errors and what finds neighbours
}

func ways() []way {
	neighbours := []byte{1, 2, 3, 4, 129, 130, 131, 132, 133, 134, 135, 136, 143}
	return []way{
		{suffix: "-in", ip4: ip4Source, ip6: ip6Source, remote: 0, local: 2, always4: []byte{0, 3, 11, 12}, more6: neighbours},
		{out: true, suffix: "-out", ip4: 16, ip6: 24, remote: 2, local: 0, always4: []byte{0, 3, 11, 12}, more6: neighbours},
	}
}

func filterMap(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: "firewalls", IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict}
}

// setupFilter makes the chain that sends what goes to a port to the port's own chain.
func setupFilter() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(guardTable())
	ports := filterMap(t)
	if err := c.AddSet(ports, nil); err != nil {
		return err
	}
	ch := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityFilter,
	})
	c.FlushChain(ch)
	c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: ports.Name},
	}})
	return c.Flush()
}

// flows are the exchanges of UDP of a port; the key is the other side's address and both ports.
func flows(t *nftables.Table, port string, v6 bool) *nftables.Set {
	set := &nftables.Set{Table: t, Name: port + "-flows4", Dynamic: true, HasTimeout: true, Timeout: flowTime, Concatenation: true, Size: 1 << 16}
	set.KeyType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService, nftables.TypeInetService)
	if v6 {
		set.Name = port + "-flows6"
		set.KeyType = nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetService, nftables.TypeInetService)
	}
	return set
}

// filter lays down a port's firewall; without one its chains are empty and let everything through.
func filter(c *nftables.Conn, port string, f *runtime.Firewall) error {
	t := guardTable()
	for _, v6 := range []bool{false, true} {
		if err := c.AddSet(flows(t, port, v6), nil); err != nil {
			return err
		}
	}
	for _, w := range ways() {
		ch := c.AddChain(&nftables.Chain{Name: port + w.suffix, Table: t})
		c.FlushChain(ch)
		for _, r := range w.rules(port, f) {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: r})
		}
	}
	return c.SetAddElements(filterMap(t), []nftables.SetElement{{
		Key: ifname(port), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: port + ways()[0].suffix},
	}})
}

func unfilter(c *nftables.Conn, port string) error {
	t := guardTable()
	if err := c.SetDeleteElements(filterMap(t), []nftables.SetElement{{Key: ifname(port)}}); err != nil {
		return err
	}
	for _, w := range ways() {
		ch := &nftables.Chain{Name: port + w.suffix, Table: t}
		c.FlushChain(ch)
		c.DelChain(ch)
	}
	for _, v6 := range []bool{false, true} {
		c.DelSet(flows(t, port, v6))
	}
	return nil
}

// rules are those of one direction, in their order.
func (w way) rules(port string, f *runtime.Firewall) [][]expr.Any {
	if f == nil {
		return nil
	}
	accept := verdict(expr.VerdictAccept)
	rules := [][]expr.Any{
		join(ether(unix.ETH_P_ARP), accept),
		join(ether(unix.ETH_P_IP), laterFragment(), accept),
		join(protocol(unix.IPPROTO_TCP), notSYN(), accept),
	}
	for _, m := range w.always4 {
		rules = append(rules, join(ether(unix.ETH_P_IP), protocol(unix.IPPROTO_ICMP), transport(0, []byte{m}), accept))
	}
	for _, m := range w.more6 {
		rules = append(rules, join(ether(unix.ETH_P_IPV6), protocol(unix.IPPROTO_ICMPV6), transport(0, []byte{m}), accept))
	}
	for _, v6 := range []bool{false, true} {
		key, set := w.flow(v6), flows(guardTable(), port, v6)
		rules = append(rules, join(key, []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set.Name}}, accept))
	}
	for _, r := range f.Rules {
		if r.Out == w.out {
			rules = append(rules, w.rule(port, r)...)
		}
	}
	last := runtime.FirewallRule{Deny: f.DenyIn}
	if w.out {
		last.Deny = f.DenyOut
	}
	return append(rules, w.rule(port, last)...)
}

// rule is what becomes of one rule: of each protocol and kind of address that it is about.
func (w way) rule(port string, r runtime.FirewallRule) [][]expr.Any {
	var match []expr.Any
	switch {
	case !r.Peer.IsValid():
	case r.Peer.Addr().Is4():
		match = join(ether(unix.ETH_P_IP), within(w.ip4, r.Peer.Addr().AsSlice(), r.Peer.Bits()))
	default:
		match = join(ether(unix.ETH_P_IPV6), within(w.ip6, r.Peer.Addr().AsSlice(), r.Peer.Bits()))
	}
	if r.Deny {
		return eachProtocol(r, func(about []expr.Any) []expr.Any { return join(about, match, verdict(expr.VerdictDrop)) })
	}
	var rules [][]expr.Any
	if r.Proto == 0 || r.Proto == unix.IPPROTO_UDP {
		r := r
		r.Proto = unix.IPPROTO_UDP
		for _, v6 := range []bool{false, true} {
			keep := &expr.Dynset{SrcRegKey: 1, SetName: flows(guardTable(), port, v6).Name, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE), Timeout: flowTime}
			rules = append(rules, eachProtocol(r, func(about []expr.Any) []expr.Any {
				return join(about, match, w.flow(v6), []expr.Any{keep}, verdict(expr.VerdictAccept))
			})...)
		}
	}
	return append(rules, eachProtocol(r, func(about []expr.Any) []expr.Any { return join(about, match, verdict(expr.VerdictAccept)) })...)
}

// eachProtocol makes a rule for every protocol that a rule means. Its ports are those of the side that is called.
func eachProtocol(r runtime.FirewallRule, rule func(about []expr.Any) []expr.Any) [][]expr.Any {
	switch r.Proto {
	case 0:
		return [][]expr.Any{rule(nil)}
	case unix.IPPROTO_ICMP:
		return [][]expr.Any{rule(protocol(unix.IPPROTO_ICMP)), rule(protocol(unix.IPPROTO_ICMPV6))}
	}
	about := protocol(r.Proto)
	if r.Last > 0 {
		about = join(about, []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: binaryutil.BigEndian.PutUint16(r.First), ToData: binaryutil.BigEndian.PutUint16(r.Last)},
		})
	}
	return [][]expr.Any{rule(about)}
}

// flow loads the key of an exchange of UDP into the registers from the first on.
func (w way) flow(v6 bool) []expr.Any {
	kind, offset, size, second := uint16(unix.ETH_P_IP), w.ip4, uint32(4), uint32(unix.NFT_REG32_01)
	if v6 {
		kind, offset, size, second = unix.ETH_P_IPV6, w.ip6, 16, unix.NFT_REG32_04
	}
	return join(ether(kind), protocol(unix.IPPROTO_UDP), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Payload{DestRegister: second, Base: expr.PayloadBaseTransportHeader, Offset: w.remote, Len: 2},
		&expr.Payload{DestRegister: second + 1, Base: expr.PayloadBaseTransportHeader, Offset: w.local, Len: 2},
	})
}

// ether matches what a frame carries.
func ether(kind uint16) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(kind)}}
}

// within matches an address of a network.
func within(offset uint32, addr []byte, bits int) []expr.Any {
	mask := make([]byte, len(addr))
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return masked(expr.PayloadBaseNetworkHeader, offset, mask, addr, expr.CmpOpEq)
}

// laterFragment matches all fragments of a packet of IPv4 but its first: they have no ports, and without the first they
// are nothing.
func laterFragment() []expr.Any {
	return masked(expr.PayloadBaseNetworkHeader, 6, []byte{0x1f, 0xff}, []byte{0, 0}, expr.CmpOpNeq)
}

// notSYN matches what does not begin a connection of TCP.
func notSYN() []expr.Any {
	const syn, ack = 0x02, 0x10
	return masked(expr.PayloadBaseTransportHeader, 13, []byte{syn | ack}, []byte{syn}, expr.CmpOpNeq)
}

func masked(base expr.PayloadBase, offset uint32, mask, want []byte, op expr.CmpOp) []expr.Any {
	size := uint32(len(mask))
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: 1, Data: want},
	}
}
