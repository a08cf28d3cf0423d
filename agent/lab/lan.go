package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/vzcluster/vzcluster/runtime/network"
)

// The LAN's addresses. Hosts, containers and outside share one network, as on an office LAN.
const (
	pool           = "10.77.0.0/16"
	gateway        = "10.77.0.1"
	poolFirst      = "10.77.1.1"
	poolLast       = "10.77.250.254"
	outsideAddress = "10.77.0.5"
	MaxHosts       = 200 // of one lab

	lanBridge  = "lan0"
	lostBridge = "lan1"         // of those that are cut off
	beyond     = "192.0.2.1/32" // an address of the gateway that is not of the LAN
)

func hostAddress(n int) string { return fmt.Sprintf("10.77.0.%d", 10+n) }

// wireLAN makes the switches and the gateway in the namespace of the process that holds it.
func wireLAN(pid int) error {
	return network.InNamespace(pid, func() error {
		for _, name := range []string{lanBridge, lostBridge} {
			off := false
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.Flags = name, net.FlagUp
			if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}); err != nil {
				return fmt.Errorf("bridge %s: %w", name, err)
			}
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return err
		}
		return errors.Join(address("lo", beyond), address(lanBridge, gateway+"/16"))
	})
}

// address brings an interface up with an address, if one is given.
func address(name, cidr string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if cidr != "" {
		a, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		if err := netlink.AddrReplace(l, a); err != nil {
			return fmt.Errorf("address %s: %w", cidr, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// plug connects a machine to the LAN: its eth0 is one end, a port of the switch with the machine's name the other.
func (l *Lab) plug(m *machine) error {
	mac := net.HardwareAddr{2, 0x77, 0, 0, 0, 0}
	copy(mac[2:], net.ParseIP(m.Address).To4()) // the same after a power cut
	if err := network.InNamespace(l.state.LAN.PID, func() error {
		if old, err := netlink.LinkByName(m.Name); err == nil { // the kernel takes a dead machine's away in its own time
			if err := netlink.LinkDel(old); err != nil {
				return err
			}
		}
		bridge, err := netlink.LinkByName(l.bridgeOf(m))
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex, attrs.Flags = m.Name, bridge.Attrs().Index, net.FlagUp
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: mac, PeerNamespace: netlink.NsPid(m.Proc.PID),
		})
	}); err != nil {
		return err
	}
	return network.InNamespace(m.Proc.PID, func() error {
		if err := errors.Join(address("lo", ""), address("eth0", m.Address+"/16")); err != nil {
			return err
		}
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.ParseIP(gateway)})
	})
}

// unplug takes a machine's port away.
func (l *Lab) unplug(m *machine) {
	_ = network.InNamespace(l.state.LAN.PID, func() error { // gone already, or with the LAN, is as good
		port, err := netlink.LinkByName(m.Name)
		if err != nil {
			return err
		}
		return netlink.LinkDel(port)
	})
}

func (l *Lab) bridgeOf(m *machine) string {
	if slices.Contains(l.state.Partition, m.Name) {
		return lostBridge
	}
	return lanBridge
}

// rewire puts every machine's port into the switch that the state names.
func (l *Lab) rewire() error {
	var missing []string
	err := network.InNamespace(l.state.LAN.PID, func() error {
		for _, m := range l.state.Machines {
			port, err := netlink.LinkByName(m.Name)
			if err != nil {
				if m.Proc.alive() {
					missing = append(missing, m.Name)
				}
				continue // switched off; it finds its place when it is started
			}
			bridge, err := netlink.LinkByName(l.bridgeOf(m))
			if err != nil {
				return err
			}
			if port.Attrs().MasterIndex == bridge.Attrs().Index {
				continue
			}
			if err := netlink.LinkSetMaster(port, bridge); err != nil {
				return fmt.Errorf("cannot rewire %s: %w", m.Name, err)
			}
		}
		return nil
	})
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%s: no port on the LAN; power off and start again", strings.Join(missing, ", "))
	}
	return err
}
