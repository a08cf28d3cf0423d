package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// What containers send and get is counted by class, and what they send is limited, in two more chains of the table
// against spoofing: each sends the frames of a port to the port's own chain. What they get is limited by a queue at the
// port, which delays; what they send can only be dropped.

// direction is one of the two.
type direction struct {
	name  string // of chain and map
	hook  *nftables.ChainHook
	iface expr.MetaKey
	peer  uint32 // offset of the other side's address in the IPv4 header
}

func directions() []direction {
	return []direction{
		{"sent", nftables.ChainHookPrerouting, expr.MetaKeyIIFNAME, 16},
		{"received", nftables.ChainHookPostrouting, expr.MetaKeyOIFNAME, ip4Source},
	}
}

// classes of traffic: with the pool's addresses and what has no address, and with all others.
func classes() []string { return []string{"local", "outside"} }

func (d direction) ports(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: d.name, IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict}
}

func (d direction) chain(port string) string { return port + "-" + d.name }

func (d direction) counter(port, class string) string { return d.chain(port) + "-" + class }

// setupTraffic makes the chains that all ports share.
func setupTraffic() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(guardTable())
	before := nftables.ChainPriority(-350)
	for _, d := range directions() {
		ports := d.ports(t)
		if err := c.AddSet(ports, nil); err != nil {
			return err
		}
		ch := c.AddChain(&nftables.Chain{Name: "all-" + d.name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: d.hook, Priority: &before})
		c.FlushChain(ch)
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{
			&expr.Meta{Key: d.iface, Register: 1},
			&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: ports.Name},
		}})
	}
	return c.Flush()
}

// count begins to count a port's traffic and limits what it sends.
func count(c *nftables.Conn, port string, out int64, pool netip.Prefix) error {
	t := guardTable()
	for _, d := range directions() {
		for _, class := range classes() {
			c.AddObj(&nftables.CounterObj{Table: t, Name: d.counter(port, class)})
		}
		if err := d.rules(c, port, out, pool); err != nil {
			return fmt.Errorf("cannot count the traffic of %s: %w", port, err)
		}
	}
	return nil
}

// rules makes a port's chain anew.
func (d direction) rules(c *nftables.Conn, port string, out int64, pool netip.Prefix) error {
	t := guardTable()
	ch := c.AddChain(&nftables.Chain{Name: d.chain(port), Table: t})
	c.FlushChain(ch)
	rule := func(e ...expr.Any) { c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: e}) }
	if out > 0 && d.hook == nftables.ChainHookPrerouting {
		rule(&expr.Limit{Type: expr.LimitTypePktBytes, Rate: uint64(out), Unit: expr.LimitTimeSecond, Over: true, Burst: largest}, &expr.Verdict{Kind: expr.VerdictDrop})
	}
	counted := func(class string) []expr.Any {
		return []expr.Any{&expr.Objref{Type: 1, Name: d.counter(port, class)}, &expr.Verdict{Kind: expr.VerdictReturn}}
	}
	if pool.IsValid() && pool.Addr().Is4() {
		rule(append(join(frameType(unix.ETH_P_IP), notIn(pool, d.peer)), counted("outside")...)...)
	}
	rule(counted("local")...)
	return c.SetAddElements(d.ports(t), []nftables.SetElement{{
		Key: ifname(port), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: d.chain(port)},
	}})
}

func notIn(pool netip.Prefix, offset uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(pool.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: pool.Masked().Addr().AsSlice()},
	}
}

// uncount forgets a port's traffic.
func uncount(c *nftables.Conn, port string) error {
	t := guardTable()
	for _, d := range directions() {
		ch := &nftables.Chain{Name: d.chain(port), Table: t}
		if err := c.SetDeleteElements(d.ports(t), []nftables.SetElement{{Key: ifname(port)}}); err != nil {
			return err
		}
		c.FlushChain(ch)
		c.DelChain(ch)
		for _, class := range classes() {
			c.DeleteObject(&nftables.CounterObj{Table: t, Name: d.counter(port, class)})
		}
	}
	return nil
}

// Traffic implements runtime.Network.
func (n *Network) Traffic(id int) (tr runtime.Traffic, err error) {
	c, err := nftables.New()
	if err != nil {
		return tr, err
	}
	for _, port := range ports(id) {
		if there, err := traffic(c, port, &tr); err != nil || !there && port != PortName(id) {
			return tr, err
		}
	}
	return tr, nil
}

// traffic adds what went through a port.
func traffic(c *nftables.Conn, port string, tr *runtime.Traffic) (there bool, err error) {
	for _, d := range directions() {
		for _, class := range classes() {
			o, err := c.GetObject(&nftables.CounterObj{Table: guardTable(), Name: d.counter(port, class)})
			if isAbsent(err) {
				continue
			}
			if err != nil {
				return false, fmt.Errorf("cannot read the traffic of %s: %w", port, err)
			}
			counted, _ := o.(*nftables.CounterObj)
			if counted == nil {
				continue
			}
			into := map[string]*int64{
				"sentlocal": &tr.SentLocal, "sentoutside": &tr.SentOutside, "receivedlocal": &tr.ReceivedLocal, "receivedoutside": &tr.ReceivedOutside,
			}[d.name+class]
			*into += int64(counted.Bytes)
			there = true
		}
	}
	return there, nil
}

// Shape implements runtime.Network. All NICs of a container have the same rates, each for itself.
func (n *Network) Shape(id int, r runtime.Rates) (old runtime.Rates, err error) {
	for i, name := range ports(id) {
		port, err := find(name)
		if err != nil {
			return old, err
		}
		if port == nil {
			continue
		}
		was, err := n.shape(port, r)
		if i == 0 {
			old = was
		}
		if err != nil {
			return old, err
		}
	}
	return old, nil
}

func (n *Network) shape(port netlink.Link, r runtime.Rates) (old runtime.Rates, err error) {
	name := port.Attrs().Name
	if old, err = shaped(port); err != nil || old == r {
		return old, err
	}
	if err := limitIn(port, r.In); err != nil {
		return old, fmt.Errorf("cannot limit what %s receives: %w", name, err)
	}
	c, err := nftables.New()
	if err != nil {
		return old, err
	}
	if err := directions()[0].rules(c, name, r.Out, n.conf.Pool); err != nil {
		return old, err
	}
	if err := c.Flush(); err != nil {
		return old, errors.Join(fmt.Errorf("cannot limit what %s sends: %w", name, err), limitIn(port, old.In))
	}
	return old, nil
}

// shaped reads which rates a port has.
func shaped(port netlink.Link) (r runtime.Rates, err error) {
	name := port.Attrs().Name
	queues, err := netlink.QdiscList(port)
	if err != nil {
		return r, fmt.Errorf("cannot read the rates of %s: %w", name, err)
	}
	for _, q := range queues {
		if tbf, ok := q.(*netlink.Tbf); ok {
			r.In = int64(tbf.Rate)
		}
	}
	c, err := nftables.New()
	if err != nil {
		return r, err
	}
	rules, err := c.GetRules(guardTable(), &nftables.Chain{Name: directions()[0].chain(name)})
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return r, fmt.Errorf("cannot read the rates of %s: %w", name, err)
	}
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			if l, ok := e.(*expr.Limit); ok {
				r.Out = int64(l.Rate)
			}
		}
	}
	return r, nil
}

// largest is room for two of the largest packets. The kernel lets a second's worth go at once besides, of what is sent.
const largest = 128 << 10

// burst is how much may be received at once at a rate.
func burst(rate int64) int64 { return min(max(rate/4, largest), 1<<20) }

// limitIn limits what a port's container gets; zero is no limit.
func limitIn(port netlink.Link, rate int64) error {
	attrs := netlink.QdiscAttrs{LinkIndex: port.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	if rate == 0 {
		err := netlink.QdiscDel(&netlink.Tbf{QdiscAttrs: attrs})
		if errors.Is(err, unix.ENOENT) || err != nil && strings.Contains(err.Error(), "invalid argument") { // there was none
			return nil
		}
		return err
	}
	size := burst(rate)
	return netlink.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: attrs, Rate: uint64(rate), Limit: uint32(min(size+rate/4, 64<<20)), Buffer: netlink.Xmittime(uint64(rate), uint32(size)),
	})
}
