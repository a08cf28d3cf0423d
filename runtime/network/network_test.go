package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

const isolated = "VZ_TEST_ISOLATED"

// TestMain runs the tests in a network and mount namespace of their own: the machine's network is not touched.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: network tests need root")
		return
	}
	if os.Getenv(isolated) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), isolated+"=1")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil { // shows the interfaces of the namespace
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// member is a process in a network namespace of its own, as a container's init is.
type member struct {
	pid int
	nic runtime.NIC
}

func newMember(t *testing.T, last byte) member {
	t.Helper()
	cmd := exec.Command("cat") // ends when the test does, as its input ends then
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return member{cmd.Process.Pid, runtime.NIC{
		Name: "eth0", MAC: fmt.Sprintf("02:00:0a:4d:01:%02x", last),
		Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 1, last}), 16)},
		Gateways:  []netip.Addr{netip.MustParseAddr("10.77.0.1")},
	}}
}

func (m member) addr() string { return m.nic.Addresses[0].Addr().String() }

// reaches reports whether a datagram gets from m to o within the time.
func (m member) reaches(t *testing.T, o member, within time.Duration) bool {
	t.Helper()
	var pc net.PacketConn
	if err := InNamespace(o.pid, func() (err error) {
		pc, err = net.ListenPacket("udp", net.JoinHostPort(o.addr(), "9"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	var c net.Conn
	if err := InNamespace(m.pid, func() (err error) {
		c, err = net.Dial("udp", net.JoinHostPort(o.addr(), "9"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := pc.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	_, _, err := pc.ReadFrom(make([]byte, 1))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return err == nil
}

// newNetwork sets up a bridge that goes away with the test.
func newNetwork(t *testing.T, c Config) *Network {
	t.Helper()
	c.Bridge = "vzbr0"
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for id := 101; id < 105; id++ {
			if err := n.Unplug(id); err != nil {
				t.Error(err)
			}
		}
		if l, _ := find(c.Bridge); l != nil {
			if err := netlink.LinkDel(l); err != nil {
				t.Error(err)
			}
		}
	})
	return n
}

func plug(t *testing.T, n *Network, id int, m member, hold bool) {
	t.Helper()
	if err := n.Plug(id, m.pid, []runtime.NIC{m.nic}, hold); err != nil {
		t.Fatal(err)
	}
}

func TestPortsTalk(t *testing.T) {
	n := newNetwork(t, Config{Address: "10.77.0.1/16"})
	a, b := newMember(t, 1), newMember(t, 2)
	plug(t, n, 101, a, false)
	plug(t, n, 102, b, false)
	if !a.reaches(t, b, 2*time.Second) {
		t.Fatal("two plugged containers do not reach each other")
	}
	if err := InNamespace(a.pid, func() error {
		if b, err := os.ReadFile("/proc/sys/net/mptcp/enabled"); err == nil && strings.TrimSpace(string(b)) != "0" {
			return errors.New("MPTCP is on")
		}
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if got := l.Attrs().HardwareAddr.String(); got != a.nic.MAC {
			return fmt.Errorf("MAC is %s, want %s", got, a.nic.MAC)
		}
		routes, err := netlink.RouteGet(net.IPv4(192, 0, 2, 1))
		if err == nil && routes[0].Gw.String() != "10.77.0.1" {
			err = fmt.Errorf("route to elsewhere is %s", routes[0])
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func TestHeldPortIsSilentUntilOpen(t *testing.T) {
	n := newNetwork(t, Config{Address: "10.77.0.1/16"})
	a, b := newMember(t, 1), newMember(t, 2)
	plug(t, n, 101, a, false)
	plug(t, n, 102, b, true)
	if a.reaches(t, b, 50*time.Millisecond) || b.reaches(t, a, 50*time.Millisecond) {
		t.Fatal("a held port lets frames through")
	}
	if err := n.Open(102, []runtime.NIC{b.nic}); err != nil {
		t.Fatal(err)
	}
	if !b.reaches(t, a, 2*time.Second) || !a.reaches(t, b, 2*time.Second) {
		t.Fatal("an open port lets nothing through")
	}
	for range 2 {
		if err := n.Close(102); err != nil {
			t.Fatal(err)
		}
	}
	if a.reaches(t, b, 50*time.Millisecond) || b.reaches(t, a, 50*time.Millisecond) {
		t.Fatal("a closed port lets frames through")
	}
	if err := n.Open(102, []runtime.NIC{b.nic}); err != nil {
		t.Fatal(err)
	}
	if !a.reaches(t, b, 2*time.Second) {
		t.Fatal("a port opened again lets nothing through")
	}
}

func TestOpenMovesTheAddress(t *testing.T) {
	n := newNetwork(t, Config{Address: "10.77.0.1/16"})
	client, source, target := newMember(t, 1), newMember(t, 2), newMember(t, 2)
	plug(t, n, 101, client, false)
	plug(t, n, 102, source, false)
	if !source.reaches(t, client, 2*time.Second) || !client.reaches(t, source, 2*time.Second) {
		t.Fatal("the source is not reached")
	}
	plug(t, n, 103, target, true)
	if err := errors.Join(n.Close(102), n.Open(103, []runtime.NIC{target.nic})); err != nil {
		t.Fatal(err)
	}
	if !client.reaches(t, target, 2*time.Second) {
		t.Fatal("the target is not reached where the source was")
	}
}

// TestOpenIsHeard listens at another port of the bridge, as the LAN does behind the uplink.
func TestOpenIsHeard(t *testing.T) {
	n := newNetwork(t, Config{})
	a, b := newMember(t, 1), newMember(t, 2)
	b.nic.Addresses = append(b.nic.Addresses, netip.MustParsePrefix("fd00::2/64"))
	plug(t, n, 101, a, false)
	plug(t, n, 102, b, true)
	var s int
	if err := InNamespace(a.pid, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if s, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(htons(unix.ETH_P_ALL))); err != nil {
			return err
		}
		return unix.Bind(s, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: l.Attrs().Index})
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		t.Fatal(err)
	}
	if err := n.Open(102, []runtime.NIC{b.nic}); err != nil {
		t.Fatal(err)
	}
	mac, _ := net.ParseMAC(b.nic.MAC)
	want := map[string]bool{}
	for _, f := range announcements(mac, b.nic.Addresses) {
		want[string(f)] = true
	}
	for buf := make([]byte, 2000); len(want) > 0; {
		got, _, err := unix.Recvfrom(s, buf, 0)
		if err != nil {
			t.Fatalf("%d announcements were not heard: %v", len(want), err)
		}
		delete(want, string(buf[:got]))
	}
}

func TestSpoofedFramesAreDropped(t *testing.T) {
	n := newNetwork(t, Config{Address: "10.77.0.1/16"})
	a, b := newMember(t, 1), newMember(t, 2)
	plug(t, n, 101, a, false)
	plug(t, n, 102, b, false)
	stolen := netip.MustParsePrefix("10.77.1.66/16")
	spoof := b
	spoof.nic.Addresses = []netip.Prefix{stolen}
	if err := InNamespace(b.pid, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.AddrReplace(l, &netlink.Addr{IPNet: ipNet(stolen)})
	}); err != nil {
		t.Fatal(err)
	}
	if a.reaches(t, spoof, 100*time.Millisecond) {
		t.Fatal("a container answers for an address that is not its own")
	}
	if !a.reaches(t, b, 2*time.Second) {
		t.Fatal("its own address does not work")
	}
	if err := InNamespace(b.pid, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		mac, _ := net.ParseMAC("02:00:0a:4d:01:77")
		return netlink.LinkSetHardwareAddr(l, mac)
	}); err != nil {
		t.Fatal(err)
	}
	if b.reaches(t, a, 100*time.Millisecond) {
		t.Fatal("a container with a changed MAC is let through")
	}
}

func TestSetupMovesTheUplink(t *testing.T) {
	lan := newMember(t, 9)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	mac, _ := net.ParseMAC(lan.nic.MAC)
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(lan.pid), PeerHardwareAddr: mac}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	if err := InNamespace(lan.pid, func() error { return configure([]runtime.NIC{lan.nic}) }); err != nil {
		t.Fatal(err)
	}
	up, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	host := netip.MustParsePrefix("10.77.0.11/16")
	if err := errors.Join(netlink.LinkSetUp(up), netlink.AddrAdd(up, &netlink.Addr{IPNet: ipNet(host)}),
		netlink.RouteAdd(&netlink.Route{LinkIndex: up.Attrs().Index, Gw: net.IPv4(10, 77, 0, 1)})); err != nil {
		t.Fatal(err)
	}
	n := newNetwork(t, Config{Uplink: "eth0"})
	if err := n.Setup(t.Context()); err != nil {
		t.Fatalf("a second Setup: %v", err)
	}
	br, err := netlink.LinkByName("vzbr0")
	if err != nil {
		t.Fatal(err)
	}
	if br.Attrs().HardwareAddr.String() != up.Attrs().HardwareAddr.String() {
		t.Error("the bridge has another MAC than the uplink")
	}
	for name, want := range map[string]int{"eth0": 0, "vzbr0": 1} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if addrs, err := netlink.AddrList(l, netlink.FAMILY_V4); err != nil || len(addrs) != want {
			t.Errorf("%s has the addresses %v, %v, want %d", name, addrs, err, want)
		}
	}
	rs, err := netlink.RouteGet(net.IPv4(192, 0, 2, 1))
	if err != nil || rs[0].LinkIndex != br.Attrs().Index || rs[0].Gw.String() != "10.77.0.1" {
		t.Errorf("the default route is %v, %v", rs, err)
	}
	ct := newMember(t, 3)
	plug(t, n, 103, ct, false)
	if !ct.reaches(t, lan, 2*time.Second) {
		t.Error("a container does not reach the LAN through the uplink")
	}
}

func TestNAT(t *testing.T) {
	n := newNetwork(t, Config{Address: "10.77.0.1/16", NAT: true, Pool: netip.MustParsePrefix("10.77.0.0/16")})
	ct := newMember(t, 1)
	plug(t, n, 101, ct, false)
	outside := newMember(t, 0)
	outside.nic.Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}
	outside.nic.Gateways = nil // no way back to the pool: only a masqueraded sender can be answered
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "wan"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(outside.pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	wan, err := netlink.LinkByName("wan")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(InNamespace(outside.pid, func() error { return configure([]runtime.NIC{outside.nic}) }), netlink.LinkSetUp(wan),
		netlink.AddrAdd(wan, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.0.2.1/24"))})); err != nil {
		t.Fatal(err)
	}
	var ln net.Listener
	if err := InNamespace(outside.pid, func() (err error) {
		ln, err = net.Listen("tcp4", "192.0.2.2:80")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			fmt.Fprint(c, c.RemoteAddr())
			c.Close()
		}
	}()
	var c net.Conn
	if err := InNamespace(ct.pid, func() (err error) {
		c, err = net.DialTimeout("tcp4", "192.0.2.2:80", 3*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	seen, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(seen), "192.0.2.1:") {
		t.Fatalf("the outside saw %q, %v, want the host's address", seen, err)
	}
}

func TestOnThreadSparesTheMainThread(t *testing.T) {
	var g errgroup.Group
	for range 200 {
		g.Go(func() error {
			return OnThread(func() error {
				if unix.Gettid() == unix.Getpid() {
					return errors.New("ran on the main thread, which cannot end")
				}
				return nil
			})
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestPlugIsFast(t *testing.T) {
	n := newNetwork(t, Config{})
	m := newMember(t, 1)
	for range 3 {
		start := time.Now()
		plug(t, n, 101, m, true)
		plugged := time.Since(start)
		start = time.Now()
		if err := n.Open(101, []runtime.NIC{m.nic}); err != nil {
			t.Fatal(err)
		}
		t.Logf("plug %v, open %v", plugged, time.Since(start))
	}
}

func TestBadInput(t *testing.T) {
	for _, c := range []Config{{Address: "10.77.0.1"}, {NAT: true}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	n := newNetwork(t, Config{})
	m := newMember(t, 1)
	m.nic.MAC = "nonsense"
	if err := n.Plug(101, m.pid, []runtime.NIC{m.nic}, false); err == nil {
		t.Error("a bad MAC was taken")
	}
	m.nic.MAC = "02:00:00:00:00:01"
	if err := n.Plug(101, 1<<22+1, []runtime.NIC{m.nic}, false); err == nil {
		t.Error("plugged into a process that does not exist")
	}
	if l, _ := find(PortName(101)); l != nil {
		t.Error("a failed Plug left its interface")
	}
	if err := errors.Join(n.Close(104), n.Unplug(104)); err != nil {
		t.Errorf("closing and unplugging nothing: %v", err)
	}
	missing, err := New(Config{Uplink: "nosuch0", Bridge: "vzbr9"})
	if err != nil {
		t.Fatal(err)
	}
	if err := missing.Setup(context.Background()); err == nil {
		t.Error("an absent uplink was taken")
	}
}
