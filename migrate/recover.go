package migrate

import (
	"context"
	"fmt"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// Recover takes over a migration to this host that no stream serves any more: the agent was restarted, or a step after
// the first try to commit failed. It asks for the abort, so that no commit that is still on its way can come later.
// Aborted, the copy is removed. Committed, the container runs here in the end: a held copy goes on, a checkpoint that
// has never run is restored again, and only if there is neither is it started from disk, which is reported.
func (t *Target) Recover(ctx context.Context, op *cluster.Operation, spec runtime.Spec) error {
	if err := t.Hook.at(PointTargetRecover, op.ID); err != nil {
		return err
	}
	if err := t.Host.Settle(ctx, t.imagesOf(op.ID)); err != nil {
		return err
	}
	spec.Generation = op.Generation + 1
	a := &arrival{Target: t, op: op, spec: spec, images: t.imagesOf(op.ID), clock: newStopwatch()}
	fate, err := untilKnown(ctx, func() (Fate, error) { return t.Ledger.Abort(ctx, op.ID, "the target met a fault") })
	if err != nil {
		return err
	}
	if err := t.Hook.at(PointTargetSettled, op.ID); err != nil {
		return err
	}
	if fate != Committed {
		return a.discard(ctx)
	}
	now, ct, err := t.Ledger.Read(ctx, op.ID)
	if err != nil {
		return err
	}
	a.running = ct.Desired == cluster.WantRunning
	restarted, err := a.ensureRunning(ctx)
	if err != nil {
		return err
	}
	if err := t.Hook.at(PointTargetRecovered, op.ID); err != nil {
		return err
	}
	if err := a.sync(); err != nil {
		return err
	}
	if !now.Final() {
		result := cluster.MoveResult{From: op.From, To: op.To, Mode: op.Mode, TotalMS: milliseconds(a.clock.total()), Restarted: restarted}
		if err := t.Ledger.Finish(ctx, op.ID, result); err != nil {
			return err
		}
	}
	return t.cleanUp(op.ID)
}

// ensureRunning makes the container run here after a commit, at the least cost. It says whether the memory was lost.
func (a *arrival) ensureRunning(ctx context.Context) (restarted bool, err error) {
	st, err := a.Host.Status(a.spec.ID)
	if err != nil {
		return false, err
	}
	whole, err := a.whole()
	if err != nil {
		return false, err
	}
	if st.Running && st.Frozen && whole { // held, or about to go on when the agent died: it has never been let go
		return false, a.Host.Resume(ctx, a.spec, func() {})
	}
	if st.Running && !st.Frozen && (whole || !a.later()) || !a.running {
		return false, nil
	}
	j, ok, err := loadJournal(a.Disk, a.Dir, a.op.ID)
	if err != nil {
		return false, err
	}
	if ok && j.Stage == stagePrepared && j.Boot == a.Disk.Boot() && !a.later() { // complete, and nothing of it has ever run
		if err := a.again(ctx, j); err == nil {
			return false, nil
		} else {
			a.Log.Warn("the checkpoint cannot be restored; the container is started from disk", "container", a.spec.ID, "error", err)
		}
	}
	if err := a.Host.Kill(ctx, a.spec.ID); err != nil {
		return false, err
	}
	lost := ok && cluster.Alive(a.op.Mode)
	if lost { // counted before: who comes after a death of this agent finds it running
		if err := a.Ledger.Restarted(ctx, a.op.ID, false); err != nil {
			return false, err
		}
	}
	if err := a.Host.Start(ctx, a.spec); err != nil {
		return false, fmt.Errorf("start container %d from disk: %w", a.spec.ID, err)
	}
	return lost, nil
}

// again restores a committed checkpoint a second time.
func (a *arrival) again(ctx context.Context, j journal) error {
	if err := a.Hook.at(PointTargetAgain, a.op.ID); err != nil {
		return err
	}
	if err := a.Host.Kill(ctx, a.spec.ID); err != nil {
		return err
	}
	if err := a.Host.PrepareRestore(ctx, a.spec, a.images); err != nil {
		return err
	}
	if err := a.restoreOnce(ctx, true); err != nil {
		return err
	}
	j.Stage = stageResuming
	if err := j.save(a.Disk, a.Dir); err != nil {
		return err
	}
	return a.Host.Resume(ctx, a.spec, func() {})
}

// Left says whether a former agent of this host has begun to receive an operation and not ended it.
func (t *Target) Left(operation string) bool {
	_, ok, err := loadJournal(t.Disk, t.Dir, operation)
	return ok || err != nil
}
