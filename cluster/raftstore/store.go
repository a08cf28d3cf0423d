// Package raftstore keeps the replicated State with hashicorp/raft: the log and votes in bbolt, snapshots in files.
//
// It owns agreement and durability, and decides nothing about the cluster: what a command does is package cluster's,
// who may send one is the agent's. The one rule for callers: after ErrUnknownOutcome a command may or may not have
// happened; read the state behind a Barrier before doing anything that assumes either.
package raftstore

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// What became of a request that raft did not carry out.
var (
	// ErrNotLeader: nothing happened; ask the leader.
	ErrNotLeader = errors.New("this host is not the leader")
	// ErrUnknownOutcome: it may have happened or may still happen.
	ErrUnknownOutcome = errors.New("it is not known whether the change was committed")
	// ErrStopped: this replica has stopped, see Store.Err.
	ErrStopped = errors.New("the replica of this host has stopped")
)

// maxCommand bounds a log entry, in bytes: a request with the most containers that one may have fits.
const maxCommand = 4 << 20

// Config says who this replica is. Zero durations and counts mean their defaults.
type Config struct {
	Dir     string // made when it is missing
	Name    string // of this host, its identity in raft
	Address string // of this host, as the others dial it
	Layer   raft.StreamLayer
	Log     *slog.Logger

	HeartbeatTimeout time.Duration // a follower without contact for so long stands for election; 800 ms
	ElectionTimeout  time.Duration // 800 ms
	LeaderLease      time.Duration // a leader without a quorum for so long steps down; 600 ms
	CallTimeout      time.Duration // of calls to other replicas, and of calls to Store without a deadline; 10 s

	At func(point string) error // called around every command; tests stop a replica there; nil: none

	SnapshotInterval  time.Duration // how often to look whether a snapshot is due; 1 min
	SnapshotThreshold uint64        // entries after which it is due; 4096
	TrailingLogs      uint64        // entries kept behind a snapshot; 4096
}

func (c Config) withDefaults() Config {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	c.HeartbeatTimeout = cmp.Or(c.HeartbeatTimeout, 800*time.Millisecond)
	c.ElectionTimeout = cmp.Or(c.ElectionTimeout, 800*time.Millisecond)
	c.LeaderLease = cmp.Or(c.LeaderLease, min(600*time.Millisecond, c.HeartbeatTimeout))
	c.CallTimeout = cmp.Or(c.CallTimeout, 10*time.Second)
	c.SnapshotInterval = cmp.Or(c.SnapshotInterval, time.Minute)
	c.SnapshotThreshold = cmp.Or(c.SnapshotThreshold, 4096)
	c.TrailingLogs = cmp.Or(c.TrailingLogs, 4096)
	return c
}

func (c Config) raft(notify chan<- bool) *raft.Config {
	r := raft.DefaultConfig()
	r.LocalID = raft.ServerID(c.Name)
	r.HeartbeatTimeout = c.HeartbeatTimeout
	r.ElectionTimeout = c.ElectionTimeout
	r.LeaderLeaseTimeout = c.LeaderLease
	r.SnapshotInterval = c.SnapshotInterval
	r.SnapshotThreshold = c.SnapshotThreshold
	r.TrailingLogs = c.TrailingLogs
	r.NotifyCh = notify
	r.ShutdownOnRemove = false // a host that was voted out by mistake must be able to come back
	r.NoLegacyTelemetry = true
	r.Logger = hclogTo(c.Log)
	return r
}

// Store is one host's replica. Its methods may be called by any number of goroutines.
type Store struct {
	cfg       Config
	raft      *raft.Raft
	fsm       *fsm
	leader    chan bool     // closed by relay
	stop      chan struct{} // closed by Close
	relayed   sync.WaitGroup
	closers   []io.Closer
	closeOnce sync.Once
	closeErr  error
}

// Open starts the replica from what its directory holds; an empty one waits until it is bootstrapped or until a
// leader makes it a member. Close it.
func Open(cfg Config) (_ *Store, err error) {
	cfg = cfg.withDefaults()
	s := &Store{cfg: cfg, fsm: newFSM(cfg.At), leader: make(chan bool), stop: make(chan struct{})}
	defer func() {
		if err != nil {
			_ = s.closeParts()
		}
	}()
	logger := hclogTo(cfg.Log)
	transport := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Logger: logger, Stream: cfg.Layer, MaxPool: 3, Timeout: cfg.CallTimeout, MsgpackUseNewTimeFormat: true,
	})
	s.closers = append(s.closers, transport)
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the replicated state: %w", err)
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(cfg.Dir, 2, logger)
	if err != nil {
		return nil, fmt.Errorf("open the snapshots in %s: %w", cfg.Dir, err)
	}
	path := filepath.Join(cfg.Dir, "raft.db")
	db, err := raftboltdb.New(raftboltdb.Options{
		Path:                    path,
		BoltOptions:             &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: 5 * time.Second},
		MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		return nil, fmt.Errorf("open the log %s (does another agent use it?): %w", path, err)
	}
	s.closers = append(s.closers, db)
	cache, err := raft.NewLogCache(512, db)
	if err != nil {
		return nil, fmt.Errorf("make the cache of the log: %w", err)
	}
	notify := make(chan bool)
	s.raft, err = raft.NewRaft(cfg.raft(notify), s.fsm, cache, db, snapshots, transport)
	if err != nil {
		return nil, fmt.Errorf("start the replica in %s: %w", cfg.Dir, err)
	}
	s.relayed.Go(func() { s.relay(notify) })
	return s, nil
}

// relay hands leadership on to LeaderCh so that raft never waits for its reader, and ends raft when the replica is
// closed or has failed: then it must not vote, lead or apply any more. Gains that were lost again before anybody
// looked are left out, so at most a loss and a gain are kept.
func (s *Store) relay(notify <-chan bool) {
	defer close(s.leader)
	defer func() { _ = s.raft.Shutdown().Error() }()
	var queue []bool
	for {
		var out chan<- bool
		var next bool
		if len(queue) > 0 {
			out, next = s.leader, queue[0]
		}
		select {
		case leads := <-notify:
			if n := len(queue); !leads && n > 0 && queue[n-1] {
				queue = queue[:n-1]
			} else {
				queue = append(queue, leads)
			}
		case out <- next:
			queue = queue[1:]
		case <-s.fsm.failed:
			s.cfg.Log.Error("the replica stops", "err", s.fsm.err())
			return
		case <-s.stop:
			return
		}
	}
}
