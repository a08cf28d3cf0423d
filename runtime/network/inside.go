package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	goruntime "runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// InNamespace runs f on a thread of its own inside the network namespace of a process.
func InNamespace(pid int, f func() error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("cannot open the network namespace of process %d: %w", pid, err)
	}
	defer ns.Close()
	return OnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot enter the network namespace of process %d: %w", pid, err)
		}
		return f()
	})
}

// OnThread runs f on a thread that ends with it, so that f may enter namespaces. It is never the main thread: Go cannot
// end that one, and it is what /proc/self shows of the process.
func OnThread(f func() error) error {
	done := make(chan error, 1)
	go onThread(f, done)
	return <-done
}

func onThread(f func() error, done chan<- error) {
	goruntime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		done <- f()
		return // locked: the thread ends here
	}
	other := make(chan error, 1) // while the main thread is held here, the next goroutine cannot get it
	go onThread(f, other)
	err := <-other
	goruntime.UnlockOSThread()
	done <- err
}

// configure brings up loopback and the NICs of the namespace it runs in. NICs that have been configured before get the
// addresses that they lack and lose those that they should not have.
func configure(nics []runtime.NIC) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("cannot bring loopback up: %w", err)
	}
	for _, nic := range nics {
		if err := configureNIC(h, nic); err != nil {
			return err
		}
	}
	return nil
}

func configureNIC(h *netlink.Handle, nic runtime.NIC) error {
	name := insideName(nic)
	if err := tune(name, nic.Addresses); err != nil {
		return err
	}
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("NIC %s: %w", name, err)
	}
	if err := takeAddresses(h, link, nic.Addresses); err != nil {
		return err
	}
	for _, p := range nic.Addresses {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // it is ours; detection would silence the container for a second
		}
		if err := h.AddrReplace(link, a); err != nil {
			return fmt.Errorf("cannot add address %s: %w", p, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot bring %s up: %w", name, err)
	}
	for _, gateway := range nic.Gateways {
		if err := defaultRoute(h, link, nic.Addresses, gateway); err != nil {
			return fmt.Errorf("cannot set the default route via %s: %w", gateway, err)
		}
	}
	return nil
}

// takeAddresses removes what the NIC should not have. Addresses of the link itself stay.
func takeAddresses(h *netlink.Handle, link netlink.Link, wanted []netip.Prefix) error {
	have, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("cannot read the addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, a := range have {
		if a.Scope == int(netlink.SCOPE_LINK) || slices.ContainsFunc(wanted, func(p netip.Prefix) bool { return ipNet(p).String() == a.IPNet.String() }) {
			continue
		}
		if err := h.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) { // its primary one has taken it along
			return fmt.Errorf("cannot take address %s from %s: %w", a.IPNet, link.Attrs().Name, err)
		}
	}
	return nil
}

func defaultRoute(h *netlink.Handle, link netlink.Link, addrs []netip.Prefix, gateway netip.Addr) error {
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
	for _, p := range addrs {
		if p.Masked().Contains(gateway) {
			r.Flags = 0
		}
	}
	return h.RouteReplace(r)
}

// tune sets the namespace's own sysctls; /proc/sys/net shows those of the namespace of the thread that opens it.
// Go's servers listen on MPTCP when they can, which CRIU cannot dump.
// The sockets of a restored copy probe their peers while its port is closed, so its kernel asks for the peers' MACs in
// vain; asked again after the usual second, they would be silent for most of it after the port has opened. Asking every
// 50 ms, as long as usual in all, mends that.
func tune(name string, addrs []netip.Prefix) error {
	v6 := "1"
	for _, p := range addrs {
		if p.Addr().Is6() {
			v6 = "0"
		}
	}
	for _, s := range []struct{ key, value string }{
		{"mptcp/enabled", "0"},
		{"ipv6/conf/" + name + "/disable_ipv6", v6},
		{"ipv6/conf/" + name + "/accept_dad", "0"},
		{"ipv4/neigh/" + name + "/retrans_time_ms", "50"},
		{"ipv4/neigh/" + name + "/mcast_solicit", "60"},
		{"ipv4/neigh/" + name + "/ucast_solicit", "20"},
		{"ipv6/neigh/" + name + "/retrans_time_ms", "50"},
		{"ipv6/neigh/" + name + "/mcast_solicit", "60"},
		{"ipv6/neigh/" + name + "/ucast_solicit", "20"},
	} {
		err := os.WriteFile("/proc/sys/net/"+s.key, []byte(s.value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without it needs no switching off
			return fmt.Errorf("cannot set net/%s: %w", s.key, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
