package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// retryEvery is the pause between questions to a ledger that does not answer.
const retryEvery = 200 * time.Millisecond

// untilKnown asks until the fate is known; only the end of ctx stops it.
func untilKnown(ctx context.Context, ask func() (Fate, error)) (Fate, error) {
	for {
		fate, err := ask()
		if err == nil {
			return fate, nil
		}
		select {
		case <-ctx.Done():
			return Undecided, fmt.Errorf("the fate of the migration is not known: %w", errors.Join(err, ctx.Err()))
		case <-time.After(retryEvery):
		}
	}
}

// fateOf reads how an operation was decided.
func fateOf(op *cluster.Operation) Fate {
	switch op.Status {
	case cluster.OpCommitted, cluster.OpDone:
		return Committed
	case cluster.OpAborted, cluster.OpFailed:
		return Aborted
	}
	return Undecided
}

// Confirm returns an operation as the ledger has it, nil when its container is gone; only the end of ctx stops it from
// asking.
func (src *Source) Confirm(ctx context.Context, op *cluster.Operation) (now *cluster.Operation, err error) {
	_, err = untilKnown(ctx, func() (Fate, error) {
		now, _, err = src.Ledger.Read(ctx, op.ID)
		if errors.Is(err, cluster.ErrNotFound) {
			now, err = nil, nil
		}
		return Undecided, err
	})
	return now, err
}

func (src *Source) fate(ctx context.Context, operation string) (Fate, error) {
	return untilKnown(ctx, func() (Fate, error) {
		op, _, err := src.Ledger.Read(ctx, operation)
		if err != nil {
			return Undecided, err
		}
		return fateOf(op), nil
	})
}

// GiveUp ends a migration that met an error: back to the source if the abort is committed, forward if the hand-over
// was. It returns the error that led here, or nil when the container runs on the target all the same.
func (src *Source) GiveUp(ctx context.Context, op *cluster.Operation, spec runtime.Spec, cause error) error {
	fate, err := untilKnown(ctx, func() (Fate, error) { return src.Ledger.Abort(ctx, op.ID, cause.Error()) })
	if err != nil {
		return errors.Join(cause, err) // the agent ends: the container stays frozen until the next one knows
	}
	if fate == Committed {
		src.Log.Info("the hand-over was committed before the fault", "container", op.Container, "fault", cause)
		if err := src.Hook.at(PointSourceForward, op.ID); err != nil {
			return fmt.Errorf("%w: %w", ErrUnsettled, err)
		}
		return src.forward(ctx, op)
	}
	if err := src.Hook.at(PointSourceBack, op.ID); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsettled, errors.Join(cause, err))
	}
	if err := src.back(ctx, op, spec, errors.Is(cause, runtime.ErrBroken)); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsettled, errors.Join(cause, err))
	}
	if err := src.Hook.at(PointSourceWent, op.ID); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsettled, errors.Join(cause, err))
	}
	return cause
}

// forward ends this host's copy after a commit whose target did not say that it goes on. The target's agent finishes
// the operation; the layer is kept until then.
func (src *Source) forward(ctx context.Context, op *cluster.Operation) error {
	if err := src.Host.Kill(ctx, op.Container); err != nil {
		return fmt.Errorf("%w: end the copy of container %d that was handed over: %w", ErrUnsettled, op.Container, err)
	}
	return nil
}

// aftermath is how long a container is watched that goes on after a fault: code that a killed CRIU has left in its
// init ends it at once.
const aftermath = 500 * time.Millisecond

// back lets the container go on here after an abort. If a fault has ended it meanwhile, or has left it broken, it is
// started from disk, and that is reported.
func (src *Source) back(ctx context.Context, op *cluster.Operation, spec runtime.Spec, broken bool) error {
	alive := false
	if !broken {
		var err error
		if alive, err = src.goOn(ctx, spec); err != nil {
			return err
		}
	}
	_, ct, err := src.Ledger.Read(ctx, op.ID)
	switch {
	case err != nil:
		return err
	case alive && ct.Lost != "": // a former agent started it and did not live to say so
		return src.Ledger.Restarted(ctx, op.ID, true)
	case alive || ct.Desired != cluster.WantRunning:
		return nil
	}
	lost := cluster.Alive(op.Mode) // else it was stopped to be moved, and nothing is lost
	if lost {
		if err := src.Ledger.Restarted(ctx, op.ID, false); err != nil {
			return err
		}
	}
	if err := src.Hook.at(PointSourceLost, op.ID); err != nil {
		return err
	}
	if err := errors.Join(src.Host.Kill(ctx, op.Container), src.Host.Start(ctx, spec)); err != nil {
		return fmt.Errorf("start container %d from disk: %w", op.Container, err)
	}
	if err := src.Hook.at(PointSourceRestarted, op.ID); err != nil {
		return err
	}
	if !lost {
		return nil
	}
	return src.Ledger.Restarted(ctx, op.ID, true)
}

// goOn thaws the container, and says whether it is alive and well.
func (src *Source) goOn(ctx context.Context, spec runtime.Spec) (bool, error) {
	st, err := src.Host.Status(spec.ID)
	if err != nil || !st.Running {
		return false, err
	}
	if broken, err := src.Host.Broken(spec.ID); err != nil || broken {
		return false, err
	}
	if err := src.Host.Thaw(ctx, spec); err != nil {
		return false, err
	}
	watch, cancel := context.WithTimeout(ctx, aftermath)
	defer cancel()
	return src.Host.Wait(watch, spec.ID) != nil, nil // it did not end
}

// Recover takes over a migration away from this host that a former agent left, whatever has become of it. It waits for
// what that agent started, asks for the abort, and goes back or forward as the ledger decides.
func (src *Source) Recover(ctx context.Context, op *cluster.Operation, spec runtime.Spec) error {
	if err := src.Hook.at(PointSourceRecover, op.ID); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsettled, err)
	}
	if err := src.Host.Settle(ctx, src.images(op.ID)); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsettled, err)
	}
	if err := src.Hook.at(PointSourceSettled, op.ID); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsettled, err)
	}
	defer src.Disk.RemoveAll(src.images(op.ID))
	_, ct, err := src.Ledger.Read(ctx, op.ID)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsettled, err)
	}
	switch {
	case ct.Operation != "" && ct.Operation != op.ID:
		return nil // a later migration has it: it moves what is here, or lets it go on
	case ct.Generation == op.Generation:
		return src.GiveUp(ctx, op, spec, errors.New("the source's agent was restarted"))
	case ct.Host != op.From:
		return src.forward(ctx, op) // by this migration or a later one
	}
	return nil // it has moved on and come back since: what runs here is not this migration's business
}
