package migrate

import (
	"context"
	"fmt"
)

// Filler brings memory into restored processes that do not run yet, so that CRIU need not, for which it takes longer;
// memory.Filler implements it.
type Filler interface {
	// Split takes out of a checkpoint's images what Fill will bring; Join puts it back. Both may be repeated.
	Split(images string) error
	Join(images string) error
	// Fill brings it into the processes of the copy.
	Fill(ctx context.Context, images string, pids []int) error
	// Whole says whether a copy that was restored from these images has all of its memory.
	Whole(images string) (bool, error)
}

// restoreOnce restores the copy, which is held then and has all of its memory. With fill, CRIU does a part of it only.
func (a *arrival) restoreOnce(ctx context.Context, fill bool) error {
	if a.later() {
		return a.restoreLazily(ctx)
	}
	if a.Fill == nil {
		return a.Host.Restore(ctx, a.spec, a.images)
	}
	divide := a.Fill.Join
	if fill {
		divide = a.Fill.Split
	}
	if err := divide(a.images); err != nil {
		return err
	}
	if err := a.Host.Restore(ctx, a.spec, a.images); err != nil || !fill {
		return err
	}
	a.clock.lap("restore")
	if err := a.Hook.at(PointTargetFill, a.op.ID); err != nil {
		return err
	}
	pids, err := a.Host.PIDs(a.spec.ID)
	if err == nil {
		err = a.Fill.Fill(ctx, a.images, pids)
	}
	if err != nil {
		return fmt.Errorf("bring the memory into the copy: %w", err)
	}
	a.clock.lap("fill")
	return nil
}

// whole says whether a held copy can go on: an agent may have died before it had all of its memory.
func (a *arrival) whole() (bool, error) {
	if a.Fill == nil {
		return true, nil
	}
	return a.Fill.Whole(a.images)
}
