package criu

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// listening is a socket's state when connections to it wait to be accepted.
const listening = 10 // TCP_LISTEN, which unix sockets use too

// Connecting implements runtime.Checkpointer.
func (*Criu) Connecting(pid int) (bool, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return false, fmt.Errorf("find the network of process %d: %w", pid, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_INET_DIAG)
	if err != nil {
		return false, fmt.Errorf("ask for the sockets of process %d: %w", pid, err)
	}
	defer h.Close()
	found, err := h.UnixSocketDiagInfo()
	if err != nil {
		return false, fmt.Errorf("list the sockets of process %d: %w", pid, err)
	}
	for _, s := range found {
		if s.DiagMsg.State == listening && s.DiagMsg.Type != unix.SOCK_DGRAM && s.Queue != nil && s.Queue.RQueue > 0 {
			return true, nil
		}
	}
	return false, nil
}
