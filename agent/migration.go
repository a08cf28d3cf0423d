package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate"
	"github.com/vzcluster/vzcluster/migrate/memory"
	"github.com/vzcluster/vzcluster/runtime"
)

// MigrationEngine is what migrations need of this host's kernel besides Engine; runtime/engine implements it.
type MigrationEngine interface {
	migrate.SourceHost
	migrate.TargetHost
	migrate.LayerStore
	EndSessions(ctx context.Context, id int) error
	// Facts says what this host is like, Room what it has left, Need what a container takes with it.
	Facts() (runtime.Facts, error)
	Room() (runtime.Room, error)
	Need(id int) (runtime.Need, error)
	// Ready says what of this host's network is in the way of a container that comes, "" for nothing.
	Ready(ctx context.Context, nics []runtime.NIC) (string, error)
}

// mover carries out this host's part of migrations: it implements Migrator with package migrate.
type mover struct {
	a      *Agent
	engine MigrationEngine
	moves  *migrate.Mover
	shelf  *migrate.Shelf
	board  *migrate.Board
}

// NewMigrator makes a Migrator out of the host's engine. Hook may be nil; tests fail steps with it.
func NewMigrator(engine MigrationEngine, hook migrate.Hook) func(*Agent) Migrator {
	return func(a *Agent) Migrator {
		dir := filepath.Join(a.Config().DataDir, "migrations")
		l := &migrate.ClusterLedger{Host: a.Name(), Cluster: a}
		keep := a.Config().Keep
		shelf := &migrate.Shelf{Store: engine, For: time.Duration(keep.Minutes) * time.Minute, Disk: int64(keep.Disk), Log: a.Log()}
		mv, disk := &mover{a: a, engine: engine, shelf: shelf, board: &migrate.Board{}}, hook.Disk(migrate.LocalDisk{})
		source := &migrate.Source{
			Host: engine, Ledger: l, Copy: migrate.Layers{}, Memory: func() migrate.Memory { return memory.NewReader(a.Config().SoftDirty) }, Disk: disk, Dir: dir, Hook: hook, Log: a.Log(),
			Dial: mv.dial, Spec: a.Spec, LastMove: func(container int) *cluster.MoveResult { return a.State().LastMove(container) },
		}
		target := &migrate.Target{
			Name: a.Name(), Host: engine, Ledger: l, Copy: migrate.Layers{}, Memory: openPages, Fill: memory.Filler{}, Disk: disk, Dir: dir, Hook: hook, Log: a.Log(),
			Spec: mv.spec,
		}
		source.Answers = func(send *memory.Sender, pids []int) (migrate.Answerer, error) { return memory.NewAnswerer(send, pids) }
		target.Lazy = mv.lazy
		source.Board, target.Fetching = mv.board, mv.fetching
		source.Shelf, target.Shelf, source.KeepMemory = shelf, shelf, mv.keepMemory
		source.Offer, source.EndSessions, target.Unfit = mv.Offer, engine.EndSessions, mv.Unfit
		mv.moves = migrate.NewMover(a, source, target)
		return mv
	}
}

// openPages opens the store for a container's memory below its images folder.
func openPages(images string, charge func(bytes int64) error) (migrate.PageStore, error) {
	return memory.Open(images, charge)
}

// lazy looks after a copy that lacks memory, with a guard: if this agent dies first, the guard ends the copy.
func (mv *mover) lazy(container int, images string, store migrate.PageStore, ask func([]byte) error, fail func(error)) (migrate.Lacking, error) {
	s, ok := store.(*memory.Store)
	if !ok {
		return nil, errors.New("the source has sent no memory beforehand")
	}
	guard, err := memory.StartGuard("/proc/self/exe", "memory-guard", mv.a.Config().Runtime.CgroupParent, strconv.Itoa(container))
	if err != nil {
		return nil, err
	}
	l, err := memory.Begin(images, memory.LazyNeeds{Store: s, Guard: guard, Ask: ask, Fail: fail})
	if err != nil {
		return nil, errors.Join(err, guard.Release())
	}
	return l, nil
}

// keptMemory is memory.Kept with the store that migrate knows.
type keptMemory struct{ *memory.Kept }

func (k keptMemory) Resume(images string, charge func(bytes int64) error) (migrate.PageStore, error) {
	return k.Kept.Resume(images, charge)
}

// keepMemory keeps memory beside the layers that are aside; like those, it is deleted when the next agent begins.
func (mv *mover) keepMemory(container int, limit int64, round func(memory.Visit) error) (migrate.KeptMemory, error) {
	dir := filepath.Join(mv.a.Config().DataDir, "containers", fmt.Sprintf(".parked-%d.memory", container))
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("keep memory: %w", err)
	}
	k, err := memory.Keep(dir, limit, round)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return keptMemory{k}, nil
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

// Run implements Migrator.
func (mv *mover) Run(ctx context.Context) error { return mv.moves.Run(ctx) }

// Handle implements Migrator.
func (mv *mover) Handle(conn net.Conn, peer string) {
	if err := noticeSilence(conn); err != nil {
		mv.a.Log().Warn("a migration stream would notice late that its source is lost", "error", err)
	}
	mv.moves.Handle(mv.a.member.Load().ctx, conn, peer)
}

// Kept implements Migrator.
func (mv *mover) Kept() []api.KeptLayer {
	kept := []api.KeptLayer{}
	for _, k := range mv.shelf.Kept() {
		kept = append(kept, api.KeptLayer{Container: k.Container, Disk: k.Disk, Since: k.Since})
	}
	return kept
}

// Busy implements Migrator.
func (mv *mover) Busy(container int) bool { return mv.moves.Busy(container) }

// RestartDue implements migrate.Agent.
func (a *Agent) RestartDue(container int) bool { return a.member.Load().rec.restartDue(container) }

// Poke implements migrate.Agent.
func (a *Agent) Poke(container int) {
	if m := a.member.Load(); m != nil {
		m.rec.poke(container)
		m.survey.hurry(container) // after a migration that failed
	}
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
	var folders []runtime.Folder
	if m := mv.a.member.Load(); m != nil {
		if c := m.store.State().Container(id); c != nil {
			folders = foldersOf(c)
		}
	}
	v := api.Verdict{Blockers: append([]api.Blocker{}, migrate.Preflight(scan, folders...)...), Notes: migrate.Notes(scan)}
	v.OK = len(v.Blockers) == 0
	return v, nil
}
