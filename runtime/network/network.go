// Package network plugs containers into a bridge of their host: a veth pair with an address of its own for each, kept
// from speaking for others, held back during a migration and announced to the LAN afterwards. It also answers DNS for
// container names. It allocates no addresses and touches no interface, route or firewall table that is not its own,
// except the uplink that it was told to put into the bridge.
//
// The one rule for callers: a port that was plugged with hold stays silent until Open; open it only when the hand-over
// is committed.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// Config describes a host's side of the containers' network.
type Config struct {
	Bridge  string       // empty: "vzbr0"
	Uplink  string       // interface that becomes a port of the bridge, which takes over its addresses and routes; empty: none
	Address string       // CIDR address of the bridge; empty: leave as it is
	Local   netip.Addr   // of this host, to which others send what goes through an overlay; not valid: the kernel chooses
	Pool    netip.Prefix // what containers have addresses of
	NAT     bool         // masquerade what containers send beyond the pool, and forward it
	Log     *slog.Logger // nil: discarded
}

// Network implements runtime.Network in the network namespace of its process. Its methods may be called concurrently
// for different containers.
type Network struct {
	conf Config
	log  *slog.Logger

	forwarding sync.Mutex
	forwards   bool // some may be laid down
}

var _ runtime.Network = (*Network)(nil)

// New checks the configuration; nothing is changed before Setup.
func New(c Config) (*Network, error) {
	if c.Bridge == "" {
		c.Bridge = "vzbr0"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Address != "" {
		if _, err := netip.ParsePrefix(c.Address); err != nil {
			return nil, fmt.Errorf("address of the bridge: %w", err)
		}
	}
	if c.NAT && !c.Pool.IsValid() {
		return nil, errors.New("address translation needs the pool that containers have addresses of")
	}
	return &Network{conf: c, log: c.Log, forwards: true}, nil
}

// PortName is the host end of a container's first NIC.
func PortName(id int) string { return portName(id, 0) }

// portName is the host end of the NIC with an index.
func portName(id, index int) string {
	if index == 0 {
		return "vz" + strconv.Itoa(id)
	}
	return fmt.Sprintf("vz%d.%d", id, index)
}

// ports are the names that a container's ports can have.
func ports(id int) []string {
	names := make([]string, runtime.MaxNICs)
	for i := range names {
		names[i] = portName(id, i)
	}
	return names
}

// Plug makes the container's NICs inside the network namespace of process pid, replacing what an earlier attempt left
// there. The links may not have carrier yet: only Open needs that.
func (n *Network) Plug(id, pid int, nics []runtime.NIC, hold bool) (err error) {
	if err := n.Unplug(id); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot plug container %d: %w", id, err)
			_ = n.Unplug(id)
		}
	}()
	for _, nic := range nics {
		if err := n.plug(id, pid, nic); err != nil {
			return err
		}
	}
	if err := InNamespace(pid, func() error { return configure(nics) }); err != nil {
		return err
	}
	if hold {
		return nil
	}
	return n.Open(id, nics)
}

// plug makes one guarded NIC.
func (n *Network) plug(id, pid int, nic runtime.NIC) error {
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil {
		return err
	}
	port := portName(id, nic.Index)
	if err := n.lay(port, nic); err != nil {
		return err
	}
	bridge, err := n.segment(nic.Segment)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Flags = port, bridge.Attrs().MTU, net.FlagUp
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: insideName(nic), PeerHardwareAddr: mac,
		PeerNamespace: netlink.NsPid(pid), PeerMTU: uint32(attrs.MTU),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("cannot make NIC %s: %w", insideName(nic), err)
	}
	if nic.Rates.In > 0 {
		if err := limitIn(veth, nic.Rates.In); err != nil {
			return fmt.Errorf("cannot limit what it receives: %w", err)
		}
	}
	return nil
}

// Open puts the ports into their bridges and announces the addresses, so that the bridges and switches of the LAN send
// the container's frames here from now on.
func (n *Network) Open(id int, nics []runtime.NIC) error {
	for _, nic := range nics {
		if err := n.open(portName(id, nic.Index), nic); err != nil {
			return fmt.Errorf("cannot open NIC %s of container %d: %w", insideName(nic), id, err)
		}
	}
	return nil
}

func (n *Network) open(name string, nic runtime.NIC) error {
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil {
		return err
	}
	port, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	bridge, err := n.segment(nic.Segment)
	if err != nil {
		return err
	}
	if err := waitUp(name); err != nil {
		return err
	}
	if port.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := netlink.LinkSetMaster(port, bridge); err != nil {
			return fmt.Errorf("cannot join bridge %s: %w", bridge.Attrs().Name, err)
		}
	}
	if err := waitForwarding(name); err != nil {
		return err
	}
	// This bridge has learned the address at its uplink while the container was elsewhere.
	if err := learn(port, mac); err != nil {
		return err
	}
	return announce(bridge.Attrs().Index, mac, nic.Addresses)
}

// Close takes the ports out of their bridges; the kernel drops what a bridge had learned behind them.
func (n *Network) Close(id int) error {
	for _, name := range ports(id) {
		port, err := find(name)
		if err != nil {
			return err
		}
		if port == nil || port.Attrs().MasterIndex == 0 {
			continue
		}
		// A container that ends takes its NICs with it, at any moment.
		if err := netlink.LinkSetNoMaster(port); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("cannot close port %s of container %d: %w", name, id, err)
		}
	}
	return nil
}

// Change implements runtime.Network.
func (n *Network) Change(id, pid int, nics []runtime.NIC) error {
	wanted := map[string]bool{}
	for _, nic := range nics {
		name := portName(id, nic.Index)
		wanted[name] = true
		if err := n.changePort(id, pid, name, nic); err != nil {
			return fmt.Errorf("cannot change NIC %s of container %d: %w", insideName(nic), id, err)
		}
	}
	for _, name := range ports(id) {
		if !wanted[name] {
			if err := unplug(name); err != nil {
				return err
			}
		}
	}
	if err := InNamespace(pid, func() error { return configure(nics) }); err != nil {
		return fmt.Errorf("cannot change the network of container %d: %w", id, err)
	}
	return n.Open(id, nics)
}

// changePort makes the host's side of a NIC as it is wanted.
func (n *Network) changePort(id, pid int, name string, nic runtime.NIC) error {
	port, err := find(name)
	if err != nil {
		return err
	}
	if port == nil {
		return n.plug(id, pid, nic)
	}
	return n.lay(name, nic)
}

// Unplug removes the NICs and their firewall rules.
func (n *Network) Unplug(id int) error {
	for _, name := range ports(id) {
		if err := unplug(name); err != nil {
			return err
		}
	}
	return nil
}

// unplug removes one port (idempotent). The rules of a port outlive it when its container ends by itself.
func unplug(name string) error {
	port, err := find(name)
	if err != nil {
		return err
	}
	if port != nil {
		if err := netlink.LinkDel(port); err != nil && !absent(err) {
			return fmt.Errorf("cannot unplug %s: %w", name, err)
		}
	}
	return lift(name)
}

// insideName is the NIC's name in the container.
func insideName(nic runtime.NIC) string {
	if nic.Name == "" {
		return "eth0"
	}
	return nic.Name
}

// find returns nil for an absent link.
func find(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look up interface %s: %w", name, err)
	}
	return l, nil
}

// waitUp waits until the kernel has noticed the carrier. A port that joins the bridge before that starts blocked.
func waitUp(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return poll(ctx, fmt.Sprintf("interface %s has no carrier", name), func() bool {
		b, err := os.ReadFile("/sys/class/net/" + name + "/operstate")
		return err == nil && strings.TrimSpace(string(b)) == "up"
	})
}

// waitForwarding returns at once after waitUp, as the bridge has no spanning tree.
func waitForwarding(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	const forwarding = "3"
	return poll(ctx, fmt.Sprintf("bridge port %s does not forward", name), func() bool {
		b, err := os.ReadFile("/sys/class/net/" + name + "/brport/state")
		return err == nil && strings.TrimSpace(string(b)) == forwarding
	})
}

// poll asks every 200 microseconds.
func poll(ctx context.Context, what string, done func() bool) error {
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-time.After(200 * time.Microsecond):
		}
	}
	return nil
}
