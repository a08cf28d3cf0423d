package network

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// What is kept for a container that is nowhere is bounded; what comes beyond that is lost, and its sender repeats it.
const (
	maxHeld      = 4096
	maxHeldBytes = 8 << 20
)

// vnetHeader is the length of what the kernel puts before a frame: checksums and segments that are still to be made.
const vnetHeader = 10

// holding collects frames from a packet socket until its end.
type holding struct {
	f    *os.File
	mac  net.HardwareAddr
	nic  runtime.NIC
	done chan struct{} // closed when nothing more is collected

	mu     sync.Mutex
	frames [][]byte
	bytes  int
}

// Hold implements runtime.Network. The frames are seen on the uplink: those from the LAN as they come in, those of this
// host's own containers as the bridge floods them. Collecting ends by itself when the new place announces itself.
func (n *Network) Hold(nics []runtime.NIC) (runtime.Held, error) {
	var all holdings
	for _, nic := range nics {
		if n.uplink(nic.Segment) == "" {
			continue
		}
		h, err := n.hold(nic)
		if err != nil {
			all.Close()
			return nil, err
		}
		all = append(all, h)
	}
	return all, nil
}

func (n *Network) hold(nic runtime.NIC) (*holding, error) {
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil {
		return nil, fmt.Errorf("hold frames: %w", err)
	}
	link, err := netlink.LinkByName(n.uplink(nic.Segment))
	if err != nil {
		return nil, fmt.Errorf("hold frames at uplink %s: %w", n.uplink(nic.Segment), err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // hears nothing yet
	if err != nil {
		return nil, fmt.Errorf("hold frames: %w", err)
	}
	h := &holding{f: os.NewFile(uintptr(fd), "frames"), mac: mac, nic: nic, done: make(chan struct{})}
	if err := listenFor(fd, mac, link.Attrs().Index); err != nil {
		h.f.Close()
		return nil, fmt.Errorf("hold frames: %w", err)
	}
	go h.collect()
	return h, nil
}

// listenFor lets the socket hear what Hold is interested in. A busy host's other frames do not leave the kernel.
func listenFor(fd int, mac net.HardwareAddr, index int) error {
	high, low := uint32(binary.BigEndian.Uint16(mac)), binary.BigEndian.Uint32(mac[2:])
	const (
		word = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		half = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
		is   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	)
	filter := []unix.SockFilter{
		{Code: word, K: 2},
		{Code: is, K: low, Jf: 2},
		{Code: half, K: 0},
		{Code: is, K: high, Jt: 9}, // to it
		{Code: word, K: 8},
		{Code: is, K: low, Jf: 2},
		{Code: half, K: 6},
		{Code: is, K: high, Jt: 5}, // from it
		{Code: half, K: 12},
		{Code: is, K: unix.ETH_P_ARP, Jt: 3},
		{Code: word, K: 0},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xffffff00}, // who asks for an IPv6 neighbour
		{Code: is, K: 0x3333ff00, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 18},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index})
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (h *holding) collect() {
	defer close(h.done)
	b := make([]byte, vnetHeader+(64<<10)+128)
	for {
		k, err := h.f.Read(b)
		if err != nil {
			return
		}
		if k < vnetHeader+14 {
			continue
		}
		frame := b[vnetHeader:k]
		if bytes.Equal(frame[6:12], h.mac) { // it speaks from its new place
			return
		}
		if !bytes.Equal(frame[:6], h.mac) && !asksFor(frame, h.nic.Addresses) {
			continue
		}
		h.mu.Lock()
		if len(h.frames) < maxHeld && h.bytes+k <= maxHeldBytes {
			h.frames, h.bytes = append(h.frames, bytes.Clone(b[:k])), h.bytes+k
		}
		h.mu.Unlock()
	}
}

// asksFor says whether a frame asks where one of these addresses is.
func asksFor(frame []byte, addrs []netip.Prefix) bool {
	for _, p := range addrs {
		a := p.Addr().AsSlice()
		if p.Addr().Is4() {
			if isARP(frame) && bytes.Equal(frame[38:42], a) {
				return true
			}
		} else if bytes.Equal(frame[:6], append([]byte{0x33, 0x33, 0xff}, a[13:]...)) {
			return true
		}
	}
	return false
}

func isARP(frame []byte) bool {
	return len(frame) >= 42 && binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_ARP
}

// holdings are those of all NICs of a container.
type holdings []*holding

// Take implements runtime.Held.
func (all holdings) Take() [][]byte {
	var frames [][]byte
	for _, h := range all {
		frames = append(frames, h.take()...)
	}
	return frames
}

// Close implements runtime.Held.
func (all holdings) Close() {
	for _, h := range all {
		h.close()
	}
}

// take returns what came since the last call.
func (h *holding) take() [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	frames := h.frames
	h.frames, h.bytes = nil, 0
	return frames
}

func (h *holding) close() {
	h.f.Close()
	<-h.done
}

// Replay implements runtime.Network. A restored container knows no neighbours: whoever sent a held frame introduces
// itself first, or the answer would wait until the container has asked for it.
func (n *Network) Replay(id int, nics []runtime.NIC, frames [][]byte) error {
	if len(frames) == 0 {
		return nil
	}
	var lost error
	for _, nic := range nics { // the frames of others may get through
		if err := replay(portName(id, nic.Index), nic, framesFor(nic, frames)); err != nil {
			lost = fmt.Errorf("replay frames to container %d: %w", id, err)
		}
	}
	return lost
}

// framesFor picks those that go to a NIC or ask for it.
func framesFor(nic runtime.NIC, frames [][]byte) [][]byte {
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil {
		return nil
	}
	var mine [][]byte
	for _, b := range frames {
		if len(b) >= vnetHeader+14 && (bytes.Equal(b[vnetHeader:vnetHeader+6], mac) || asksFor(b[vnetHeader:], nic.Addresses)) && (nic.Firewall == nil || harmless(b[vnetHeader:])) {
			mine = append(mine, b)
		}
	}
	return mine
}

// harmless says whether a frame may pass by a firewall: it asks for a neighbour, or belongs to a connection of TCP that
// there is already. Other frames are not handed over; their senders repeat them if they must.
func harmless(frame []byte) bool {
	if isARP(frame) {
		return true
	}
	const tcp4, tcp6, syn, ack = 14 + 20 + 13, 14 + 40 + 13, 0x02, 0x10
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		return len(frame) > tcp4 && frame[14] == 0x45 && frame[14+9] == unix.IPPROTO_TCP && frame[tcp4]&(syn|ack) != syn
	case unix.ETH_P_IPV6:
		const solicitation = 135
		return len(frame) > tcp6 && frame[14+6] == unix.IPPROTO_TCP && frame[tcp6]&(syn|ack) != syn ||
			len(frame) > 54 && frame[14+6] == unix.IPPROTO_ICMPV6 && frame[54] == solicitation
	}
	return false
}

func replay(name string, nic runtime.NIC, frames [][]byte) error {
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil || len(frames) == 0 {
		return err
	}
	port, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.SetsockoptInt(s, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{Ifindex: port.Attrs().Index}
	var lost error
	for _, frame := range append(introductions(mac, nic.Addresses, frames), frames...) {
		if err := unix.Sendto(s, frame, 0, to); err != nil {
			lost = err // the others may get through
		}
	}
	return lost
}

// introductions are ARP requests in the name of those senders of frames who are on the container's own network.
func introductions(mac net.HardwareAddr, addrs []netip.Prefix, frames [][]byte) [][]byte {
	var all [][]byte
	known := map[netip.Addr]bool{}
	for _, b := range frames {
		if len(b) < vnetHeader+34 || binary.BigEndian.Uint16(b[vnetHeader+12:]) != unix.ETH_P_IP {
			continue
		}
		frame := b[vnetHeader:]
		peer := netip.AddrFrom4([4]byte(frame[26:30]))
		for _, p := range addrs {
			if known[peer] || !p.Addr().Is4() || !p.Contains(peer) {
				continue
			}
			known[peer] = true
			arp := append(make([]byte, vnetHeader), arpFrame(1, net.HardwareAddr(frame[6:12]), peer)...)
			copy(arp[vnetHeader:], mac)
			copy(arp[vnetHeader+38:], p.Addr().AsSlice())
			all = append(all, arp)
		}
	}
	return all
}
