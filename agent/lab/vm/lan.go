package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime/network"
)

// The LAN's addresses. The process that made the lab is on it as the gateway.
const (
	pool      = "10.78.0.0/16"
	Gateway   = "10.78.0.1"
	poolFirst = "10.78.1.1"
	poolLast  = "10.78.250.254"
	MaxHosts  = 9 // of one lab: each is a whole machine

	bridge = "lan0"
)

func hostAddress(n int) string { return fmt.Sprintf("10.78.0.%d", 10+n) }

// lan is a thread in a network namespace of its own, with a bridge whose ports are the machines' cards. The namespace
// ends with the thread, and so does every process that it has started.
type lan struct {
	work chan func() // closed by close
	done chan error  // gets the thread's end
}

func newLAN() (*lan, error) {
	l := &lan{work: make(chan func()), done: make(chan error, 1)}
	wired := make(chan error, 1)
	go func() {
		l.done <- network.OnThread(func() error {
			err := wire()
			if wired <- err; err != nil {
				return err
			}
			for f := range l.work {
				f()
			}
			return nil
		})
	}()
	if err := <-wired; err != nil {
		return nil, fmt.Errorf("make the machines' network: %w", err)
	}
	return l, nil
}

func wire() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	off := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridge
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}); err != nil {
		return err
	}
	br, err := netlink.LinkByName(bridge)
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(Gateway + "/16")
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(br, addr), netlink.LinkSetUp(br), netlink.LinkSetUp(lo))
}

// do runs f on the thread.
func (l *lan) do(f func() error) error {
	done := make(chan error, 1)
	l.work <- func() { done <- f() }
	return <-done
}

// tap makes a card for a machine, a port of the bridge.
func (l *lan) tap(name string) error {
	return l.do(func() error {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		card := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR}
		if err := netlink.LinkAdd(card); err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(card, br), netlink.LinkSetUp(card))
	})
}

// start starts a process on the LAN that is killed when this process ends.
func (l *lan) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	return l.do(cmd.Start)
}

// dial opens a TCP connection from the LAN to an IP address.
func (l *lan) dial(ctx context.Context, address string) (conn net.Conn, err error) {
	err = l.do(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

func (l *lan) close() error {
	close(l.work)
	return <-l.done
}
