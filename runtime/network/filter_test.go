package network

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// listen takes connections inside a member and echoes what they bring.
func (m member) listen(t *testing.T, addr string) {
	t.Helper()
	var ln net.Listener
	if err := InNamespace(m.pid, func() (err error) { ln, err = net.Listen("tcp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
}

// connect makes a connection from inside a member; nil when nothing answers within the time.
func (m member) connect(t *testing.T, addr string, within time.Duration) net.Conn {
	t.Helper()
	c, err := m.dial(addr, within)
	var slow net.Error
	if err != nil && !(errors.As(err, &slow) && slow.Timeout()) && !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Fatal(err)
	}
	if err != nil {
		return nil
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (m member) dial(addr string, within time.Duration) (c net.Conn, err error) {
	err = InNamespace(m.pid, func() (err error) { c, err = net.DialTimeout("tcp", addr, within); return err })
	return c, err
}

func echoes(c net.Conn) bool {
	buf := make([]byte, 2)
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("hi")); err != nil {
		return false
	}
	_, err := io.ReadFull(c, buf)
	return err == nil && bytes.Equal(buf, []byte("hi"))
}

// udpPair asks from a for an answer of b over UDP.
func answered(t *testing.T, a member, from string, b member, at string, within time.Duration) bool {
	t.Helper()
	var server, client net.PacketConn
	if err := errors.Join(
		InNamespace(b.pid, func() (err error) { server, err = net.ListenPacket("udp", at); return err }),
		InNamespace(a.pid, func() (err error) { client, err = net.ListenPacket("udp", from); return err }),
	); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	defer client.Close()
	to, err := net.ResolveUDPAddr("udp", at)
	if err == nil {
		_, err = client.WriteTo([]byte("x"), to)
	}
	if err != nil && !errors.Is(err, syscall.EPERM) {
		t.Fatal(err)
	}
	buf := make([]byte, 1)
	_ = server.SetReadDeadline(time.Now().Add(within))
	_, peer, err := server.ReadFrom(buf)
	if err != nil {
		return false
	}
	_, _ = server.WriteTo(buf, peer)
	_ = client.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, _, err = client.ReadFrom(buf)
	return err == nil
}

const short, long = 300 * time.Millisecond, 5 * time.Second

func TestFirewall(t *testing.T) {
	n := newNetwork(t, Config{Address: "10.77.0.1/16"})
	a, b := newMember(t, 1).with("fd00::1/64"), newMember(t, 2).with("fd00::2/64")
	plug(t, n, 101, a, false)
	plug(t, n, 102, b, false)
	for _, addr := range []string{"10.77.1.2:80", "10.77.1.2:22", "[fd00::2]:80", "[fd00::2]:22"} {
		b.listen(t, addr)
	}
	a.listen(t, "10.77.1.1:80")
	before := a.connect(t, "10.77.1.2:22", long)
	b.nic.Firewall = &runtime.Firewall{DenyIn: true, Rules: []runtime.FirewallRule{
		{Proto: unix.IPPROTO_TCP, First: 80, Last: 81},
		{Proto: unix.IPPROTO_UDP, First: 53, Last: 53, Peer: netip.MustParsePrefix("10.77.1.0/24")},
		{Out: true, Deny: true, Proto: unix.IPPROTO_UDP, First: 99, Last: 99},
	}}
	change(t, n, 102, b, b.nic)

	if before == nil || !echoes(before) {
		t.Error("a connection that was there before the rules has ended")
	}
	for addr, want := range map[string]bool{"10.77.1.2:80": true, "[fd00::2]:80": true, "10.77.1.2:22": false, "[fd00::2]:22": false} {
		within := short
		if want {
			within = long
		}
		if c := a.connect(t, addr, within); (c != nil) != want || want && !echoes(c) {
			t.Errorf("connecting to %s: %v, want %v", addr, c != nil, want)
		}
	}
	if c := b.connect(t, "10.77.1.1:80", long); c == nil || !echoes(c) {
		t.Error("it cannot connect to others itself")
	}
	if !answered(t, a, "10.77.1.1:0", b, "10.77.1.2:53", long) {
		t.Error("UDP that a rule allows is not answered")
	}
	if answered(t, a, "10.77.1.1:0", b, "10.77.1.2:54", short) {
		t.Error("UDP that no rule allows got through")
	}
	if answered(t, a, "[fd00::1]:0", b, "[fd00::2]:53", short) {
		t.Error("a rule for a network of IPv4 lets IPv6 through")
	}
	if !answered(t, b, "10.77.1.2:0", a, "10.77.1.1:98", long) {
		t.Error("the answer to its own question over UDP does not come back")
	}
	if answered(t, b, "10.77.1.2:0", a, "10.77.1.1:99", short) {
		t.Error("UDP that a rule denies got out")
	}

	b.nic.Firewall = &runtime.Firewall{DenyOut: true}
	change(t, n, 102, b, b.nic)
	if c := a.connect(t, "10.77.1.2:22", long); c == nil || !echoes(c) {
		t.Error("it does not answer where only what it begins is denied")
	}
	if c := b.connect(t, "10.77.1.1:80", short); c != nil {
		t.Error("it connects though that is denied")
	}
	b.nic.Firewall = nil
	change(t, n, 102, b, b.nic)
	if c := b.connect(t, "10.77.1.1:80", long); c == nil {
		t.Error("rules that were taken away still hold")
	}
}

// A held frame that begins a connection would pass by the firewall.
func TestHeldFramesAndFirewall(t *testing.T) {
	nic := newMember(t, 2).nic
	mac, _ := net.ParseMAC(nic.MAC)
	frame := func(flags byte) []byte {
		f := make([]byte, vnetHeader+14+40)
		p := f[vnetHeader:]
		copy(p, mac)
		p[12], p[13], p[14], p[23], p[47] = 8, 0, 0x45, unix.IPPROTO_TCP, flags
		return f
	}
	syn, ack := frame(0x02), frame(0x10)
	if got := framesFor(nic, [][]byte{syn, ack}); len(got) != 2 {
		t.Errorf("without a firewall %d of 2 frames are handed over", len(got))
	}
	nic.Firewall = &runtime.Firewall{DenyIn: true}
	if got := framesFor(nic, [][]byte{syn, ack}); len(got) != 1 || !bytes.Equal(got[0], ack) {
		t.Errorf("behind a firewall %d frames are handed over, want the one of a connection that is there", len(got))
	}
}
