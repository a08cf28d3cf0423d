package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/vzcluster/vzcluster/agent/api"
)

// terminal is the user's terminal while every key goes to the container.
type terminal struct {
	fd      int
	before  *term.State
	size    api.Resize
	resized chan api.Resize // closed by watch
	signals chan os.Signal
}

// rawTerminal switches a terminal to raw mode; close switches back.
func rawTerminal(stdin io.Reader) (*terminal, error) {
	f, ok := stdin.(*os.File)
	if !ok {
		return nil, fmt.Errorf("it is no file")
	}
	t := &terminal{fd: int(f.Fd()), resized: make(chan api.Resize, 1), signals: make(chan os.Signal, 1)}
	t.size = t.measure()
	before, err := term.MakeRaw(t.fd)
	if err != nil {
		return nil, err
	}
	t.before = before
	signal.Notify(t.signals, syscall.SIGWINCH)
	go t.watch()
	return t, nil
}

func (t *terminal) measure() api.Resize {
	cols, rows, err := term.GetSize(t.fd)
	if err != nil {
		return api.Resize{Rows: 24, Cols: 80}
	}
	return api.Resize{Rows: uint16(rows), Cols: uint16(cols)}
}

// watch tells every new size, the newest one if nobody listens.
func (t *terminal) watch() {
	defer close(t.resized)
	for range t.signals {
		size := t.measure()
		select {
		case <-t.resized:
		default:
		}
		t.resized <- size
	}
}

func (t *terminal) close() {
	signal.Stop(t.signals)
	close(t.signals)
	_ = term.Restore(t.fd, t.before)
}
