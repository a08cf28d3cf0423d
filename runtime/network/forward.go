package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// forwardTable is that of published ports, made anew at every change.
const forwardTable = "vzcluster-ports"

// forward has ports of this host lead to containers, here or elsewhere. What is led on is sent in this host's name: its
// answers must come back through it.
func (n *Network) forward(all []runtime.Forward) error {
	n.forwarding.Lock()
	defer n.forwarding.Unlock()
	if len(all) == 0 && !n.forwards {
		return nil
	}
	for _, v6 := range []bool{false, true} {
		var some []runtime.Forward
		for _, f := range all {
			if f.To.Addr().Is6() == v6 {
				some = append(some, f)
			}
		}
		if len(some) == 0 && !n.forwards {
			continue
		}
		if err := layForwards(some, v6); err != nil {
			return fmt.Errorf("cannot lead published ports to containers: %w", err)
		}
	}
	n.forwards = len(all) > 0
	return nil
}

func layForwards(all []runtime.Forward, v6 bool) error {
	family, sysctl, bridged := nftables.TableFamilyIPv4, "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if v6 {
		family, sysctl, bridged = nftables.TableFamilyIPv6, "/proc/sys/net/ipv6/conf/all/forwarding", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: family, Name: forwardTable})
	c.DelTable(t)
	if len(all) == 0 {
		return c.Flush()
	}
	if err := os.WriteFile(sysctl, []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot switch forwarding on: %w", err)
	}
	// With it a frame would get its new destination while it is still in the bridge, which sends none back where it came from.
	if err := os.WriteFile(bridged, []byte("0"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot keep the rules of routed packets from the bridge's: %w", err)
	}
	t = c.AddTable(&nftables.Table{Family: family, Name: forwardTable})
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: t, Type: kind, Hooknum: hook, Priority: priority})
	}
	in := chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	own := chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	back := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	for _, f := range all {
		for _, ch := range []*nftables.Chain{in, own} {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: join(toThisHost(), service(f.Proto, f.Port), leadTo(f, uint32(family)))})
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: back, Exprs: join(wasLed(), service(f.Proto, f.To.Port()), []expr.Any{&expr.Masq{}})})
	}
	if !v6 { // containers are often on the same link as who asks, who must go on asking this host
		quiet := chain("redirects", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
		const redirect = 5
		c.AddRule(&nftables.Rule{Table: t, Chain: quiet, Exprs: join(protocol(unix.IPPROTO_ICMP), transport(0, []byte{redirect}), verdict(expr.VerdictDrop))})
	}
	return c.Flush()
}

func toThisHost() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// service matches what goes to a port.
func service(proto byte, port uint16) []expr.Any {
	return join(protocol(proto), transport(2, binaryutil.BigEndian.PutUint16(port)))
}

func leadTo(f runtime.Forward, family uint32) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: f.To.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(f.To.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1, RegProtoMin: 2},
	}
}

// wasLed matches what a rule has given another destination.
func wasLed() []expr.Any {
	const destinationNAT = 1 << 5 // IPS_DST_NAT
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(destinationNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}
