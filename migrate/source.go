package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate/memory"
	"github.com/vzcluster/vzcluster/runtime"
)

// Source carries out migrations away from this host.
type Source struct {
	Host   SourceHost
	Ledger Ledger
	Copy   Copier
	Disk   Disk
	Dir    string // on it, for checkpoints: Dir/<operation>
	Hook   Hook
	Log    *slog.Logger
	Memory func() Memory // for one migration; nil: it crosses the wire only when the container stands still
	// KeepMemory keeps the memory that a round reads, if it takes no more than limit bytes; nil: none is kept.
	KeepMemory func(container int, limit int64, round func(memory.Visit) error) (KeptMemory, error)
	// Answers answers from the processes of a copy that stands still, for a post-copy migration; nil: there is none.
	Answers func(send *memory.Sender, pids []int) (Answerer, error)
	Dial    func(ctx context.Context, host string) (io.ReadWriteCloser, error)
	Shelf   *Shelf // may be nil: then nothing is kept
	// Spec makes the specification of a container from its record.
	Spec func(ct *cluster.Container) (runtime.Spec, error)
	// Offer says what this host is like and what the container needs; nil: the target is not told.
	Offer func(id int, live bool) (Offer, error)
	// EndSessions ends what exec has started in a container, for a migration that was forced; nil: it is in the way.
	EndSessions func(ctx context.Context, id int) error
	// LastMove returns what a container's last move measured, nil if it never moved.
	LastMove func(container int) *cluster.MoveResult
	Board    *Board // shows people how far migrations are; may be nil
}

// Passes over the layer are made while the container runs, until one moves so little that the pause is short.
const (
	maxPasses      = 4
	smallDelta     = 8 << 20 // bytes
	clockQuestions = 5
)

// move is one migration as the source sees it.
type move struct {
	*Source
	op      *cluster.Operation
	spec    runtime.Spec
	running bool // when the migration began
	live    bool
	later   bool       // most of the memory follows when the copy runs
	mu      sync.Mutex // of conn
	conn    io.Closer
	s       *stream
	common  *shared // with the target
	dialled int
	sent    int64 // over connections that broke
	images  string
	clock   *stopwatch
	frozen  time.Time     // when the freeze began; zero: not yet
	offset  time.Duration // the target's clock minus ours
	held    runtime.Held  // what comes for the container while it is nowhere; nil: nothing is kept
	rounds  *rounds       // over the memory; nil: none
	kept    KeptMemory    // for a return; nil: none

	shown     *track
	need      runtime.Need // of the container, as the target was told
	predicted prediction
	deadline  deadline
}

// Run carries a migration out, from the first message to the released lock. It returns nil when the container runs on
// the target, and an error when it stayed here; it does not return before one of the two is decided and done.
// Ctx ends only with the agent: then Recover of the next one takes over.
func (src *Source) Run(ctx context.Context, op *cluster.Operation, spec runtime.Spec) error {
	st, err := src.Host.Status(spec.ID)
	if err != nil {
		return src.GiveUp(ctx, op, spec, err)
	}
	if cluster.Alive(op.Mode) && !st.Running {
		return src.GiveUp(ctx, op, spec, fmt.Errorf("container %d does not run: there is nothing to move live", op.Container))
	}
	broken, err := src.Host.Broken(spec.ID)
	if err == nil && broken { // by a migration before this one, which left the restart to us
		err = runtime.ErrBroken
	}
	if err != nil {
		return src.GiveUp(ctx, op, spec, err)
	}
	m := &move{
		Source: src, op: op, spec: spec, clock: newStopwatch(), images: filepath.Join(src.Dir, op.ID),
		running: st.Running, live: st.Running && cluster.Alive(op.Mode), later: st.Running && op.Mode == cluster.ModePostCopy,
		shown: src.Board.begin(op.ID),
	}
	defer m.cleanUp(ctx)
	stop := context.AfterFunc(ctx, m.hangUp)
	defer stop()
	defer m.hangUp()
	if err := m.dial(ctx); err != nil {
		return src.GiveUp(ctx, op, spec, err)
	}
	m.common = src.Shelf.take(op.Container)
	if err := m.untilAllowed(ctx); err != nil {
		m.hangUp()
		src.Shelf.put(op.Container, m.common)
		err = src.GiveUp(ctx, op, spec, m.inTime(err))
		if kept := keepLog(src.Disk, src.Dir, op.ID, dumpLog); kept != nil { // only now: nothing slow may stand before the thaw
			src.Log.Warn("the log of a failed checkpoint is lost", "operation", op.ID, "error", kept)
		}
		return err
	}
	// The target may commit now: whatever happens, only the ledger knows how it ended.
	var resumed resumedMsg
	if err := m.inTime(m.s.expect(msgResumed, &resumed, op.To)); err != nil {
		return src.GiveUp(ctx, op, spec, err)
	}
	if err := m.handHeld(); err != nil {
		src.Log.Warn("what was sent to the container while it moved will have to be sent again", "container", spec.ID, "error", err)
	}
	if fate, err := src.fate(ctx, op.ID); err != nil || fate != Committed {
		return src.GiveUp(ctx, op, spec, errors.Join(err, fmt.Errorf("host %s says it goes on, but the hand-over is not committed", op.To)))
	}
	return m.finish(ctx, resumed)
}

// cleanUp removes the checkpoint, and what was made ready for one that did not come about.
func (m *move) cleanUp(ctx context.Context) {
	if m.held != nil {
		m.held.Close()
	}
	dropKept(m.kept)
	err := m.Host.Settle(ctx, m.images)
	if err == nil {
		err = m.Disk.RemoveAll(m.images)
	}
	if err != nil {
		m.Log.Warn("what a migration has left cannot be removed", "operation", m.op.ID, "error", err)
	}
}

// untilAllowed does everything up to the permission to commit; until then every failure leads back.
func (m *move) untilAllowed(ctx context.Context) error {
	steps := []struct {
		point Point
		name  string
		do    func(context.Context) error
	}{
		{PointSourcePreflight, "preflight", m.preflight},
		{"", "", m.copyOver},
		{PointSourcePrepare, "prepare", m.prepare},
		{PointSourceMemory, "memory", m.copyMemory},
		{PointSourcePredict, "", m.predict},
		{PointSourceFreeze, "freeze", m.freeze},
		{PointSourceFrozen, "dump", m.checkpoint},
		{PointSourceAssert, "assert", m.assert},
		{PointSourceAllow, "", m.allow},
	}
	for _, step := range steps {
		if step.point != "" {
			if err := m.Hook.at(step.point, m.op.ID); err != nil {
				return err
			}
		}
		if err := step.do(ctx); err != nil {
			return err
		}
		m.clock.lap(step.name)
	}
	return nil
}

// preflight refuses a live migration that cannot succeed, before anything is frozen.
func (m *move) preflight(ctx context.Context) error {
	if !m.live {
		return nil
	}
	m.shown.stage(0, "looking for what is in the way")
	if m.op.Force && m.EndSessions != nil {
		if err := m.EndSessions(ctx, m.spec.ID); err != nil {
			return err
		}
	}
	scan, err := m.Host.Scan(m.spec.ID)
	if err != nil {
		return err
	}
	if blockers := Preflight(scan, m.spec.Folders...); len(blockers) > 0 {
		return fmt.Errorf("%w: %s", ErrRefused, blockers[0])
	}
	return nil
}

// outsiders refuses, when the container stands still, to lose without a word what exec has started meanwhile.
func (m *move) outsiders() error {
	if !m.live {
		return nil
	}
	found, err := m.Host.Outsiders(m.spec.ID)
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("%w: %s", ErrRefused, outsider(found[0]))
	}
	return err
}

// compareClocks learns how far the target's clock is ahead of ours, from the quickest of a few questions: half of the
// time that it took is what the estimate may be off (the idea of NTP).
func (m *move) compareClocks() error {
	best := time.Hour
	for range clockQuestions {
		asked := time.Now()
		if err := m.s.send(msgClock, struct{}{}); err != nil {
			return err
		}
		var answer clockMsg
		if err := m.s.expect(msgClock, &answer, m.op.To); err != nil {
			return err
		}
		if took := time.Since(asked); took < best {
			best, m.offset = took, time.Unix(0, answer.Clock).Sub(asked.Add(took/2))
		}
	}
	return nil
}

func (m *move) prepare(context.Context) error {
	if !m.live {
		return nil
	}
	m.shown.stage(0, "making %s ready", m.op.To)
	if err := m.Disk.MkdirAll(m.images, 0o700); err != nil {
		return fmt.Errorf("make the folder for the checkpoint: %w", err)
	}
	if err := m.s.send(msgPrepare, struct{}{}); err != nil {
		return err
	}
	if err := m.Host.PrepareCheckpoint(m.images); err != nil {
		return err
	}
	var prepared preparedMsg
	if err := m.s.expect(msgPrepared, &prepared, m.op.To); err != nil {
		return err
	}
	if m.Memory != nil {
		m.rounds = &rounds{Memory: m.Memory(), send: memory.NewSender(), taken: make(chan error, 1)}
	}
	if prepared.Kept {
		if m.rounds == nil {
			return fmt.Errorf("host %s has kept memory, of which %s sends none", m.op.To, m.op.From)
		}
		if err := m.learn(); err != nil {
			return err
		}
	}
	return m.compareClocks()
}

// freeze stops the container's processes; in an offline or near-live migration they are ended.
func (m *move) freeze(ctx context.Context) error {
	if !m.frozen.IsZero() {
		return nil // it was stopped before the copy
	}
	m.frozen = time.Now()
	m.watch(ctx)
	if m.live {
		m.shown.stage(0, "frozen, the rest is sent")
		err := m.Host.Freeze(ctx, m.spec.ID)
		if err == nil {
			m.hold()
		}
		return err
	}
	if m.running {
		m.shown.stage(0, "stopping the container")
		return m.Host.Stop(ctx, m.spec.ID, m.spec.Systemd, stopTimeout)
	}
	return nil
}

// checkpoint writes the memory to this host's disk while the last changes of the layer cross the wire, then sends it.
func (m *move) checkpoint(ctx context.Context) error {
	dump := make(chan error, 1)
	complete := make(chan struct{})
	passing, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		err := m.dump(ctx, complete)
		if err != nil {
			stop() // the container stays here and must not wait for the rest of its layer
		}
		dump <- err
	}()
	err := errors.Join(m.outsiders(), m.Hook.at(PointSourceDelta, m.op.ID))
	if err == nil {
		err = m.lastPass(passing)
	}
	if err != nil {
		dumped := <-dump // CRIU is never interrupted
		if dumped != nil && passing.Err() != nil && ctx.Err() == nil {
			return dumped // that is why the pass was cut off
		}
		return errors.Join(err, dumped)
	}
	m.clock.lap("delta")
	var dumped error
	select {
	case <-complete:
	case dumped = <-dump:
		if dumped != nil {
			return dumped
		}
		dump <- nil
	}
	if m.rounds != nil && !m.later {
		if err := <-m.rounds.taken; err != nil {
			return errors.Join(err, <-dump)
		}
	}
	err = m.Hook.at(PointSourceImages, m.op.ID)
	if err == nil && m.live {
		err = sendImages(m.s, m.Disk, m.images)
	}
	if err == nil {
		err = m.answerLater()
	}
	if err == nil {
		m.shown.stage(0, "%s", m.lastStage())
		err = m.s.send(msgRestore, struct{}{})
	}
	return errors.Join(err, <-dump)
}

// lastStage is what the target does when everything was sent.
func (m *move) lastStage() string {
	switch {
	case m.live:
		return "frozen, restored on " + m.op.To
	case m.running:
		return "starting on " + m.op.To
	}
	return "handed over to " + m.op.To
}

// dump writes the checkpoint of a live container; complete is closed when its images are.
func (m *move) dump(ctx context.Context, complete chan struct{}) error {
	if err := m.Hook.at(PointSourceDump, m.op.ID); err != nil {
		return err
	}
	if !m.live {
		close(complete)
		return nil
	}
	root, err := m.Host.Root(ctx, m.spec)
	if err != nil {
		return err
	}
	if m.later {
		return m.Host.CheckpointLazily(m.spec, root, m.images, func() { close(complete) })
	}
	return m.Host.Checkpoint(m.spec, root, m.images, m.pages(), func() { close(complete) })
}

// assert reads the frozen state back: a CRIU that was killed may have thawed the container, and what it did since
// then is not in the checkpoint.
func (m *move) assert(ctx context.Context) error {
	if !m.live {
		return nil
	}
	thawed, err := m.Host.AssertFrozen(ctx, m.spec.ID)
	if err != nil {
		return err
	}
	if thawed {
		return fmt.Errorf("container %d was thawed during its checkpoint; it stays here", m.spec.ID)
	}
	return nil
}

func (m *move) allow(context.Context) error {
	m.deadline.mu.Lock()
	m.deadline.allowed = true
	m.deadline.mu.Unlock()
	return m.s.send(msgAllow, struct{}{})
}

// finish ends the source after the commit was read back, waits until the target has the layer on disk, and releases
// the lock. Nothing in here can lead back.
func (m *move) finish(ctx context.Context, resumed resumedMsg) error {
	m.clock.lap("restore")
	m.shown.stage(0, "on %s, clearing up", m.op.To)
	if err := m.Hook.at(PointSourceResumed, m.op.ID); err != nil {
		return err
	}
	incomplete := m.untilComplete()
	m.keepMemory(ctx)
	id := m.spec.ID
	if err := m.Host.Kill(ctx, id); err != nil {
		m.Log.Error("end the source's copy", "container", id, "error", err)
	}
	if err := m.Hook.at(PointSourceEnd, m.op.ID); err != nil {
		return err
	}
	if incomplete != nil || m.s.expect(msgDone, nil, m.op.To) != nil {
		return nil // the target's agent finishes when the layer is safe there; ours is kept until then
	}
	m.leave(ctx)
	m.clock.lap("clean-up")
	if err := m.Hook.at(PointSourceFinish, m.op.ID); err != nil {
		return err
	}
	if err := m.Ledger.Finish(ctx, m.op.ID, m.result(resumed)); err != nil {
		return err
	}
	return m.Hook.at(PointSourceFinished, m.op.ID)
}

func (m *move) result(resumed resumedMsg) cluster.MoveResult {
	r := cluster.MoveResult{
		From: m.op.From, To: m.op.To, Mode: m.op.Mode, Bytes: m.s.n,
		TotalMS: milliseconds(m.clock.total()), Phases: m.clock.phases(),
	}
	if !m.running {
		r.Mode = cluster.ModeOffline // there was nothing to keep alive
	} else {
		r.BlackoutMS = milliseconds(time.Unix(0, resumed.Clock).Add(-m.offset).Sub(m.frozen))
	}
	m.budgeted(&r)
	for _, p := range resumed.Phases {
		r.Phases = append(r.Phases, cluster.Phase{Name: "target " + p.Name, MS: p.MS})
	}
	return r
}
