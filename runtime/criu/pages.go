package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"golang.org/x/sys/unix"
)

// pageSocket is the connection over which a dumping CRIU sends pages, if somebody serves them. Every criu gets one at its
// start, because it may be started before that is known.
type pageSocket struct {
	ours   net.Conn
	theirs *os.File   // CRIU's end, until it has it
	served chan error // nil: nobody serves
}

// pagesAhead is how many bytes CRIU may be ahead of whoever takes its pages.
const pagesAhead = 4 << 20

func newPageSocket() (*pageSocket, error) {
	fds, err := unix.Socketpair(unix.AF_LOCAL, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket for pages: %w", err)
	}
	_ = unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, pagesAhead) // without the right to it only slower
	ours, theirs := os.NewFile(uintptr(fds[0]), "pages"), os.NewFile(uintptr(fds[1]), "pages")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, fmt.Errorf("make a socket for pages: %w", err)
	}
	return &pageSocket{ours: conn, theirs: theirs}, nil
}

// serve begins to serve pages; nil: nobody does.
func (p *pageSocket) serve(serve func(io.ReadWriter) error) {
	if serve == nil {
		return
	}
	p.served = make(chan error, 1)
	go func() { p.served <- serve(p.ours) }()
}

// option tells CRIU of its end.
func (p *pageSocket) option() *rpc.CriuPageServerInfo {
	if p.served == nil {
		return nil
	}
	return &rpc.CriuPageServerInfo{Fd: ptr(int32(pagesFD))}
}

// marked lets CRIU leave out pages that are not marked as written. For that it wants to see an earlier dump, of which it reads
// only when it was made, to notice process numbers that were given anew since. Whoever serves the pages does that better, and
// says of which processes pages may be left out; so that dump was made at the end of time.
func marked(o *rpc.CriuOpts, images string) error {
	const before, inventory, magic = "before", "inventory.img", 0x58313116
	const version, uptime = 1, 8 // fields of inventory_entry
	message := binary.AppendUvarint([]byte{version << 3, 2, uptime << 3}, math.MaxInt64)
	image := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, magic), uint32(len(message)))
	dir := filepath.Join(images, before)
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, inventory), append(image, message...), 0o644)
	}
	if err != nil {
		return fmt.Errorf("make an earlier dump for criu: %w", err)
	}
	o.TrackMem, o.ParentImg = ptr(true), ptr(before)
	return nil
}

// leaveOut has a dump leave out private memory. CRIU would then wait to be asked for it: on its end of the page socket, which
// a request cannot say but a file can.
func (s *session) leaveOut(o *rpc.CriuOpts, images string) error {
	file := filepath.Join(images, "lazy.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, "ps-socket %d\n", pagesFD), 0o600); err != nil {
		return fmt.Errorf("configure criu: %w", err)
	}
	o.LazyPages, o.ConfigFile = ptr(true), ptr(file)
	return nil
}

// end adds what became of serving to the result of a dump, once CRIU has ended: it came to an end by itself, or finds its
// connection closed, which tells nothing new.
func (p *pageSocket) end(dumped error) error {
	defer p.ours.Close()
	if p.served == nil {
		return dumped
	}
	served := <-p.served
	if dumped != nil && errors.Is(served, io.EOF) {
		return dumped
	}
	return errors.Join(served, dumped)
}
