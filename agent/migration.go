package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate"
	"github.com/vzcluster/vzcluster/runtime"
)

// MigrationEngine is what migrations need of this host's kernel besides Engine; runtime/engine implements it.
type MigrationEngine interface {
	migrate.SourceHost
	migrate.TargetHost
}

// mover carries out this host's part of migrations: it implements Migrator with package migrate.
type mover struct {
	a      *Agent
	engine MigrationEngine
	source *migrate.Source
	target *migrate.Target
	dir    string

	mu    sync.Mutex
	busy  map[int]string  // container -> operation that this process works on
	swept map[string]bool // ended operations of which nothing is kept here
	over  map[string]bool // operations that this process has nothing more to do with, until they are final
	wake  chan struct{}   // an operation is not busy any more
}

// NewMigrator makes a Migrator out of the host's engine. Hook may be nil; tests fail steps with it.
func NewMigrator(engine MigrationEngine, hook migrate.Hook) func(*Agent) Migrator {
	return func(a *Agent) Migrator {
		dir := filepath.Join(a.Config().DataDir, "migrations")
		l := &ledger{a}
		mv := &mover{a: a, engine: engine, dir: dir, busy: map[int]string{}, over: map[string]bool{}, swept: map[string]bool{}, wake: make(chan struct{}, 1)}
		mv.source = &migrate.Source{Host: engine, Ledger: l, Copy: migrate.Layers{}, Disk: migrate.LocalDisk{}, Dir: dir, Hook: hook, Log: a.Log(), Dial: mv.dial}
		mv.target = &migrate.Target{
			Name: a.Name(), Host: engine, Ledger: l, Copy: migrate.Layers{}, Disk: migrate.LocalDisk{}, Dir: dir, Hook: hook, Log: a.Log(), Spec: mv.spec,
		}
		return mv
	}
}

func (mv *mover) dial(ctx context.Context, host string) (io.ReadWriteCloser, error) {
	m := mv.a.member.Load()
	conn, err := m.peers.dial(ctx, host, m.addressOf(host), alpnMigrate)
	if err != nil {
		return nil, err
	}
	if err := noticeSilence(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// spec makes a container's specification, and sees to it that its template is here and that reconciliation has let go
// of the container.
func (mv *mover) spec(ctx context.Context, ct *cluster.Container) (runtime.Spec, error) {
	if err := mv.a.Idle(ctx, ct.ID); err != nil {
		return runtime.Spec{}, err
	}
	if err := mv.a.EnsureTemplate(ctx, ct.Digest); err != nil {
		return runtime.Spec{}, err
	}
	return mv.a.Spec(ct)
}

// Run implements Migrator: whenever the replica changes, it looks for migrations that nobody here works on.
func (mv *mover) Run(ctx context.Context) error {
	if err := os.MkdirAll(mv.dir, 0o700); err != nil {
		return fmt.Errorf("make the folder for migrations: %w", err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	for {
		changed, state := mv.a.Changed(), mv.a.State()
		mv.mu.Lock() // what the state has forgotten need not be remembered here
		maps.DeleteFunc(mv.swept, func(id string, _ bool) bool { return state.Operation(id) == nil })
		mv.mu.Unlock()
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
func (mv *mover) confirmed(ctx context.Context, op *cluster.Operation) {
	now, err := mv.source.Confirm(ctx, op)
	if err != nil || mv.a.Idle(ctx, op.Container) != nil {
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

// workFor says what this host must do for an operation that it does not work on yet; nil: nothing. A source that has
// begun has something to do even if the operation has ended: an abort that another one asked for, or that a former
// agent did not live to act upon, leaves the container frozen here.
func (mv *mover) workFor(op *cluster.Operation) func(context.Context, *cluster.Operation) {
	switch mv.a.Name() {
	case op.From:
		if op.Status == cluster.OpCommitted || mv.begun(op) {
			return mv.recoverSource
		}
		if !op.Final() {
			return mv.runSource
		}
	case op.To:
		if op.Status == cluster.OpCommitted || !op.Final() && mv.target.Left(op.ID) {
			return mv.recoverTarget
		}
	}
	return nil
}

// sourceMark is the file that says that an agent of this host has begun an operation and not ended it.
func (mv *mover) sourceMark(op *cluster.Operation) string {
	return filepath.Join(mv.dir, op.ID+".source")
}

func (mv *mover) begun(op *cluster.Operation) bool {
	_, err := os.Stat(mv.sourceMark(op))
	return err == nil
}

func (mv *mover) runSource(ctx context.Context, op *cluster.Operation) {
	mv.asSource(ctx, op, func(ctx context.Context, op *cluster.Operation, spec runtime.Spec) error {
		if err := os.WriteFile(mv.sourceMark(op), nil, 0o600); err != nil {
			return mv.source.GiveUp(ctx, op, spec, err)
		}
		if m := mv.a.member.Load(); m.rec.restartDue(op.Container) {
			return mv.source.GiveUp(ctx, op, spec, errors.New("the container is about to be restarted; migrate it after that"))
		}
		return mv.source.Run(ctx, op, spec)
	})
}

func (mv *mover) recoverSource(ctx context.Context, op *cluster.Operation) {
	mv.a.Log().Info("taking over a migration of a former agent", "operation", op.ID, "container", op.Container)
	mv.asSource(ctx, op, mv.source.Recover)
}

// asSource does the source's part, and repeats its end until the container runs where the ledger says.
func (mv *mover) asSource(ctx context.Context, op *cluster.Operation, do func(context.Context, *cluster.Operation, runtime.Spec) error) {
	log := mv.a.Log().With("operation", op.ID, "container", op.Container, "from", op.From, "to", op.To)
	for {
		spec, err := mv.sourceSpec(op)
		if err == nil {
			err = do(ctx, op, spec)
		}
		if ctx.Err() != nil {
			return // the next agent takes over
		}
		if err == nil || !errors.Is(err, migrate.ErrUnsettled) {
			log.Info("this host's part of a migration has ended", "fault", err)
			mv.end(op)
			return
		}
		log.Error("a migration is not settled", "error", err)
		do = mv.source.Recover
		select {
		case <-ctx.Done():
			return
		case <-time.After(recoverEvery):
		}
	}
}

func (mv *mover) sourceSpec(op *cluster.Operation) (runtime.Spec, error) {
	ct := mv.a.State().Container(op.Container)
	if ct == nil {
		return runtime.Spec{}, fmt.Errorf("container %d is not known any more", op.Container)
	}
	spec, err := mv.a.Spec(ct)
	if err != nil {
		return spec, fmt.Errorf("%w: %w", migrate.ErrUnsettled, err)
	}
	return spec, nil
}

// end notes that this host has nothing more to do for an operation.
func (mv *mover) end(op *cluster.Operation) {
	mv.done(op)
	if err := os.Remove(mv.sourceMark(op)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		mv.a.Log().Warn("a finished migration will be looked at again", "operation", op.ID, "error", err)
	}
}

// recoverTarget repeats until it is done: after a commit nobody else can make the container run.
func (mv *mover) recoverTarget(ctx context.Context, op *cluster.Operation) {
	log := mv.a.Log().With("operation", op.ID, "container", op.Container, "from", op.From, "to", op.To)
	log.Info("taking over a migration that nobody works on")
	for ctx.Err() == nil {
		err := mv.tryRecoverTarget(ctx, op)
		if err == nil {
			mv.done(op)
			return
		}
		log.Error("take over a migration", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(recoverEvery):
		}
	}
}

// recoverEvery is the pause between tries to take a migration over.
const recoverEvery = time.Second

func (mv *mover) tryRecoverTarget(ctx context.Context, op *cluster.Operation) error {
	ct, err := mv.a.Read(ctx, op.Container)
	if err != nil {
		return err
	}
	spec, err := mv.spec(ctx, ct)
	if err != nil {
		return err
	}
	return mv.target.Recover(ctx, op, spec)
}

// Handle implements Migrator.
func (mv *mover) Handle(conn net.Conn, peer string) {
	if err := noticeSilence(conn); err != nil {
		mv.a.Log().Warn("a migration stream would notice late that its source is lost", "error", err)
	}
	var op *cluster.Operation
	err := mv.target.Serve(mv.a.member.Load().ctx, conn, peer, func(operation string) (func(), error) {
		if op = mv.a.State().Operation(operation); op == nil || !mv.claim(op) {
			return nil, fmt.Errorf("operation %s is worked on already", operation)
		}
		return func() { mv.release(op) }, nil
	})
	if err != nil {
		mv.a.Log().Error("a migration to this host failed", "from", peer, "error", err)
		return
	}
	mv.done(op)
}

// claim takes an operation to work on. A container has one at a time: what a later one froze, an earlier one must not
// thaw.
func (mv *mover) claim(op *cluster.Operation) bool {
	mv.mu.Lock()
	defer mv.mu.Unlock()
	if _, taken := mv.busy[op.Container]; taken || mv.over[op.ID] {
		return false
	}
	mv.busy[op.Container] = op.ID
	return true
}

// release ends the work on an operation; what is left to do for it is found by Run.
func (mv *mover) release(op *cluster.Operation) {
	mv.mu.Lock()
	delete(mv.busy, op.Container)
	mv.mu.Unlock()
	if m := mv.a.member.Load(); m != nil {
		m.rec.poke(op.Container) // reconciliation has kept away from it
	}
	select {
	case mv.wake <- struct{}{}:
	default:
	}
}

// done notes that this process has nothing more to do for an operation, though the replica may not show its end yet.
func (mv *mover) done(op *cluster.Operation) {
	mv.mu.Lock()
	defer mv.mu.Unlock()
	mv.over[op.ID] = true
}

// forget drops what is kept of an ended operation: for one that ended while no agent lived here, that is its
// checkpoint, as large as the container's memory.
func (mv *mover) forget(ctx context.Context, op *cluster.Operation) {
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
	images := filepath.Join(mv.dir, op.ID)
	err := mv.engine.Settle(ctx, images)
	for _, left := range []string{images, images + ".json", images + ".source"} {
		err = errors.Join(err, os.RemoveAll(left))
	}
	if err != nil {
		mv.a.Log().Warn("what a migration has left cannot be removed", "operation", op.ID, "error", err)
	}
}

// Busy implements Migrator.
func (mv *mover) Busy(container int) bool {
	mv.mu.Lock()
	defer mv.mu.Unlock()
	_, busy := mv.busy[container]
	return busy
}

// Check implements Migrator.
func (mv *mover) Check(_ context.Context, id int) (api.Verdict, error) {
	scan, err := mv.engine.Scan(id)
	if errors.Is(err, runtime.ErrNotRunning) {
		return api.Verdict{OK: true, Blockers: []api.Blocker{}}, nil // there is nothing that could be in the way
	}
	if err != nil {
		return api.Verdict{}, err
	}
	v := api.Verdict{Blockers: []api.Blocker{}}
	for _, b := range migrate.Preflight(scan) {
		v.Blockers = append(v.Blockers, api.Blocker{Process: b.Process, Unit: b.Unit, What: b.What, Remedy: b.Remedy})
	}
	v.OK = len(v.Blockers) == 0
	return v, nil
}
