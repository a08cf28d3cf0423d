package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"

	"github.com/vzcluster/vzcluster/cluster"
)

// Agent is what a Mover needs of the agent that it is a part of.
type Agent interface {
	// State is this host's replica of the cluster's state; it may be behind.
	State() *cluster.State
	// Changed returns a channel that is closed at the next change of State.
	Changed() <-chan struct{}
	// Idle waits until reconciliation is not acting on a container. It then keeps away from one whose migration it has
	// seen in the replica.
	Idle(ctx context.Context, container int) error
	// RestartDue says whether a container runs here that is to be restarted.
	RestartDue(container int) bool
	// Poke tells reconciliation that a container is not busy any more.
	Poke(container int)
}

// Mover carries out one host's part of all migrations: it finds what this host must do, also for what a former agent
// has left, and does one operation of a container at a time. Make it with NewMover.
type Mover struct {
	name   string
	agent  Agent
	source *Source
	target *Target
	log    *slog.Logger

	mu    sync.Mutex
	busy  map[int]string  // container -> operation that this process works on
	swept map[string]bool // ended operations of which nothing is kept here
	over  map[string]bool // operations that this process has nothing more to do with, until they are final
	wake  chan struct{}   // an operation is not busy any more
}

// NewMover returns the mover of the host that target is named after. Both sides share a disk and a folder on it.
func NewMover(a Agent, source *Source, target *Target) *Mover {
	return &Mover{
		name: target.Name, agent: a, source: source, target: target, log: target.Log,
		busy: map[int]string{}, swept: map[string]bool{}, over: map[string]bool{}, wake: make(chan struct{}, 1),
	}
}

// Run looks for migrations that nobody here works on, whenever the replica changes, until ctx ends.
func (mv *Mover) Run(ctx context.Context) error {
	if err := mv.source.Disk.MkdirAll(mv.source.Dir, 0o700); err != nil {
		return fmt.Errorf("make the folder for migrations: %w", err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	if shelf := mv.source.Shelf; shelf != nil {
		all.Go(func() {
			shelf.Run(ctx, func(container int) bool { return mv.agent.State().Container(container) != nil })
		})
	}
	for {
		changed, state := mv.agent.Changed(), mv.agent.State()
		mv.mu.Lock() // what the state has forgotten need not be remembered here
		remembered := len(mv.swept)
		maps.DeleteFunc(mv.swept, func(id string, _ bool) bool { return state.Operation(id) == nil })
		mv.source.Board.forget(func(id string) bool { return state.Operation(id) != nil })
		forgotten := len(mv.swept) < remembered
		mv.mu.Unlock()
		if forgotten {
			mv.pruneLogs(state)
		}
		for _, op := range state.Operations() {
			switch {
			case op.Kind != cluster.OpMigrate:
			case mv.workFor(op) != nil:
				if mv.claim(op) {
					all.Go(func() {
						defer mv.release(op)
						mv.confirmed(ctx, op)
					})
				}
			case op.Final():
				mv.forget(ctx, op)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-mv.wake:
		}
	}
}

// confirmed works on an operation as the leader knows it: the replica may be behind, most of all after a restart, and
// show as active what has ended long ago.
func (mv *Mover) confirmed(ctx context.Context, op *cluster.Operation) {
	now, err := mv.source.Confirm(ctx, op)
	if err != nil || mv.agent.Idle(ctx, op.Container) != nil {
		return // the agent ends
	}
	if now == nil { // its container is gone, and what is left of it is reconciliation's
		mv.end(op)
		return
	}
	if work := mv.workFor(now); work != nil {
		work(ctx, now)
	} else {
		mv.end(op)
	}
}

// Handle serves one migration stream from peer, whose name was authenticated.
func (mv *Mover) Handle(ctx context.Context, conn io.ReadWriteCloser, peer string) {
	var op *cluster.Operation // that is ours
	err := mv.target.Serve(ctx, conn, peer, func(operation string) error {
		known := mv.agent.State().Operation(operation)
		if known == nil || !mv.claim(known) {
			return fmt.Errorf("operation %s is worked on already", operation)
		}
		op = known
		return nil
	})
	if err != nil {
		mv.log.Error("a migration to this host failed", "from", peer, "error", err)
	}
	if op == nil {
		return
	}
	if err == nil {
		mv.done(op) // before the release, or Run would look at it once more
	}
	mv.release(op)
}

// claim takes an operation to work on. A container has one at a time: what a later one froze, an earlier one must not
// thaw.
func (mv *Mover) claim(op *cluster.Operation) bool {
	mv.mu.Lock()
	defer mv.mu.Unlock()
	if _, taken := mv.busy[op.Container]; taken || mv.over[op.ID] {
		return false
	}
	mv.busy[op.Container] = op.ID
	return true
}

// release ends the work on an operation; what is left to do for it is found by Run.
func (mv *Mover) release(op *cluster.Operation) {
	mv.mu.Lock()
	delete(mv.busy, op.Container)
	mv.mu.Unlock()
	mv.agent.Poke(op.Container)
	select {
	case mv.wake <- struct{}{}:
	default:
	}
}

// done notes that this process has nothing more to do for an operation, though the replica may not show its end yet.
func (mv *Mover) done(op *cluster.Operation) {
	mv.mu.Lock()
	defer mv.mu.Unlock()
	mv.over[op.ID] = true
}

// forget drops what is kept of an ended operation: for one that ended while no agent lived here, that is its
// checkpoint, as large as the container's memory.
func (mv *Mover) forget(ctx context.Context, op *cluster.Operation) {
	mv.mu.Lock()
	delete(mv.over, op.ID)
	keep := mv.busy[op.Container] == op.ID || mv.swept[op.ID]
	if !keep {
		mv.swept[op.ID] = true
	}
	mv.mu.Unlock()
	if keep {
		return
	}
	images := filepath.Join(mv.source.Dir, op.ID)
	err := mv.source.Host.Settle(ctx, images)
	for _, left := range []string{images, images + ".json", images + ".json.new", images + ".source"} {
		err = errors.Join(err, mv.source.Disk.RemoveAll(left))
	}
	if err != nil {
		mv.log.Warn("what a migration has left cannot be removed", "operation", op.ID, "error", err)
	}
}

// Busy says whether a migration of the container is worked on here.
func (mv *Mover) Busy(container int) bool {
	mv.mu.Lock()
	defer mv.mu.Unlock()
	_, busy := mv.busy[container]
	return busy
}
