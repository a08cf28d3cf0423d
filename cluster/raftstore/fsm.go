package raftstore

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/vzcluster/vzcluster/cluster"
)

// fsm feeds committed log entries to the State. Raft calls it from one goroutine.
type fsm struct {
	state  atomic.Pointer[cluster.State]
	failed chan struct{} // closed by fail
	at     func(point string) error

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	failure error
}

// applied is what raft hands back to the caller of Apply.
type applied struct {
	result any
	err    error
}

func newFSM(at func(string) error) *fsm {
	if at == nil {
		at = func(string) error { return nil }
	}
	f := &fsm{at: at, failed: make(chan struct{}), changed: make(chan struct{})}
	f.state.Store(cluster.NewState())
	return f
}

// Apply applies one committed entry. An entry that cannot be read would make this replica differ from the others, so
// the replica fails and applies nothing any more.
func (f *fsm) Apply(entry *raft.Log) any {
	if err := f.err(); err != nil {
		return applied{err: err}
	}
	command, err := cluster.Decode(entry.Data)
	if err != nil {
		return applied{err: f.fail(fmt.Errorf("log entry %d: %w", entry.Index, err))}
	}
	f.point("raft.committed", command)
	state := f.state.Load()
	next, result, err := state.Apply(command)
	if next != state {
		f.set(next)
	}
	f.point("raft.applied", command)
	return applied{result, err}
}

// point passes a point of a command. What is committed cannot fail any more, so an error has no consequence.
func (f *fsm) point(step string, command cluster.Command) {
	_ = f.at(fmt.Sprintf("%s.%s", step, commandName(command)))
}

// commandName is CommitMigration for a cluster.CommitMigration.
func commandName(command cluster.Command) string {
	_, name, _ := strings.Cut(fmt.Sprintf("%T", command), ".")
	return name
}

func (f *fsm) set(next *cluster.State) {
	f.state.Store(next)
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fsm) watch() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fsm) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failure
}

func (f *fsm) fail(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure == nil {
		f.failure = fmt.Errorf("%w: %w", ErrStopped, err)
		close(f.failed)
	}
	return f.failure
}

// Snapshot only takes the pointer: a State never changes.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.err(); err != nil {
		return nil, err
	}
	return snapshot{f.state.Load()}, nil
}

// Restore replaces the state by a snapshot's.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer func() { _ = r.Close() }()
	state, err := cluster.ReadState(r)
	if err != nil {
		return f.fail(fmt.Errorf("restore a snapshot: %w", err))
	}
	f.set(state)
	return nil
}

type snapshot struct{ state *cluster.State }

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.state.Snapshot(sink); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

func (snapshot) Release() {}
