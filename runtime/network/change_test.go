package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// with returns a member that is known by one more address.
func (m member) with(cidr string) member {
	m.nic.Addresses = append([]netip.Prefix{netip.MustParsePrefix(cidr)}, m.nic.Addresses...)
	return m
}

func change(t *testing.T, n *Network, id int, m member, nics ...runtime.NIC) {
	t.Helper()
	if err := n.Change(id, m.pid, nics); err != nil {
		t.Fatal(err)
	}
}

// addresses are those of a NIC inside that are not the link's own.
func (m member) addresses(t *testing.T, nic string) []string {
	t.Helper()
	var out []string
	if err := InNamespace(m.pid, func() error {
		l, err := netlink.LinkByName(nic)
		if err != nil {
			return err
		}
		all, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		for _, a := range all {
			if a.Scope != int(netlink.SCOPE_LINK) {
				out = append(out, a.IPNet.String())
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func TestAddressesChangeLive(t *testing.T) {
	n := newNetwork(t, Config{Address: "10.77.0.1/16"})
	a, b := newMember(t, 1), newMember(t, 2)
	a = a.with("fd00::1/64")
	plug(t, n, 101, a, false)
	plug(t, n, 102, b, false)
	for _, step := range [][]string{
		{"10.77.1.2/16", "fd00::2/64"},
		{"10.77.1.2/16", "10.77.1.3/16", "fd00::2/64", "fd00::3/64"},
		{"10.77.1.3/16", "fd00::3/64"}, // the primary ones go
		{"10.77.1.4/16"},
		{},
		{"10.77.1.2/16"},
	} {
		b.nic.Addresses = nil
		for _, cidr := range step {
			b.nic.Addresses = append(b.nic.Addresses, netip.MustParsePrefix(cidr))
		}
		for range 2 { // idempotent
			change(t, n, 102, b, b.nic)
		}
		if got := b.addresses(t, "eth0"); !slices.Equal(got, step) {
			t.Fatalf("it has %v, want %v", got, step)
		}
		for _, p := range b.nic.Addresses {
			one := b
			one.nic.Addresses = []netip.Prefix{p}
			if !a.reaches(t, one, 5*time.Second) {
				t.Fatalf("%s is not reached among %v", p, step)
			}
		}
	}
	if err := InNamespace(b.pid, func() error {
		routes, err := netlink.RouteGet(net.IPv4(192, 0, 2, 1))
		if err == nil && routes[0].Gw.String() != "10.77.0.1" {
			err = errors.New("no default route")
		}
		return err
	}); err != nil {
		t.Errorf("after all addresses had gone and one came back: %v", err)
	}
}

// frame6 sends a raw IPv6 packet of ICMPv6 from a member's NIC.
func (m member) frame6(t *testing.T, from netip.Addr, icmp []byte) {
	t.Helper()
	mac, _ := net.ParseMAC(m.nic.MAC)
	f := advertisement(mac, from)[:14+40]
	f[14+5] = byte(len(icmp))
	if err := InNamespace(m.pid, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return send(l.Attrs().Index, append(f, icmp...))
	}); err != nil {
		t.Fatal(err)
	}
}

func send(link int, frame []byte) error {
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	return unix.Sendto(s, frame, 0, &unix.SockaddrLinklayer{Ifindex: link})
}

// sniff returns what a member hears of frames that hold a text, until nothing comes for a while.
func (m member) sniff(t *testing.T) (heard func(text string) bool) {
	t.Helper()
	var s int
	if err := InNamespace(m.pid, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if s, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL))); err != nil {
			return err
		}
		return unix.Bind(s, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: l.Attrs().Index})
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s) })
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000}); err != nil {
		t.Fatal(err)
	}
	return func(text string) bool {
		for buf := make([]byte, 2000); ; {
			k, _, err := unix.Recvfrom(s, buf, 0)
			if err != nil {
				return false
			}
			if strings.Contains(string(buf[:k]), text) {
				return true
			}
		}
	}
}

// Nobody may take another's IPv6 address, say that it is at his place, or act as a router; his own he may announce.
func TestSpoofingIPv6(t *testing.T) {
	n := newNetwork(t, Config{Address: "10.77.0.1/16"})
	a, b := newMember(t, 1).with("fd00::1/64"), newMember(t, 2).with("fd00::2/64")
	plug(t, n, 101, a, false)
	plug(t, n, 102, b, false)
	own, stolen := netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::66")
	says := func(message byte, target netip.Addr, mark string) []byte {
		return append(append([]byte{message, 0, 0, 0, 0x20, 0, 0, 0}, target.AsSlice()...), mark...)
	}
	heard := a.sniff(t)
	for _, f := range []struct {
		name string
		from netip.Addr
		icmp []byte
		pass bool
	}{
		{"another's address as source", stolen, says(128, own, "first mark"), false},
		{"another's link address", netip.MustParseAddr("fe80::66"), says(128, own, "second mark"), false},
		{"an advertisement for another", own, says(136, stolen, "third mark"), false},
		{"a router's advertisement", own, says(134, own, "fourth mark"), false},
		{"a redirection", own, says(137, own, "fifth mark"), false},
		{"an advertisement for itself", own, says(136, own, "sixth mark"), true},
		{"a packet of its own", own, says(128, own, "seventh mark"), true},
	} {
		b.frame6(t, f.from, f.icmp)
		mark := string(f.icmp[24:])
		if got := heard(mark); got != f.pass {
			t.Errorf("%s: got through: %v, want %v", f.name, got, f.pass)
		}
	}
	if !b.reaches(t, a, 5*time.Second) || !a.reaches(t, b, 5*time.Second) {
		t.Error("neighbours do not find each other over IPv6")
	}
}

func TestSeveralNICs(t *testing.T) {
	n := newNetwork(t, Config{Address: "10.77.0.1/16"})
	a, b := newMember(t, 1), newMember(t, 2)
	plug(t, n, 101, a, false)
	second := runtime.NIC{Index: 2, Name: "lan1", MAC: "02:00:0a:4d:02:02", Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.2.2/32")}}
	if err := n.Plug(102, b.pid, []runtime.NIC{b.nic, second}, true); err != nil {
		t.Fatal(err)
	}
	if a.reaches(t, b, 50*time.Millisecond) {
		t.Fatal("a held port lets frames through")
	}
	if err := n.Open(102, []runtime.NIC{b.nic, second}); err != nil {
		t.Fatal(err)
	}
	if got := b.addresses(t, "lan1"); !slices.Equal(got, []string{"10.77.2.2/32"}) {
		t.Fatalf("the second NIC has %v", got)
	}
	if !a.reaches(t, b, 5*time.Second) {
		t.Error("the first NIC does not work")
	}
	change(t, n, 102, b, b.nic)
	if l, _ := find(portName(102, 2)); l != nil {
		t.Error("a NIC that was taken away is still there")
	}
	change(t, n, 102, b, b.nic, second)
	for _, name := range []string{"vz102", "vz102.2"} {
		l, err := netlink.LinkByName(name)
		if err != nil || l.Attrs().MasterIndex == 0 {
			t.Errorf("port %s is not in the bridge: %v", name, err)
		}
	}
	if err := n.Close(102); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vz102", "vz102.2"} {
		if _, err := os.Stat("/sys/class/net/" + name + "/brport"); err == nil {
			t.Errorf("port %s is open", name)
		}
	}
}
