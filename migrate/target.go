package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate/transfer"
	"github.com/vzcluster/vzcluster/runtime"
)

// Target carries out migrations to this host.
type Target struct {
	Name   string // of this host
	Host   TargetHost
	Ledger Ledger
	Copy   Copier
	// Memory opens the store for pages in an images folder. Charge is asked before room is taken; an error refuses it.
	Memory func(images string, charge func(bytes int64) error) (PageStore, error)
	Fill   Filler // nil: CRIU restores everything
	// Lazy waits in an images folder for processes that lack memory, asks for it and brings it; what has not changed is in the
	// store. Fail is called once if it cannot go on; the processes must end before anything else is done. Nil: there is no post-copy.
	Lazy  func(container int, images string, store PageStore, ask func(question []byte) error, fail func(error)) (Lacking, error)
	Disk  Disk
	Dir   string // on it, for checkpoints and journals
	Hook  Hook
	Log   *slog.Logger
	Shelf *Shelf // may be nil: then nothing is kept
	// Spec makes the specification of a container from its record and sees to it that its template is here.
	Spec func(ctx context.Context, ct *cluster.Container) (runtime.Spec, error)
	// Unfit names what is in the way of taking a container here; nil: nothing is looked at.
	Unfit func(ctx context.Context, ct *cluster.Container, o Offer) []Blocker
	// Fetching says how large the template is that Spec will have to get first, 0: none; nil: the source is not told.
	Fetching func(ct *cluster.Container) int64
}

// arrival is one migration as the target sees it.
type arrival struct {
	*Target
	peer    string
	s       *stream
	op      *cluster.Operation
	spec    runtime.Spec
	images  string
	have    *transfer.Manifest // the layer as it came
	session string             // names it
	passes  int                // of it that are complete
	pages   PageStore          // nil: none came yet
	lacking Lacking            // in a post-copy migration, from the restore on
	// What has become of that: all of the memory is there, or the copy was ended.
	complete, dead bool
	kept           KeptMemory // from when the container left this host; nil: none, or it is in pages
	journal        journal
	clock          *stopwatch
	asked          bool       // for the commit
	running        bool       // the source's copy ran when the migration began, so ours must in the end
	root           chan error // of mounting the root, which goes on while the checkpoint arrives; nil: not begun
}

// Serve answers one migration stream from peer, whose name was authenticated. It returns when the container runs here
// and the source knows, or when nothing of it is left here. Claim is called once the operation is known, with its id; the
// caller keeps others away from it until Serve returns.
func (t *Target) Serve(ctx context.Context, conn io.ReadWriteCloser, peer string, claim func(operation string) error) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	a := &arrival{Target: t, peer: peer, s: newStream(conn), clock: newStopwatch()}
	if err := a.hello(ctx, func() { conn.Close() }, claim); err != nil {
		a.explain(conn, err)
		return err
	}
	defer func() { dropKept(a.kept) }()
	defer a.closePages()
	defer a.letGo()
	if err := a.receive(ctx); err != nil {
		_ = a.mounted() // nothing is taken away while it is being made
		err = errors.Join(err, a.abandon(ctx, err))
		a.explain(conn, err)
		if a.asked { // only the ledger knows whether there is a way back
			return errors.Join(err, t.Recover(ctx, a.op, a.spec))
		}
		return errors.Join(err, a.putBack(ctx))
	}
	return nil
}

// helloTime is how long a peer that has connected may say nothing.
const helloTime = 10 * time.Second

// explainTime is how long the source has to read why the target gives up.
const explainTime = 3 * time.Second

// explain tells the source what went wrong here. What the source still sends is read and thrown away: to close with
// data unread would reset the connection, and the reason would be lost with it.
func (a *arrival) explain(conn io.ReadWriteCloser, reason error) {
	hangUp := time.AfterFunc(explainTime, func() { conn.Close() })
	defer hangUp.Stop()
	if err := a.s.send(msgError, errorMsg{reason.Error()}); err == nil {
		_, _ = io.Copy(io.Discard, conn) // ends when the source hangs up
	}
}

// hello checks that the operation is real, runs, and is from the peer to us.
func (a *arrival) hello(ctx context.Context, hangUp func(), claim func(string) error) error {
	var hello helloMsg
	late := time.AfterFunc(helloTime, hangUp)
	err := a.s.expect(msgHello, &hello, a.peer)
	if late.Stop(); err != nil {
		return err
	}
	if hello.Version != Version {
		return fmt.Errorf("host %s speaks version %d of the migration protocol, %s speaks %d; upgrade the older one", a.peer, hello.Version, a.Name, Version)
	}
	if _, _, err := a.announced(ctx, hello.Operation); err != nil {
		return err
	}
	if err := claim(hello.Operation); err != nil {
		return err
	}
	// Before the claim it may have ended, and a later migration may have brought the container here.
	op, ct, err := a.announced(ctx, hello.Operation)
	if err != nil {
		return err
	}
	if a.Unfit != nil && hello.Offer != nil {
		if found := a.Unfit(ctx, ct, *hello.Offer); len(found) > 0 {
			return fmt.Errorf("%w: %s", ErrRefused, found[0])
		}
	}
	return a.prepareHello(ctx, hello, op, ct)
}

// announced reads an operation that must be a running migration from the peer to us.
func (a *arrival) announced(ctx context.Context, id string) (*cluster.Operation, *cluster.Container, error) {
	op, ct, err := a.Ledger.Read(ctx, id)
	if err != nil {
		return nil, nil, fmt.Errorf("read the migration's record: %w", err)
	}
	if op.Kind != cluster.OpMigrate || op.Status != cluster.OpRunning || op.From != a.peer || op.To != a.Name {
		return nil, nil, fmt.Errorf("operation %s is no running migration from %s to %s", op.ID, a.peer, a.Name)
	}
	return op, ct, nil
}

func (a *arrival) prepareHello(ctx context.Context, hello helloMsg, op *cluster.Operation, ct *cluster.Container) (err error) {
	if err := a.Hook.at(PointTargetHello, op.ID); err != nil {
		return err
	}
	a.op, a.images = op, a.imagesOf(op.ID)
	a.running = ct.Desired == cluster.WantRunning
	if a.Fetching != nil {
		if size := a.Fetching(ct); size > 0 {
			if err := a.s.send(msgFetch, fetchMsg{size}); err != nil {
				return err
			}
		}
	}
	if a.spec, err = a.Spec(ctx, ct); err != nil {
		return err
	}
	a.spec.Generation = op.Generation + 1
	// Whatever an earlier try has left, and is not kept aside, would mix with what comes now.
	if err := a.Host.Destroy(ctx, a.spec.ID); err != nil {
		return err
	}
	ready, err := a.welcome(ctx, hello)
	if err != nil {
		return err
	}
	if err := a.Host.LimitDisk(a.spec); err != nil {
		return err
	}
	if err := a.Hook.at(PointTargetCleared, op.ID); err != nil {
		return err
	}
	// The folder above is closed to everybody else; CRIU reads images as the container's root, who can reach this one
	// only through CRIU's descriptor.
	if err := errors.Join(a.Disk.RemoveAll(a.images), a.Disk.MkdirAll(a.images, 0o755)); err != nil {
		return fmt.Errorf("make the folder for the checkpoint: %w", err)
	}
	a.journal = journal{Operation: op.ID, Container: op.Container, Boot: a.Disk.Boot(), Stage: stageReceiving}
	if err := a.journal.save(a.Disk, a.Dir); err != nil {
		return err
	}
	return a.s.send(msgReady, ready)
}

// receive follows the source's messages up to the restore.
func (a *arrival) receive(ctx context.Context) error {
	room := budget{files: maxImages, bytes: a.spec.Limits.RAM + a.spec.Limits.Swap + imageSlack}
	if a.spec.Limits.RAM == 0 {
		room.bytes = math.MaxInt64
	}
	for {
		k, body, err := a.s.receive()
		if err != nil {
			return err
		}
		switch k {
		case msgPass:
			err = a.pass(ctx, body)
		case msgClock:
			err = a.s.send(msgClock, clockMsg{time.Now().UnixNano()})
		case msgMemory:
			err = a.memory(body, &room)
		case msgSaved:
			err = a.saved(ctx)
		case msgPrepare:
			err = a.prepare(ctx)
		case msgImage:
			if err = a.Hook.at(PointTargetImages, a.op.ID); err == nil {
				err = receiveImage(a.s, a.Disk, a.images, body, &room)
			}
		case msgRestore:
			return a.goOn(ctx)
		default:
			err = fmt.Errorf("host %s sent message %d out of turn", a.peer, k)
		}
		if err != nil {
			return err
		}
	}
}

// prepared is true once everything for a restore from memory was made; it never is in an offline migration.
func (a *arrival) prepared() bool { return a.journal.Stage == stagePrepared }

func (a *arrival) pass(ctx context.Context, body []byte) error {
	var msg passMsg
	if err := json.Unmarshal(body, &msg); err != nil {
		return fmt.Errorf("read a message of %s: %w", a.peer, err)
	}
	point := PointTargetCopy
	if msg.Last {
		point = PointTargetDelta
		a.clock.lap("copy")
	}
	if err := a.Hook.at(point, a.op.ID); err != nil {
		return err
	}
	layer, err := a.Host.Layer(a.spec.ID)
	if err != nil {
		return err
	}
	in := &bulkReader{s: a.s}
	have, stats, err := a.Copy.Receive(ctx, in, layer, a.have)
	if err == nil {
		err = in.drain()
	}
	a.ended(have, err)
	if err != nil {
		return fmt.Errorf("receive the private layer of container %d: %w", a.spec.ID, err)
	}
	if msg.Last {
		a.mount(ctx)
		return nil
	}
	return a.s.send(msgPassDone, doneMsg{stats.Bytes})
}

// mount begins to mount the root of a copy that will be restored: its layer is complete.
func (a *arrival) mount(ctx context.Context) {
	if !a.prepared() || a.root != nil {
		return
	}
	a.root = make(chan error, 1)
	go func() {
		_, err := a.Host.Root(ctx, a.spec)
		a.root <- err
	}()
}

// mounted returns when the root is mounted, if that has begun.
func (a *arrival) mounted() error {
	if a.root == nil {
		return nil
	}
	err := <-a.root
	a.root = nil
	return err
}

func (a *arrival) prepare(ctx context.Context) error {
	if err := a.Hook.at(PointTargetPrepare, a.op.ID); err != nil {
		return err
	}
	if err := a.Host.PrepareRestore(ctx, a.spec, a.images); err != nil {
		return err
	}
	// Most of the layer goes to disk now, while the source runs: what a loss of power could still take is little.
	if err := a.sync(); err != nil {
		return err
	}
	a.journal.Stage = stagePrepared
	if err := a.journal.save(a.Disk, a.Dir); err != nil {
		return err
	}
	if err := a.Hook.at(PointTargetPrepared, a.op.ID); err != nil {
		return err
	}
	return a.offer()
}

// goOn restores the copy, which is held, commits, and lets it go; or, without a checkpoint, commits and starts it from
// disk.
func (a *arrival) goOn(ctx context.Context) error {
	a.clock.lap("images")
	if err := a.Hook.at(PointTargetRestore, a.op.ID); err != nil {
		return err
	}
	if !a.prepared() {
		if err := a.sync(); err != nil { // the source stands still until it runs here, however long that takes
			return err
		}
	} else if err := a.restore(ctx); err != nil {
		return err
	}
	a.clock.lap("restore")
	if err := a.Hook.at(PointTargetHeld, a.op.ID); err != nil {
		return err
	}
	if err := a.s.expect(msgAllow, nil, a.peer); err != nil {
		return err
	}
	a.clock.lap("held")
	if err := a.commit(ctx); err != nil {
		return err
	}
	a.clock.lap("commit")
	resumed, err := a.resume(ctx)
	if err != nil {
		return err
	}
	a.clock.lap("resume")
	if err := a.Hook.at(PointTargetResumed, a.op.ID); err != nil {
		return err
	}
	return a.tell(ctx, resumed)
}

// restore restores the copy and holds it. A restore that fails is tried once more from the same images: CRIU loses a
// rare race with systemd's inotify watches, and the source is still held.
func (a *arrival) restore(ctx context.Context) error {
	if err := a.mounted(); err != nil {
		return err
	}
	err := a.restoreOnce(ctx, true)
	if err == nil || ctx.Err() != nil || a.later() {
		return err
	}
	if kept := keepLog(a.Disk, a.Dir, a.op.ID, restoreLog); kept != nil {
		a.Log.Warn("the log of a failed restore is lost", "operation", a.op.ID, "error", kept)
	}
	a.Log.Warn("the restore failed and is tried once more", "container", a.spec.ID, "error", err)
	if again := errors.Join(a.Host.Kill(ctx, a.spec.ID), a.Host.PrepareRestore(ctx, a.spec, a.images)); again != nil {
		return errors.Join(err, again)
	}
	return a.restoreOnce(ctx, false)
}

// commit hands the container over to this host. From the first try on only the ledger knows how it ended.
func (a *arrival) commit(ctx context.Context) error {
	if err := a.Hook.at(PointTargetCommit, a.op.ID); err != nil {
		return err
	}
	if a.lacking != nil && a.lacking.Err() != nil {
		return a.lacking.Err()
	}
	a.asked = true
	fate, err := untilKnown(ctx, func() (Fate, error) { return a.Ledger.Commit(ctx, a.op.ID) })
	if err != nil {
		return err
	}
	if fate != Committed {
		return errors.New("the migration was aborted while the copy was held")
	}
	return a.Hook.at(PointTargetCommitted, a.op.ID)
}

// resume lets the committed copy go on and returns when its first instruction was next.
func (a *arrival) resume(ctx context.Context) (resumed time.Time, err error) {
	opened := func() { resumed = time.Now() }
	if a.prepared() {
		// After this the copy may have run, and must never be restored from the same images again.
		a.journal.Stage = stageResuming
		if err := a.journal.save(a.Disk, a.Dir); err != nil {
			return resumed, err
		}
		if err := a.Hook.at(PointTargetResuming, a.op.ID); err != nil {
			return resumed, err
		}
		return resumed, a.Host.Resume(ctx, a.spec, opened)
	}
	if a.running {
		err = a.Host.Start(ctx, a.spec)
	}
	opened()
	return resumed, err
}

// tell reports to the source, first that the copy goes on, then that its layer is safe on disk.
func (a *arrival) tell(ctx context.Context, resumed time.Time) error {
	msg := resumedMsg{Clock: resumed.UnixNano()}
	for _, p := range a.clock.phases() {
		msg.Phases = append(msg.Phases, phase(p))
	}
	told := a.s.send(msgResumed, msg)
	if told == nil && a.journal.Stage == stageResuming {
		a.replay()
	}
	if err := a.Hook.at(PointTargetTold, a.op.ID); err != nil {
		return err
	}
	if err := a.sync(); err != nil {
		return err
	}
	if err := a.Hook.at(PointTargetSynced, a.op.ID); err != nil {
		return err
	}
	if err := a.bringRest(ctx); err != nil {
		return err
	}
	a.keep()
	if told == nil {
		told = a.s.send(msgDone, struct{}{})
	}
	if told != nil || !a.finishedBySource(ctx) {
		result := cluster.MoveResult{From: a.op.From, To: a.op.To, Mode: a.op.Mode, TotalMS: milliseconds(a.clock.total()), Phases: a.clock.phases()}
		if err := a.Ledger.Finish(ctx, a.op.ID, result); err != nil {
			return err
		}
		if err := a.Hook.at(PointTargetFinished, a.op.ID); err != nil {
			return err
		}
	}
	return a.cleanUp(a.op.ID)
}

// finishedBySource waits for the source to hang up and asks whether it has finished the operation.
func (a *arrival) finishedBySource(ctx context.Context) bool {
	_, _, _ = a.s.receive() // returns when the connection ends
	op, _, err := a.Ledger.Read(ctx, a.op.ID)
	return err == nil && op.Final()
}

// sync puts the received layer on disk: until then the source keeps its own.
func (a *arrival) sync() error {
	layer, err := a.Host.Layer(a.spec.ID)
	if err != nil {
		return err
	}
	d, err := a.Disk.Open(layer, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("put the layer on disk: %w", err)
	}
	defer d.Close()
	if err := d.SyncAll(); err != nil {
		return fmt.Errorf("put the layer on disk: %w", err)
	}
	return nil
}

// putBack leaves nothing of a migration that failed but the layer, aside, if that may be kept.
func (a *arrival) putBack(ctx context.Context) error {
	return a.takeDown(ctx, func(ctx context.Context) error {
		kept, err := a.park(ctx)
		if kept {
			return err
		}
		return errors.Join(err, a.Host.Destroy(ctx, a.spec.ID))
	})
}

// discard removes what came of a migration that did not happen.
func (a *arrival) discard(ctx context.Context) error {
	return a.takeDown(ctx, func(ctx context.Context) error { return a.Host.Destroy(ctx, a.spec.ID) })
}

func (a *arrival) takeDown(ctx context.Context, remove func(context.Context) error) error {
	ctx = context.WithoutCancel(ctx)
	if err := a.Hook.at(PointTargetDiscard, a.op.ID); err != nil {
		return err
	}
	if err := errors.Join(a.Host.Settle(ctx, a.images), remove(ctx)); err != nil {
		return fmt.Errorf("remove the copy of an aborted migration: %w", err)
	}
	if err := a.Hook.at(PointTargetDiscarded, a.op.ID); err != nil {
		return err
	}
	return a.cleanUp(a.op.ID)
}

func (t *Target) imagesOf(operation string) string { return filepath.Join(t.Dir, operation) }
func (src *Source) images(operation string) string { return filepath.Join(src.Dir, operation) }

func (t *Target) cleanUp(operation string) error {
	if err := errors.Join(t.Disk.RemoveAll(t.imagesOf(operation)), t.Disk.RemoveAll(journalFile(t.Dir, operation))); err != nil {
		return fmt.Errorf("remove the checkpoint of a finished migration: %w", err)
	}
	return nil
}
