package agent

import (
	"context"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// raftLayer carries raft's streams over the agent's port: mTLS, and only hosts of this cluster.
type raftLayer struct {
	*chanListener
	m      *member
	usable chan struct{} // closed by startMember when m knows its store
}

var _ raft.StreamLayer = (*raftLayer)(nil)

// Accept returns the next stream of a host that may speak raft.
func (l *raftLayer) Accept() (net.Conn, error) {
	<-l.usable
	for {
		conn, err := l.chanListener.Accept()
		if err != nil {
			return nil, err
		}
		name, serial, ok := peerConn(conn)
		if ok && l.m.maySpeakRaft(name, serial) {
			return conn, nil
		}
		l.m.log.Warn("refused a raft connection", "from", conn.RemoteAddr(), "certificate", name)
		conn.Close()
	}
}

// Dial opens a stream to a host; who answers must hold the certificate of the host at that address.
func (l *raftLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	<-l.usable
	ctx, cancel := context.WithTimeout(l.m.ctx, timeout)
	defer cancel()
	return l.m.peers.dial(ctx, l.m.hostAt(string(address)), string(address), alpnRaft)
}
