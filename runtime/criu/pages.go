package criu

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"golang.org/x/sys/unix"
)

// pageSocket is the connection over which a dumping CRIU sends pages; without a server there is none.
type pageSocket struct {
	ours   net.Conn
	theirs []*os.File // CRIU's end, until it has it
	served chan error
}

// pagesAhead is how many bytes CRIU may be ahead of whoever takes its pages.
const pagesAhead = 4 << 20

// servePages begins to serve pages.
func servePages(serve func(io.ReadWriter) error) (*pageSocket, error) {
	p := &pageSocket{}
	if serve == nil {
		return p, nil
	}
	fds, err := unix.Socketpair(unix.AF_LOCAL, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket for pages: %w", err)
	}
	_ = unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, pagesAhead) // without the right to it only slower
	ours := os.NewFile(uintptr(fds[0]), "pages")
	p.theirs = []*os.File{os.NewFile(uintptr(fds[1]), "pages")}
	p.ours, err = net.FileConn(ours)
	ours.Close()
	if err != nil {
		p.given()
		return nil, fmt.Errorf("make a socket for pages: %w", err)
	}
	p.served = make(chan error, 1)
	go func() { p.served <- serve(p.ours) }()
	return p, nil
}

// option tells CRIU of its end.
func (p *pageSocket) option() *rpc.CriuPageServerInfo {
	if p.ours == nil {
		return nil
	}
	return &rpc.CriuPageServerInfo{Fd: ptr(int32(firstFile))}
}

// given closes our copy of CRIU's end, so that its end of life is seen.
func (p *pageSocket) given() {
	for _, f := range p.theirs {
		f.Close()
	}
	p.theirs = nil
}

// end adds what became of serving to the result of a dump, once CRIU has ended: it came to an end by itself, or finds its
// connection closed, which tells nothing new.
func (p *pageSocket) end(dumped error) error {
	if p.ours == nil {
		return dumped
	}
	p.given()
	defer p.ours.Close()
	served := <-p.served
	if dumped != nil && errors.Is(served, io.EOF) {
		return dumped
	}
	return errors.Join(served, dumped)
}
