package agent

import (
	"context"
	"errors"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// notSuspended begins the detail of a container that goes on because it could not be suspended.
const notSuspended = "not suspended: "

// suspend writes a container's memory to disk. If that cannot be done it goes on running, and that is what is wanted of
// it from then on: the user learns why.
func (r *reconciler) suspend(ctx context.Context, c *cluster.Container) error {
	spec, err := r.m.spec(c)
	if err != nil {
		return err
	}
	if r.takeKill(c.ID) {
		err = r.m.deps.Engine.EndSessions(ctx, c.ID)
	}
	if err == nil {
		err = r.m.deps.Engine.Suspend(ctx, spec)
	}
	if err == nil {
		r.m.log.Info("suspended a container", "container", c.ID)
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	r.m.log.Error("a container could not be suspended", "container", c.ID, "error", err)
	a := acted{Generation: c.Generation, Epoch: c.Epoch, Limits: c.Limits}
	if errors.Is(err, runtime.ErrBroken) {
		if err := r.m.deps.Engine.Kill(ctx, c.ID); err != nil {
			return err
		}
		a.Epoch-- // it is to be started, as after any fault
	}
	if err := r.note(c.ID, a); err != nil {
		return err
	}
	_, err = r.send(ctx, cluster.ReportContainer{
		ID: c.ID, Host: r.m.name, Generation: c.Generation, State: cluster.Running, Detail: notSuspended + err.Error(), Resumed: true,
	})
	return err
}
