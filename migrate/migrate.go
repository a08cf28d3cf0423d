// Package migrate moves a container from one host to another: the stages on both sides, the stream between them, the
// journal that a restarted agent reads, and the preflight that says beforehand what would be in the way.
//
// It owns the order of things and what happens when one of them fails. It does not own a kernel, a cluster or a clock:
// those are behind the contracts below. The rules it keeps are written in docs/migration.md; the first of them: the
// source goes on only after an abort that is committed, and ends only after a commit that was read back.
package migrate

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate/transfer"
	"github.com/vzcluster/vzcluster/runtime"
)

// Protocol is the ALPN name of the migration stream.
const Protocol = "vz-migrate"

// Fate is how a migration's hand-over was decided.
type Fate int

// The fates.
const (
	Undecided Fate = iota
	Committed
	Aborted
)

// Ledger is what a migration needs of the replicated state. Its answers come from the leader after a barrier; an error
// means that nothing is known, never that something failed.
type Ledger interface {
	// Commit hands the container over. It returns the fate that was decided, now or before.
	Commit(ctx context.Context, operation string) (Fate, error)
	// Abort gives the migration up. It returns the fate that was decided, now or before.
	Abort(ctx context.Context, operation, reason string) (Fate, error)
	// Read returns the operation's record and its container.
	Read(ctx context.Context, operation string) (*cluster.Operation, *cluster.Container, error)
	// Restarted reports that a container's memory was lost in a fault: that it is going to be started from disk here,
	// which is counted once for an operation, or, with running, that it runs again.
	Restarted(ctx context.Context, operation string, running bool) error
	// Finish releases a committed migration's lock and keeps what was measured.
	Finish(ctx context.Context, operation string, result cluster.MoveResult) error
}

// SourceHost is what the source needs of its kernel; runtime/engine implements it.
type SourceHost interface {
	Status(id int) (runtime.Status, error)
	Scan(id int) (runtime.Scan, error)
	Outsiders(id int) ([]runtime.Process, error)
	Broken(id int) (bool, error)
	Wait(ctx context.Context, id int) error
	Freeze(ctx context.Context, id int) error
	AssertFrozen(ctx context.Context, id int) (thawed bool, err error)
	Thaw(ctx context.Context, s runtime.Spec) error
	PIDs(id int) ([]int, error)
	PrepareCheckpoint(images string) error
	Checkpoint(s runtime.Spec, root, images string, pages *runtime.Pages, ready func()) error
	// CheckpointLazily leaves most of the memory out, which stays readable in the processes.
	CheckpointLazily(s runtime.Spec, root, images string, ready func()) error
	Settle(ctx context.Context, images string) error
	Root(ctx context.Context, s runtime.Spec) (string, error)
	Layer(id int) (string, error)
	Start(ctx context.Context, s runtime.Spec) error
	Stop(ctx context.Context, id int, systemd bool, timeout time.Duration) error
	Kill(ctx context.Context, id int) error
	Destroy(ctx context.Context, id int) error
}

// TargetHost is what the target needs of its kernel; runtime/engine implements it.
type TargetHost interface {
	Status(id int) (runtime.Status, error)
	Layer(id int) (string, error)
	// LimitDisk makes the private layer with its limit, if there is none: what comes must fit into it.
	LimitDisk(s runtime.Spec) error
	PrepareRestore(ctx context.Context, s runtime.Spec, images string) error
	Root(ctx context.Context, s runtime.Spec) (string, error)
	Restore(ctx context.Context, s runtime.Spec, images string) error
	// RestoreLazily restores what CheckpointLazily has left; who listens in the images folder brings the rest.
	RestoreLazily(ctx context.Context, s runtime.Spec, images string) error
	PIDs(id int) ([]int, error)
	Resume(ctx context.Context, s runtime.Spec, opened func()) error
	Settle(ctx context.Context, images string) error
	Start(ctx context.Context, s runtime.Spec) error
	Kill(ctx context.Context, id int) error
	Destroy(ctx context.Context, id int) error
}

// Copier copies a container's private layer in passes; package transfer implements it.
type Copier interface {
	// Send sends what changed since prev (nil: all). Last says that the container stands still and no pass follows. What
	// it returns with an error is for Cut.
	Send(ctx context.Context, w io.Writer, root string, prev *transfer.Manifest, last bool) (*transfer.Manifest, transfer.Stats, error)
	// Receive writes a pass; have is what the pass before returned.
	Receive(ctx context.Context, r io.Reader, root string, have *transfer.Manifest) (*transfer.Manifest, transfer.Stats, error)
}

// Point is the name of a step at which state can differ between the hosts; tests fail or kill at each of them.
type Point string

// The points of the source and of the target, in the order in which they are passed.
const (
	PointSourcePreflight Point = "source.preflight"
	PointSourceHello     Point = "source.hello"
	PointSourceCopy      Point = "source.copy"
	PointSourcePrepare   Point = "source.prepare"
	PointSourceMemory    Point = "source.memory"
	PointSourcePredict   Point = "source.predict"
	PointSourceFreeze    Point = "source.freeze"
	PointSourceFrozen    Point = "source.frozen"
	PointSourceDump      Point = "source.dump"
	PointSourceDelta     Point = "source.delta"
	PointSourceImages    Point = "source.images"
	PointSourceAssert    Point = "source.assert"
	PointSourceAllow     Point = "source.allow"
	PointSourceResumed   Point = "source.resumed"
	PointSourceEnd       Point = "source.end"
	PointSourceFinish    Point = "source.finish"
	PointSourceFinished  Point = "source.finished"
	PointSourceBack      Point = "source.back"    // only after a failure: the abort is committed
	PointSourceForward   Point = "source.forward" // only after a failure: the commit came first
	PointSourceWent      Point = "source.went"    // only after a failure: the container goes on here
	PointSourceLost      Point = "source.lost"    // only after a failure: it is about to be started from disk
	PointSourceRestarted Point = "source.restarted"
	PointSourceMarked    Point = "source.marked"  // on disk: this host has begun
	PointSourceRecover   Point = "source.recover" // only in an agent that takes over
	PointSourceSettled   Point = "source.settled" // and what the former one had started has ended
	PointTargetHello     Point = "target.hello"
	PointTargetCopy      Point = "target.copy"
	PointTargetPrepare   Point = "target.prepare"
	PointTargetMemory    Point = "target.memory"
	PointTargetDelta     Point = "target.delta"
	PointTargetImages    Point = "target.images"
	PointTargetRestore   Point = "target.restore"
	PointTargetFill      Point = "target.fill" // restored, but for a part of its memory
	PointTargetHeld      Point = "target.held"
	PointTargetLacking   Point = "target.lacking" // post-copy: the copy runs, and most of its memory is not here
	PointTargetWhole     Point = "target.whole"   // post-copy: all of it is, and the source does not know yet
	PointTargetCommit    Point = "target.commit"
	PointTargetCommitted Point = "target.committed"
	PointTargetResuming  Point = "target.resuming" // the journal says so
	PointTargetResumed   Point = "target.resumed"
	PointTargetCleared   Point = "target.cleared"  // what an earlier try left is gone
	PointTargetPrepared  Point = "target.prepared" // the journal says so
	PointTargetTold      Point = "target.told"     // the source knows that the copy goes on
	PointTargetSynced    Point = "target.synced"   // its layer is on disk
	PointTargetFinished  Point = "target.finished"
	PointTargetDiscard   Point = "target.discard" // only after a failure: nothing of the copy may stay
	PointTargetDiscarded Point = "target.discarded"
	PointTargetRecover   Point = "target.recover" // only in an agent that takes over, or after a failure behind the first commit
	PointTargetSettled   Point = "target.settled" // and its fate is known
	PointTargetRecovered Point = "target.recovered"
	PointTargetAgain     Point = "target.again" // the checkpoint is restored a second time
	PointDiskWritten     Point = "disk.written" // a file's content is on disk, its name may not be
	PointDiskRenamed     Point = "disk.renamed"
	PointDiskNamed       Point = "disk.named" // the names in a folder are on disk
	PointDiskSynced      Point = "disk.synced"
	PointDiskRemoved     Point = "disk.removed"
)

// Points lists the points that every live migration without a fault passes.
func Points() []Point {
	return []Point{
		PointSourcePreflight, PointSourceHello, PointSourceCopy, PointSourcePrepare, PointSourceMemory, PointSourcePredict, PointSourceFreeze, PointSourceFrozen, PointSourceDump,
		PointSourceDelta, PointSourceImages, PointSourceAssert, PointSourceAllow, PointSourceResumed, PointSourceEnd,
		PointSourceFinish, PointSourceFinished, PointTargetHello, PointTargetCleared, PointTargetCopy, PointTargetPrepare,
		PointTargetPrepared, PointTargetMemory, PointTargetDelta, PointTargetImages, PointTargetRestore, PointTargetFill, PointTargetHeld, PointTargetCommit,
		PointTargetCommitted, PointTargetResuming, PointTargetResumed, PointTargetTold, PointTargetSynced,
	}
}

// Hook is called at each point of an operation; an error fails the step. Nil means none.
type Hook func(p Point, operation string) error

func (h Hook) at(p Point, operation string) error {
	if h == nil {
		return nil
	}
	return h(p, operation)
}

// ErrRefused marks a migration that was refused before anything was frozen.
var ErrRefused = errors.New("the migration was refused")

// ErrUnsettled marks a migration whose fate is known and not yet made true on this host: Recover must be called until
// it is.
var ErrUnsettled = errors.New("the container is not yet where it must be")

// stopTimeout is how long a container may take to shut down in an offline migration.
const stopTimeout = 60 * time.Second
