package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"sync"
	"time"

	"github.com/vzcluster/vzcluster/cluster/trust"
)

// Protocols on the one TCP port, told apart by ALPN. A peer that names none speaks HTTP.
const (
	alpnHTTP    = "http/1.1"
	alpnRaft    = "vz-raft"
	alpnMigrate = "vz-migrate"
)

// handshakeTimeout bounds what a silent peer may hold.
const handshakeTimeout = 10 * time.Second

// listenSocket opens the local socket for root and the configured group.
func (a *Agent) listenSocket() (net.Listener, error) {
	path := a.SocketPath()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the old socket cannot be removed: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("the local socket cannot be opened: %w", err)
	}
	if g, err := user.LookupGroup(a.cfg.Group); err == nil {
		if gid, err := strconv.Atoi(g.Gid); err == nil {
			_ = os.Chown(path, -1, gid) // without it root alone may use the socket
		}
	}
	if err := os.Chmod(path, 0o660); err != nil {
		ln.Close()
		return nil, fmt.Errorf("the local socket cannot be given to group %s: %w", a.cfg.Group, err)
	}
	return ln, nil
}

// serveHTTP serves the API on a listener until the agent ends.
func (a *Agent) serveHTTP(ln net.Listener) {
	srv := &http.Server{
		Handler:           a.routes(),
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       time.Minute,
		BaseContext:       func(net.Listener) context.Context { return a.ctx },
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	a.spawn("api", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { srv.Close() })
		defer stop()
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
}

// splitter accepts TLS connections and hands each to the listener of its protocol.
type splitter struct {
	ln   net.Listener
	conf *tls.Config
	log  *slog.Logger
	out  map[string]*chanListener
}

func newSplitter(ln net.Listener, id *trust.Identity, log *slog.Logger) (*splitter, error) {
	conf, err := trust.ServerTLS(id, alpnHTTP, alpnRaft, alpnMigrate)
	if err != nil {
		return nil, err
	}
	s := &splitter{ln: ln, conf: conf, log: log, out: map[string]*chanListener{}}
	for _, p := range conf.NextProtos {
		s.out[p] = newChanListener(ln.Addr())
	}
	return s, nil
}

// run accepts until ctx ends; then it closes the listener and all connections that nobody has taken.
func (s *splitter) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.ln.Close() })
	defer stop()
	defer func() {
		for _, l := range s.out {
			l.Close()
		}
	}()
	for {
		conn, err := s.ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			s.log.Warn("a connection could not be accepted", "error", err)
			select { // out of file descriptors, most likely
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		go s.hand(ctx, conn)
	}
}

// hand finishes the handshake and passes the connection on.
func (s *splitter) hand(ctx context.Context, raw net.Conn) {
	conn := tls.Server(raw, s.conf)
	hctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(hctx); err != nil {
		s.log.Debug("a TLS handshake failed", "from", raw.RemoteAddr(), "error", err)
		raw.Close()
		return
	}
	if err := noticeLoss(conn, silence); err != nil {
		s.log.Warn("a connection would notice late that its peer is lost", "from", raw.RemoteAddr(), "error", err)
	}
	proto := conn.ConnectionState().NegotiatedProtocol
	if proto == "" {
		proto = alpnHTTP
	}
	if !s.out[proto].put(ctx, conn) {
		conn.Close()
	}
}

// peerConn returns the certificate's host name and serial of a connection that the splitter handed out.
func peerConn(conn net.Conn) (name, serial string, ok bool) {
	t, isTLS := conn.(*tls.Conn)
	if !isTLS {
		return "", "", false
	}
	return trust.PeerOf(t.ConnectionState())
}

// chanListener is a net.Listener that is fed by put.
type chanListener struct {
	addr   net.Addr
	conns  chan net.Conn // never closed
	closed chan struct{} // closed by Close
	once   sync.Once
}

func newChanListener(addr net.Addr) *chanListener {
	return &chanListener{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *chanListener) put(ctx context.Context, c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
	case <-ctx.Done():
	}
	return false
}

// Accept waits for the next connection.
func (l *chanListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *chanListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is the address of the port.
func (l *chanListener) Addr() net.Addr { return l.addr }
