package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// simSilence is how long a peer may be silent before a connection breaks, as agent/silence.go has it.
const simSilence = 6 * time.Second

var (
	errReset   = errors.New("connection reset by peer")
	errTimeout = errors.New("connection timed out")
)

// simConn is a connection between two hosts.
type simConn struct {
	s    *sim
	id   int
	ends [2]*simEnd
}

// simEnd is one end of it.
type simEnd struct {
	c        *simConn
	h        *simHost
	agent    *simAgent
	peer     *simEnd
	inflight [][]byte // on its way to us
	rx       []byte
	eof      bool
	err      error
	closed   bool      // by its owner
	gone     time.Time // its host lost power; zero: it has not
	changed  *sync.Cond
}

func (s *sim) connect(from, to *simAgent) [2]*simEnd {
	s.conn++
	c := &simConn{s: s, id: s.conn}
	for i, a := range []*simAgent{from, to} {
		c.ends[i] = &simEnd{c: c, h: a.h, agent: a, changed: sync.NewCond(&s.mu)}
	}
	c.ends[0].peer, c.ends[1].peer = c.ends[1], c.ends[0]
	s.conns = append(s.conns, c)
	return c.ends
}

func (e *simEnd) alive() bool { return !e.closed && e.err == nil && e.gone.IsZero() }

func (e *simEnd) Read(p []byte) (int, error) {
	s := e.c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case e.closed || !e.gone.IsZero():
			return 0, net.ErrClosed
		case len(e.rx) > 0:
			n := copy(p, e.rx)
			e.rx = e.rx[n:]
			return n, nil
		case e.err != nil:
			return 0, e.err
		case e.eof:
			return 0, io.EOF
		}
		e.changed.Wait()
	}
}

func (e *simEnd) Write(p []byte) (int, error) {
	s := e.c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.closed || !e.gone.IsZero() {
		return 0, net.ErrClosed
	}
	if e.err != nil {
		return 0, e.err
	}
	e.peer.inflight = append(e.peer.inflight, append([]byte(nil), p...))
	return len(p), nil
}

func (e *simEnd) Close() error {
	e.c.s.mu.Lock()
	defer e.c.s.mu.Unlock()
	e.closed = true
	e.changed.Broadcast()
	return nil
}

// fail breaks an end. What had arrived can still be read.
func (e *simEnd) fail(err error) {
	if e.alive() {
		e.err = err
		e.inflight = nil
		e.changed.Broadcast()
	}
}

func (c *simConn) cut() {
	for _, e := range c.ends {
		e.fail(errReset)
	}
}

// events lists what can happen to the connection now.
func (c *simConn) events() []*event {
	var out []*event
	up := c.s.link("a", "b")
	for _, e := range c.ends {
		add := func(what string, f func()) {
			out = append(out, &event{key: fmt.Sprintf("connection %d: %s %s", c.id, what, e.h.name), run: func() {
				c.s.mu.Lock()
				defer c.s.mu.Unlock()
				f()
				e.changed.Broadcast()
			}})
		}
		p := e.peer
		switch {
		case !e.alive():
			if up && len(e.inflight) > 0 && e.gone.IsZero() {
				add("nobody reads on", func() { e.inflight = nil; p.fail(errReset) })
			}
		case !p.gone.IsZero() && time.Since(p.gone) > simSilence || !up && time.Since(c.s.downSince["ab"]) > simSilence:
			add("times out on", func() { e.fail(errTimeout) })
		case !up:
		case p.err != nil || !p.gone.IsZero() && p.h.agent != nil:
			add("is reset on", func() { e.fail(errReset) })
		case len(e.inflight) > 0:
			add("data arrives on", func() { e.rx = append(e.rx, e.inflight[0]...); e.inflight = e.inflight[1:] })
		case p.closed && !e.eof:
			add("ends on", func() { e.eof = true })
		}
	}
	return out
}

// dial connects to the other host's agent.
func (a *simAgent) dial(_ context.Context, host string) (io.ReadWriteCloser, error) {
	var end *simEnd
	s := a.h.s
	err := a.do("dial", func() error {
		other := s.host(host).agent
		if other == nil || !s.link("a", "b") {
			return errors.New("connection refused")
		}
		ends := s.connect(a, other)
		end = ends[0]
		go other.mover.Handle(other.ctx, ends[1], a.h.name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return end, nil
}
