package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// vxlanPort is the one that IANA has given to VXLAN; vxlanRoom what it takes of a packet, over IPv6.
const (
	vxlanPort = 4789
	vxlanRoom = 70
)

// segment returns the bridge that a NIC belongs into, and makes what is missing of it.
func (n *Network) segment(s runtime.Segment) (netlink.Link, error) {
	switch {
	case s.VLAN != 0:
		return n.vlan(s.VLAN)
	case s.VNI != 0:
		return n.overlay(s.VNI)
	}
	name := s.Bridge
	if name == "" {
		name = n.conf.Bridge
	}
	bridge, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", name, err)
	}
	if bridge.Type() != "bridge" {
		return nil, fmt.Errorf("interface %s is no bridge but a %s", name, bridge.Type())
	}
	return bridge, nil
}

// uplink is the interface on which frames of a segment come from other hosts; "" when that is not known.
func (n *Network) uplink(s runtime.Segment) string {
	switch {
	case s.VLAN != 0:
		return "vzu" + strconv.Itoa(s.VLAN)
	case s.VNI != 0:
		return "vzx" + strconv.Itoa(s.VNI)
	case s.Bridge != "":
		return ""
	}
	return n.conf.Uplink
}

// vlan has a bridge of its own on every host, with the VLAN's interface at the uplink as a port.
func (n *Network) vlan(id int) (netlink.Link, error) {
	bridge, fresh, err := privateBridge("vzv"+strconv.Itoa(id), 0)
	if err != nil || !fresh {
		return bridge, err
	}
	name := n.conf.Uplink
	if name == "" {
		name = n.conf.Bridge
	}
	parent, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("VLAN %d at %s: %w", id, name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = n.uplink(runtime.Segment{VLAN: id}), parent.Attrs().Index
	return bridge, attach(bridge, &netlink.Vlan{LinkAttrs: attrs, VlanId: id})
}

// overlay has a bridge of its own on every host, with the VXLAN as a port. Nothing is flooded into it and nothing is
// learned from it: Reach tells it where the others are.
func (n *Network) overlay(vni int) (netlink.Link, error) {
	under := 1500
	if l, err := netlink.LinkByName(n.conf.Bridge); err == nil {
		under = l.Attrs().MTU
	}
	bridge, fresh, err := privateBridge("vzo"+strconv.Itoa(vni), under-vxlanRoom)
	if err != nil || !fresh {
		return bridge, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = n.uplink(runtime.Segment{VNI: vni}), under-vxlanRoom
	vxlan := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: vni, Port: vxlanPort, Learning: false}
	if n.conf.Local.IsValid() {
		vxlan.SrcAddr = n.conf.Local.AsSlice()
	}
	if err := attach(bridge, vxlan); err != nil {
		return nil, err
	}
	return bridge, quiet(vxlan)
}

// quiet has a port learn nothing, flood nothing, and questions for neighbours answered in its place.
func quiet(port netlink.Link) error {
	l, err := netlink.LinkByName(port.Attrs().Name)
	if err != nil {
		return err
	}
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(l.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for attr, v := range map[int]byte{
		nl.IFLA_BRPORT_LEARNING: 0, nl.IFLA_BRPORT_UNICAST_FLOOD: 0, nl.IFLA_BRPORT_MCAST_FLOOD: 0,
		nl.IFLA_BRPORT_BCAST_FLOOD: 0, nl.IFLA_BRPORT_NEIGH_SUPPRESS: 1,
	} {
		info.AddRtAttr(attr, []byte{v})
	}
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("cannot keep %s from flooding: %w", port.Attrs().Name, err)
	}
	return nil
}

// privateBridge makes a bridge in which the host itself has no address. Fresh says that it has no port yet.
func privateBridge(name string, mtu int) (bridge netlink.Link, fresh bool, err error) {
	if bridge, err = find(name); err != nil {
		return nil, false, err
	}
	if bridge == nil {
		off := false
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = name, mtu, net.HardwareAddr{2, 0, 0, 0, 0, 0}
		_, _ = rand.Read(attrs.HardwareAddr[1:])
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, false, fmt.Errorf("cannot make bridge %s: %w", name, err)
		}
		if bridge, err = netlink.LinkByName(name); err != nil {
			return nil, false, err
		}
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
	}
	if err := errors.Join(setForwardDelay(bridge.Attrs().Index, 0), netlink.LinkSetUp(bridge)); err != nil {
		return nil, false, fmt.Errorf("cannot set up bridge %s: %w", name, err)
	}
	port, err := find(strings.Replace(strings.Replace(name, "vzv", "vzu", 1), "vzo", "vzx", 1))
	return bridge, err == nil && (port == nil || port.Attrs().MasterIndex != bridge.Attrs().Index), err
}

// attach makes a link, unless it is there, and puts it into a bridge.
func attach(bridge netlink.Link, l netlink.Link) error {
	name := l.Attrs().Name
	if err := netlink.LinkAdd(l); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot make %s: %w", name, err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetMaster(l, bridge), netlink.LinkSetUp(l)); err != nil {
		return fmt.Errorf("cannot put %s into bridge %s: %w", name, bridge.Attrs().Name, err)
	}
	return nil
}

// Reach implements runtime.Network.
func (n *Network) Reach(r runtime.Reach) error {
	var failed []error
	for vni, far := range r.Overlays {
		if err := n.reach(vni, far); err != nil {
			failed = append(failed, fmt.Errorf("overlay %d: %w", vni, err))
		}
	}
	return errors.Join(append(failed, n.forward(r.Forwards))...)
}

// reach tells an overlay where its NICs on other hosts are.
func (n *Network) reach(vni int, far []runtime.Far) error {
	bridge, err := n.overlay(vni)
	if err != nil {
		return err
	}
	vxlan, err := netlink.LinkByName(n.uplink(runtime.Segment{VNI: vni}))
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, f := range far {
		if port, err := find(portName(f.ID, f.Index)); err != nil || port != nil && port.Attrs().MasterIndex == bridge.Attrs().Index {
			continue // it has just come here, and what the caller knows is older
		}
		mac, err := net.ParseMAC(f.MAC)
		if err != nil {
			return err
		}
		wanted[mac.String()] = true
		if err := point(bridge, vxlan, mac, f); err != nil {
			return err
		}
	}
	return forget(bridge, vxlan, wanted, far)
}

// point has frames for a NIC sent to its host, and questions for its addresses answered here.
func point(bridge, vxlan netlink.Link, mac net.HardwareAddr, f runtime.Far) error {
	index := vxlan.Attrs().Index
	err := errors.Join(
		netlink.NeighSet(&netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, HardwareAddr: mac, IP: f.Host.AsSlice()}),
		netlink.NeighSet(&netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: mac}),
	)
	for _, a := range f.Addresses {
		err = errors.Join(err, netlink.NeighSet(&netlink.Neigh{LinkIndex: bridge.Attrs().Index, State: netlink.NUD_PERMANENT, HardwareAddr: mac, IP: a.AsSlice()}))
	}
	if err != nil {
		return fmt.Errorf("cannot point to %s on %s: %w", mac, f.Host, err)
	}
	return nil
}

// forget removes what points to NICs that are not far away any more, and addresses that nobody far away has.
func forget(bridge, vxlan netlink.Link, wanted map[string]bool, far []runtime.Far) error {
	entries, err := netlink.NeighList(vxlan.Attrs().Index, unix.AF_BRIDGE)
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range entries {
		if wanted[e.HardwareAddr.String()] || e.HardwareAddr.String() == vxlan.Attrs().HardwareAddr.String() || e.HardwareAddr[0]&1 != 0 {
			continue
		}
		if err := netlink.NeighDel(&e); err != nil && !errors.Is(err, syscall.ENOENT) {
			failed = append(failed, err)
		}
	}
	known := map[netip.Addr]bool{}
	for _, f := range far {
		for _, a := range f.Addresses {
			known[a] = true
		}
	}
	neighbours, err := netlink.NeighList(bridge.Attrs().Index, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, e := range neighbours {
		a, ok := netip.AddrFromSlice(e.IP)
		if !ok || e.State&netlink.NUD_PERMANENT == 0 || known[a.Unmap()] {
			continue
		}
		if err := netlink.NeighDel(&e); err != nil && !errors.Is(err, syscall.ENOENT) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
