package memory

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Commands of CRIU's page server, and the layout that they have since version 4.2: command and flags, four bytes of
// nothing, number of pages, address, space.
const (
	psAdd        = 1
	psHole       = 2
	psOpen       = 3
	psOpen2      = 4
	psParent     = 5
	psAddFlags   = 6
	psClose      = 0x1023
	psForceClose = 0x1024

	psSize      = 32
	psFlagShift = 16
)

// Flags of pages in CRIU's images.
const (
	peParent  = 1 << 0
	peLazy    = 1 << 1
	pePresent = 1 << 2
)

// PageServer serves a dumping CRIU, and sends the pages as the last pass. CRIU is never cut off: once sending has failed,
// its pages are read and thrown away, and it is told so at the end.
type PageServer struct {
	send   *Sender
	read   *Reader
	same   map[Space]*table[bool] // pages that CRIU may leave out
	conn   io.ReadWriter
	in     *bufio.Reader
	buf    []byte
	failed error
}

// Serve sends what CRIU says as the last pass, without pages that it may leave out.
func (r *Reader) Serve(criu io.ReadWriter, send *Sender) error { return Serve(criu, send, r) }

// Serve returns when CRIU has said that all was sent. The reader of the rounds, if there is one, knows which pages need not be
// read once more.
func Serve(conn io.ReadWriter, send *Sender, read *Reader) error {
	p := &PageServer{send: send, read: read, same: map[Space]*table[bool]{}, conn: conn, in: bufio.NewReaderSize(conn, 16<<10), buf: send.run}
	for {
		end, err := p.step()
		if err != nil {
			return errors.Join(p.failed, fmt.Errorf("take pages from criu: %w", err))
		}
		if end {
			return p.failed
		}
	}
}

// step answers one command.
func (p *PageServer) step() (end bool, err error) {
	var b [psSize]byte
	if _, err := io.ReadFull(p.in, b[:]); err != nil {
		return false, err
	}
	cmd := binary.NativeEndian.Uint32(b[:])
	pages, addr := binary.NativeEndian.Uint64(b[8:]), binary.NativeEndian.Uint64(b[16:])
	space := Space(binary.NativeEndian.Uint64(b[24:]))
	switch cmd & (1<<psFlagShift - 1) {
	case psOpen, psOpen2:
		if !space.valid() {
			return false, fmt.Errorf("%w: space %#x; criu 4.2 or newer is needed", ErrProtocol, uint64(space))
		}
		p.try(func() error { return p.send.Open(space) })
		if cmd == psOpen {
			return false, nil
		}
		return false, p.answer(space)
	case psParent:
		_, err = p.conn.Write(make([]byte, 4)) // none
		return false, err
	case psAdd:
		return false, p.pages(space, addr, pages, pePresent)
	case psAddFlags:
		return false, p.pages(space, addr, pages, cmd>>psFlagShift)
	case psClose, psForceClose:
		status := int32(0)
		if p.failed != nil {
			status = -1
		}
		return true, binary.Write(p.conn, binary.NativeEndian, status)
	}
	return false, fmt.Errorf("%w: command %#x", ErrProtocol, cmd)
}

// answer tells CRIU whether it may leave out pages that are not marked as written.
func (p *PageServer) answer(space Space) error {
	same, err := p.read.unwritten(space)
	if err != nil {
		return fmt.Errorf("what was written: %w", err)
	}
	parent := []byte{0}
	if same != nil {
		p.same[space], parent[0] = same, 1
	}
	_, err = p.conn.Write(parent)
	return err
}

// hole takes pages that CRIU has left out. Those that are not as they were read are read now.
func (p *PageServer) hole(space Space, first, n uint64) error {
	same := p.same[space]
	if same == nil {
		return fmt.Errorf("%w: pages of space %#x were left out", ErrProtocol, uint64(space))
	}
	for end := first + n; first < end; first += n {
		known := same.get(first) && p.send.has(space, first)
		for n = 1; first+n < end && (same.get(first+n) && p.send.has(space, first+n)) == known; n++ {
		}
		if known {
			p.try(func() error { return p.send.Same(space, first, n) })
			continue
		}
		err := readRun(p.read.seen[space].pid, first*PageSize, n, p.buf, func(addr uint64, data []byte) error {
			p.try(func() error { return p.send.Pages(space, addr/PageSize, data, pePresent) })
			return nil
		})
		if err != nil {
			return fmt.Errorf("read what was left out: %w", err)
		}
	}
	return nil
}

func (p *PageServer) pages(space Space, addr, pages uint64, flags uint32) error {
	if flags == peParent && addr%PageSize == 0 {
		return p.hole(space, addr/PageSize, pages)
	}
	if flags&pePresent == 0 || flags&^(pePresent|peLazy) != 0 || addr%PageSize != 0 {
		return fmt.Errorf("%w: pages at %#x with flags %#x", ErrProtocol, addr, flags)
	}
	first := addr / PageSize
	for pages > 0 {
		n := min(pages, maxRun)
		buf := p.buf[:n*PageSize]
		if _, err := io.ReadFull(p.in, buf); err != nil {
			return err
		}
		p.try(func() error { return p.send.Pages(space, first, buf, byte(flags)) })
		first, pages = first+n, pages-n
	}
	return nil
}

func (p *PageServer) try(do func() error) {
	if p.failed == nil {
		p.failed = do()
	}
}
