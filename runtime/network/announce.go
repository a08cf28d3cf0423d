package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// announce sends gratuitous ARP, as request and as reply since neighbours differ in what they heed, and unsolicited
// neighbour advertisements. They go out through the bridge device, to all its ports, with the container's MAC as source:
// from that every bridge and switch on the way learns the new place.
func announce(bridge int, mac net.HardwareAddr, addrs []netip.Prefix) error {
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot announce the addresses: %w", err)
	}
	defer unix.Close(s)
	to := &unix.SockaddrLinklayer{Ifindex: bridge}
	for _, frame := range announcements(mac, addrs) {
		if err := unix.Sendto(s, frame, 0, to); err != nil {
			return fmt.Errorf("cannot announce the addresses: %w", err)
		}
	}
	return nil
}

func announcements(mac net.HardwareAddr, addrs []netip.Prefix) [][]byte {
	var frames [][]byte
	for _, p := range addrs {
		if p.Addr().Is4() {
			frames = append(frames, arpFrame(1, mac, p.Addr()), arpFrame(2, mac, p.Addr()))
		} else {
			frames = append(frames, advertisement(mac, p.Addr()))
		}
	}
	return frames
}

// arpFrame says that the address is at the MAC; operation 1 is a request, 2 a reply.
func arpFrame(operation byte, mac net.HardwareAddr, a netip.Addr) []byte {
	f := make([]byte, 0, 42)
	f = append(f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	f = append(f, mac...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, operation)
	f = append(f, mac...)
	f = append(f, a.AsSlice()...)
	if operation == 1 {
		f = append(f, 0, 0, 0, 0, 0, 0)
	} else {
		f = append(f, mac...)
	}
	return append(f, a.AsSlice()...)
}

// advertisement is an unsolicited ICMPv6 neighbour advertisement to all nodes, with the override flag.
func advertisement(mac net.HardwareAddr, a netip.Addr) []byte {
	all := netip.MustParseAddr("ff02::1")
	icmp := append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, a.AsSlice()...)
	icmp = append(append(icmp, 2, 1), mac...)
	pseudo := append(append([]byte{}, a.AsSlice()...), all.AsSlice()...)
	pseudo = append(pseudo, 0, 0, 0, byte(len(icmp)), 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(icmp[2:], checksum(append(pseudo, icmp...)))

	f := []byte{0x33, 0x33, 0, 0, 0, 1}
	f = append(f, mac...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_IPV6)
	f = append(f, 0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, 255)
	f = append(f, a.AsSlice()...)
	f = append(f, all.AsSlice()...)
	return append(f, icmp...)
}

// checksum is the Internet checksum of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
