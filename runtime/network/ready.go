package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// answerTime is how long whoever has an address may take to say so.
const answerTime = 300 * time.Millisecond

// Ready implements runtime.Network. The container itself may answer for its address: it is still elsewhere on this LAN.
func (n *Network) Ready(ctx context.Context, nics []runtime.NIC) (string, error) {
	own, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return "", fmt.Errorf("read this host's addresses: %w", err)
	}
	for _, nic := range nics {
		bridge, err := n.segment(nic.Segment)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return fmt.Sprintf("there is no %s", strings.SplitN(err.Error(), ":", 2)[0]), nil
		}
		if err != nil {
			return "", err
		}
		for _, a := range nic.Addresses {
			for _, o := range own {
				if o.IP.Equal(a.Addr().AsSlice()) {
					return fmt.Sprintf("it has the container's address %s itself", a.Addr()), nil
				}
			}
			if mac := neighbour(ctx, bridge, a.Addr()); mac != "" && !strings.EqualFold(mac, nic.MAC) {
				return fmt.Sprintf("somebody else on its network has the container's address %s (%s)", a.Addr(), mac), nil
			}
		}
	}
	return "", nil
}

// neighbour asks who has an address behind the bridge, and returns the MAC; "" when nobody answers, or when this host
// has no address of its own there to ask from.
func neighbour(ctx context.Context, bridge netlink.Link, a netip.Addr) string {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 || routes[0].LinkIndex != bridge.Attrs().Index || routes[0].Gw != nil {
		return ""
	}
	conn, err := net.Dial("udp", netip.AddrPortFrom(a, 9).String())
	if err != nil {
		return ""
	}
	defer conn.Close()
	_, _ = conn.Write([]byte{0}) // to the port that discards: the kernel asks for the MAC first
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	for {
		list, err := netlink.NeighList(bridge.Attrs().Index, netlink.FAMILY_ALL)
		if err != nil {
			return ""
		}
		for _, e := range list {
			if known := e.State&(unix.NUD_REACHABLE|unix.NUD_STALE|unix.NUD_DELAY|unix.NUD_PROBE|unix.NUD_PERMANENT) != 0; known && e.IP.Equal(a.AsSlice()) {
				return e.HardwareAddr.String()
			}
		}
		select {
		case <-ctx.Done():
			return ""
		case <-time.After(10 * time.Millisecond):
		}
	}
}
