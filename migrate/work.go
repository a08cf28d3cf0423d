package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// workFor says what this host must do for an operation that it does not work on yet; nil: nothing. A source that has
// begun has something to do even if the operation has ended: an abort that another one asked for, or that a former
// agent did not live to act upon, leaves the container frozen here.
func (mv *Mover) workFor(op *cluster.Operation) func(context.Context, *cluster.Operation) {
	switch mv.name {
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
func (mv *Mover) sourceMark(op *cluster.Operation) string {
	return filepath.Join(mv.source.Dir, op.ID+".source")
}

func (mv *Mover) begun(op *cluster.Operation) bool {
	f, err := mv.source.Disk.Open(mv.sourceMark(op), os.O_RDONLY, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

func (mv *Mover) mark(op *cluster.Operation) error {
	f, err := mv.source.Disk.Open(mv.sourceMark(op), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("note that the migration has begun: %w", err)
	}
	return f.Close()
}

func (mv *Mover) runSource(ctx context.Context, op *cluster.Operation) {
	mv.asSource(ctx, op, func(ctx context.Context, op *cluster.Operation, spec runtime.Spec) error {
		if err := mv.mark(op); err != nil {
			return mv.source.GiveUp(ctx, op, spec, err)
		}
		if err := mv.source.Hook.at(PointSourceMarked, op.ID); err != nil {
			return mv.source.GiveUp(ctx, op, spec, err)
		}
		if mv.agent.RestartDue(op.Container) {
			return mv.source.GiveUp(ctx, op, spec, errors.New("the container is about to be restarted; migrate it after that"))
		}
		return mv.source.Run(ctx, op, spec)
	})
}

func (mv *Mover) recoverSource(ctx context.Context, op *cluster.Operation) {
	mv.log.Info("taking over a migration of a former agent", "operation", op.ID, "container", op.Container)
	mv.asSource(ctx, op, mv.source.Recover)
}

// asSource does the source's part, and repeats its end until the container runs where the ledger says.
func (mv *Mover) asSource(ctx context.Context, op *cluster.Operation, do func(context.Context, *cluster.Operation, runtime.Spec) error) {
	log := mv.log.With("operation", op.ID, "container", op.Container, "from", op.From, "to", op.To)
	for {
		spec, err := mv.sourceSpec(op)
		if err == nil {
			err = do(ctx, op, spec)
		}
		if ctx.Err() != nil {
			return // the next agent takes over
		}
		if err == nil || !errors.Is(err, ErrUnsettled) {
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

func (mv *Mover) sourceSpec(op *cluster.Operation) (runtime.Spec, error) {
	ct := mv.agent.State().Container(op.Container)
	if ct == nil {
		return runtime.Spec{}, fmt.Errorf("container %d is not known any more", op.Container)
	}
	spec, err := mv.source.Spec(ct)
	if err != nil {
		return spec, fmt.Errorf("%w: %w", ErrUnsettled, err)
	}
	return spec, nil
}

// end notes that this host has nothing more to do for an operation.
func (mv *Mover) end(op *cluster.Operation) {
	mv.done(op)
	if err := mv.source.Disk.RemoveAll(mv.sourceMark(op)); err != nil {
		mv.log.Warn("a finished migration will be looked at again", "operation", op.ID, "error", err)
	}
}

// recoverTarget repeats until it is done: after a commit nobody else can make the container run.
func (mv *Mover) recoverTarget(ctx context.Context, op *cluster.Operation) {
	log := mv.log.With("operation", op.ID, "container", op.Container, "from", op.From, "to", op.To)
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

func (mv *Mover) tryRecoverTarget(ctx context.Context, op *cluster.Operation) error {
	_, ct, err := mv.target.Ledger.Read(ctx, op.ID)
	if err != nil {
		return err
	}
	spec, err := mv.target.Spec(ctx, ct)
	if err != nil {
		return err
	}
	return mv.target.Recover(ctx, op, spec)
}
