package network

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Setup makes the bridge, moves the uplink into it and lays down the firewall's tables. Repeating it mends what is
// missing, after a crash half way too.
func (n *Network) Setup(_ context.Context) error {
	bridge, err := n.ensureBridge()
	if err != nil {
		return fmt.Errorf("cannot set up bridge %s: %w", n.conf.Bridge, err)
	}
	if n.conf.Uplink != "" {
		if err := n.enslave(bridge); err != nil {
			return fmt.Errorf("cannot put uplink %s into bridge %s: %w", n.conf.Uplink, n.conf.Bridge, err)
		}
	}
	if n.conf.Address != "" {
		addr, err := netlink.ParseAddr(n.conf.Address)
		if err == nil {
			err = netlink.AddrReplace(bridge, addr)
		}
		if err != nil {
			return fmt.Errorf("cannot give bridge %s the address %s: %w", n.conf.Bridge, n.conf.Address, err)
		}
	}
	if err := setupGuard(); err != nil {
		return fmt.Errorf("cannot set up the rules against spoofing (does the kernel have nftables for bridges?): %w", err)
	}
	if err := setupFilter(); err != nil {
		return fmt.Errorf("cannot set up the containers' firewalls: %w", err)
	}
	if err := setupTraffic(); err != nil {
		return fmt.Errorf("cannot set up the rules that count traffic: %w", err)
	}
	if n.conf.NAT {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return fmt.Errorf("cannot switch forwarding on: %w", err)
		}
		if err := setupNAT(n.conf.Bridge, n.conf.Pool); err != nil {
			return fmt.Errorf("cannot set up address translation: %w", err)
		}
	}
	return nil
}

func (n *Network) ensureBridge() (netlink.Link, error) {
	have, err := find(n.conf.Bridge)
	if err != nil {
		return nil, err
	}
	if have == nil {
		if err := n.makeBridge(); err != nil {
			return nil, err
		}
		if have, err = netlink.LinkByName(n.conf.Bridge); err != nil {
			return nil, err
		}
	}
	if have.Type() != "bridge" {
		return nil, fmt.Errorf("there is an interface of that name, a %s; remove it or choose another name", have.Type())
	}
	return have, netlink.LinkSetUp(have)
}

// makeBridge makes a bridge that forwards at once: no spanning tree, no listening delay. Multicast is flooded, as
// nobody on a LAN of hosts need be a querier. The MAC is pinned, otherwise it would change with the ports.
func (n *Network) makeBridge() error {
	off := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.conf.Bridge
	mac, mtu, err := n.bridgeIdentity()
	if err != nil {
		return err
	}
	attrs.HardwareAddr, attrs.MTU = mac, mtu
	err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off})
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	l, err := netlink.LinkByName(n.conf.Bridge)
	if err != nil {
		return err
	}
	return setForwardDelay(l.Attrs().Index, 0)
}

// bridgeIdentity is the uplink's MAC and MTU, so that neighbours who know the host notice nothing; without an uplink
// a local MAC by chance.
func (n *Network) bridgeIdentity() (net.HardwareAddr, int, error) {
	if n.conf.Uplink == "" {
		mac := net.HardwareAddr{2, 0, 0, 0, 0, 0}
		_, err := rand.Read(mac[1:])
		return mac, 0, err
	}
	up, err := netlink.LinkByName(n.conf.Uplink)
	if err != nil {
		return nil, 0, fmt.Errorf("uplink %s: %w", n.conf.Uplink, err)
	}
	return up.Attrs().HardwareAddr, up.Attrs().MTU, nil
}

// setForwardDelay sends the attribute that the netlink library does not know.
func setForwardDelay(index int, centiseconds uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(centiseconds))
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// enslave moves the uplink's addresses and routes to the bridge. The bridge gets each before the uplink loses it:
// a crash at any point leaves the host reachable or the rest to be done by the next Setup.
func (n *Network) enslave(bridge netlink.Link) error {
	up, err := netlink.LinkByName(n.conf.Uplink)
	if err != nil {
		return err
	}
	if up.Attrs().MasterIndex != 0 && up.Attrs().MasterIndex != bridge.Attrs().Index {
		return errors.New("it belongs to another bridge or bond; name that as network.bridge, or take it out")
	}
	addrs, err := netlink.AddrList(up, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	routes, err := netlink.RouteList(up, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Scope == int(netlink.SCOPE_LINK) {
			continue
		}
		moved := &netlink.Addr{IPNet: a.IPNet, Broadcast: a.Broadcast, Scope: a.Scope}
		if err := netlink.AddrReplace(bridge, moved); err != nil {
			return fmt.Errorf("cannot move address %s: %w", a.IPNet, err)
		}
	}
	if err := netlink.LinkSetMaster(up, bridge); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(up); err != nil {
		return err
	}
	for _, r := range routes {
		if r.Protocol == unix.RTPROT_KERNEL {
			continue // comes and goes with the address
		}
		r.LinkIndex = bridge.Attrs().Index
		if err := netlink.RouteReplace(&r); err != nil {
			return fmt.Errorf("cannot move route %s: %w", r, err)
		}
	}
	for _, a := range addrs {
		if a.Scope == int(netlink.SCOPE_LINK) {
			continue
		}
		if err := netlink.AddrDel(up, &a); err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return fmt.Errorf("cannot take address %s from it: %w", a.IPNet, err)
		}
	}
	return nil
}

// learn tells the bridge behind which port an address is.
func learn(port netlink.Link, mac net.HardwareAddr) error {
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: port.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_REACHABLE, Flags: netlink.NTF_MASTER, HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("cannot tell the bridge about %s: %w", mac, err)
	}
	return nil
}

// absent reports whether the error says that there is no such interface.
func absent(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, syscall.ENODEV)
}
