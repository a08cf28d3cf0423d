package raftstore

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// network is an in-memory LAN of stream layers that can be cut.
type network struct {
	mu     sync.Mutex
	layers map[string]*layer
	cut    map[string]bool // hosts that reach nobody
	conns  map[net.Conn][2]string
}

func newNetwork() *network {
	return &network{layers: map[string]*layer{}, cut: map[string]bool{}, conns: map[net.Conn][2]string{}}
}

// layer is one host's raft.StreamLayer.
type layer struct {
	net    *network
	name   string
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (n *network) layer(name string) *layer {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &layer{net: n, name: name, accept: make(chan net.Conn), closed: make(chan struct{})}
	n.layers[name] = l
	return l
}

// isolate cuts hosts off and breaks their connections; heal undoes it.
func (n *network) isolate(names ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range names {
		n.cut[name] = true
	}
	for c, ends := range n.conns {
		if n.cut[ends[0]] || n.cut[ends[1]] {
			_ = c.Close()
			delete(n.conns, c)
		}
	}
}

func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

func (l *layer) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *layer) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *layer) Addr() net.Addr { return memAddr(l.name) }

func (l *layer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	l.net.mu.Lock()
	to := l.net.layers[string(address)]
	cut := l.net.cut[l.name] || l.net.cut[string(address)]
	l.net.mu.Unlock()
	if to == nil || cut {
		return nil, errors.New("unreachable")
	}
	here, there := net.Pipe()
	select {
	case to.accept <- there:
	case <-to.closed:
		return nil, errors.New("connection refused")
	case <-time.After(timeout):
		return nil, errors.New("dial timed out")
	}
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.net.conns[here] = [2]string{l.name, string(address)}
	return here, nil
}

type memAddr string

func (memAddr) Network() string  { return "mem" }
func (a memAddr) String() string { return string(a) }
