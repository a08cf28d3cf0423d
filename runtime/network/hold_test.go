package network

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// A connection's data that comes while its container is nowhere is held, and is answered as soon as it is replayed: not
// after a retransmission, and not after the container has asked where its peer is. Segments larger than a frame and
// checksums that the kernel has left for later are among it.
func TestHeldFramesAreReplayed(t *testing.T) {
	lan := newMember(t, 0)
	peers := netlink.NewLinkAttrs()
	peers.Name = "vzup0"
	mac := net.HardwareAddr{2, 0, 10, 77, 0, 9}
	up := &netlink.Veth{LinkAttrs: peers, PeerName: "eth0", PeerNamespace: netlink.NsPid(lan.pid), PeerHardwareAddr: mac}
	if err := netlink.LinkAdd(up); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(up) })
	outside := lan.nic
	outside.MAC, outside.Addresses[0] = mac.String(), netip.MustParsePrefix("10.77.0.9/16")
	if err := InNamespace(lan.pid, func() error { return configure([]runtime.NIC{outside}) }); err != nil {
		t.Fatal(err)
	}
	n := newNetwork(t, Config{Uplink: "vzup0"})
	ct := newMember(t, 1)
	plug(t, n, 101, ct, false)
	var ln net.Listener
	var err error
	if err := InNamespace(ct.pid, func() error { ln, err = net.Listen("tcp4", ct.addr()+":7"); return err }); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var c net.Conn
	if err := InNamespace(lan.pid, func() error { c, err = net.Dial("tcp4", ct.addr()+":7"); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()

	if err := n.Close(101); err != nil {
		t.Fatal(err)
	}
	held, err := n.Hold([]runtime.NIC{ct.nic})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := InNamespace(ct.pid, func() error { // as after a restore
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.IP{10, 77, 0, 9}})
	}); err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 5000)
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	var frames [][]byte
	for end := time.Now().Add(10 * time.Second); len(frames) == 0; frames = held.Take() {
		if time.Now().After(end) {
			t.Fatal("nothing was held")
		}
		time.Sleep(time.Millisecond)
	}
	if err := n.Replay(101, []runtime.NIC{ct.nic}, frames); err != nil {
		t.Fatal(err)
	}
	// The port is still closed: what arrives was replayed.
	if err := server.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if k, err := server.Read(make([]byte, 8000)); err != nil || k == 0 {
		t.Fatalf("the container has read %d bytes, %v", k, err)
	}
	known := false
	if err := InNamespace(ct.pid, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		all, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_V4)
		for _, e := range all {
			known = known || e.IP.String() == "10.77.0.9" && e.HardwareAddr.String() == mac.String() && e.State != unix.NUD_FAILED
		}
		return err
	}); err != nil || !known {
		t.Errorf("the container does not know its peer: %v", err)
	}
	if err := n.Open(101, []runtime.NIC{ct.nic}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-held.(holdings)[0].done:
	case <-time.After(10 * time.Second):
		t.Error("frames are held after the container has announced itself")
	}
}
