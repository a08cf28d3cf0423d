package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vzcluster/vzcluster/runtime"
)

// A connection over a unix socket that nobody has accepted yet cannot be dumped. Busy servers have such moments all the
// time, each of them short: a container that was met in one goes on a little and is frozen again.
const (
	freezeTries = 20
	acceptTime  = 2 * time.Millisecond // after the first try; the n-th gives n times as much
)

// Freeze closes the container's port and stops its processes; nothing of it moves or gets out any more.
func (e *Engine) Freeze(ctx context.Context, id int) error {
	for try := 1; ; try++ {
		if err := e.Cgroups.Freeze(ctx, id); err != nil {
			return fmt.Errorf("freeze container %d: %w", id, err)
		}
		if try == freezeTries || !e.connecting(id) {
			break // what is still in the way then, the dump will name
		}
		if err := e.Cgroups.Thaw(ctx, id); err != nil {
			return fmt.Errorf("freeze container %d at a better moment: %w", id, err)
		}
		time.Sleep(time.Duration(try) * acceptTime)
	}
	if err := e.Network.Close(id); err != nil {
		return fmt.Errorf("close the port of container %d: %w", id, err)
	}
	return nil
}

// connecting says whether the container was met while a connection inside was being made.
func (e *Engine) connecting(id int) bool {
	pids, err := e.Cgroups.PIDs(id)
	if err != nil || len(pids) == 0 {
		return false
	}
	waits, err := e.Checkpoints.Connecting(pids[0])
	return err == nil && waits
}

// Hold keeps the frames that come for a frozen container from now on.
func (e *Engine) Hold(s runtime.Spec) (runtime.Held, error) { return e.Network.Hold(s.NICs) }

// Replay hands frames that were held elsewhere to a container that goes on here.
func (e *Engine) Replay(s runtime.Spec, frames [][]byte) error {
	return e.Network.Replay(s.ID, s.NICs, frames)
}

// AssertFrozen freezes again, which a CRIU that was killed may have undone, and reads the state back. Moved says that
// the processes had been thawed in between: what was checkpointed may then be out of date.
func (e *Engine) AssertFrozen(ctx context.Context, id int) (moved bool, err error) {
	frozen, err := e.Cgroups.Frozen(id)
	if err != nil {
		return false, err
	}
	if !frozen {
		if err := e.Cgroups.Freeze(ctx, id); err != nil {
			return true, fmt.Errorf("freeze container %d again: %w", id, err)
		}
	}
	return !frozen, nil
}

// Thaw lets a frozen container go on, with its port open again.
func (e *Engine) Thaw(ctx context.Context, s runtime.Spec) error {
	return errors.Join(e.Network.Open(s.ID, s.NICs), e.Cgroups.Thaw(ctx, s.ID))
}

// Checkpoint writes the memory and kernel state of a frozen container into the images folder; it stays frozen.
// Ready is called when the images are complete. Pages takes the memory in place of files, as runtime.Checkpoint says.
func (e *Engine) Checkpoint(s runtime.Spec, root, images string, pages *runtime.Pages, ready func()) error {
	return e.dump(s, root, images, pages, false, ready)
}

// CheckpointLazily is a Checkpoint that leaves out memory, for RestoreLazily.
func (e *Engine) CheckpointLazily(s runtime.Spec, root, images string, ready func()) error {
	return e.dump(s, root, images, nil, true, ready)
}

func (e *Engine) dump(s runtime.Spec, root, images string, pages *runtime.Pages, lazy bool, ready func()) error {
	st, err := e.OCI.Status(s.ID)
	if err != nil {
		return err
	}
	if !st.Running {
		return fmt.Errorf("container %d: %w", s.ID, runtime.ErrNotRunning)
	}
	ct := e.describe(s, root)
	ct.Pages, ct.Lazy = pages, lazy
	return e.Checkpoints.Dump(ct, st.PID, images, ready)
}

func (e *Engine) describe(s runtime.Spec, root string) runtime.Checkpoint {
	id := s.ID
	binds, masked := e.OCI.Checkpoint(s, root, e.Cgroups.Path(id))
	return runtime.Checkpoint{
		Root: root, Binds: binds, Masked: masked, Cgroup: e.Cgroups.Path(id), Freezer: e.Cgroups.Freezer(id),
		PIDs: func() ([]int, error) { return e.Cgroups.PIDs(id) },
	}
}

// PIDs lists the container's processes.
func (e *Engine) PIDs(id int) ([]int, error) { return e.Cgroups.PIDs(id) }

// Root mounts the container's root if it is not mounted, and returns its path.
func (e *Engine) Root(ctx context.Context, s runtime.Spec) (string, error) { return e.mount(ctx, s) }

// Layer is the folder of the container's private layer.
func (e *Engine) Layer(id int) (string, error) {
	if err := e.Roots.Create(id); err != nil {
		return "", err
	}
	return e.Roots.Layer(id), nil
}

// LimitDisk gives the container's private layer the limit that it is to have, and makes the layer when there is none.
func (e *Engine) LimitDisk(s runtime.Spec) error { return e.Roots.Limit(s.ID, s.Limits.Disk) }

// PrepareCheckpoint makes ready what a Checkpoint into this folder needs, while the container runs.
func (e *Engine) PrepareCheckpoint(images string) error { return e.Checkpoints.Ready(images) }

// PrepareRestore makes everything for a restore from this folder that does not need the source to stand still. The root
// is unmounted again: the layer is going to be written from outside.
func (e *Engine) PrepareRestore(ctx context.Context, s runtime.Spec, images string) error {
	root, err := e.mount(ctx, s)
	if err != nil {
		return err
	}
	if err := e.makeReady(ctx, s, root); err != nil {
		return err
	}
	if err := e.unmount(s.ID); err != nil {
		return err
	}
	return e.Checkpoints.Ready(images)
}

// makeReady makes cgroup and record for a restore.
func (e *Engine) makeReady(ctx context.Context, s runtime.Spec, root string) error {
	limits := s.Limits
	limits.MilliCPU, limits.CPUCount = 0, 0 // restoring many processes must not wait for the CPU time of their own container; Resume sets it
	if err := e.Cgroups.Create(s.ID, limits, s.UIDBase); err != nil {
		return err
	}
	return e.OCI.Prepare(ctx, s, root, e.Cgroups.Path(s.ID))
}

func (e *Engine) unmount(id int) error {
	return errors.Join(e.Roots.Unmount(id), e.Roots.Reset(id))
}

// plugging is a NIC being plugged in while CRIU makes processes and mounts.
type plugging struct{ done chan error }

func (p *plugging) begin(plug func() error) {
	p.done = make(chan error, 1)
	go func() { p.done <- plug() }()
}

// wait returns when the NIC is there, or when that has failed.
func (p *plugging) wait() error {
	if p.done == nil {
		return nil
	}
	err := <-p.done
	p.done <- err // whoever asks next learns the same
	return err
}

// Restore makes a copy of a checkpointed container here and holds it: it is frozen, its port is closed, and nothing of
// it has run when Restore returns. It stays so even if the agent dies. Resume lets it go on.
func (e *Engine) Restore(ctx context.Context, s runtime.Spec, images string) error {
	return e.restore(ctx, s, images, false)
}

// RestoreLazily is a Restore after which processes lack memory. Whoever listens in the images folder brings it.
func (e *Engine) RestoreLazily(ctx context.Context, s runtime.Spec, images string) error {
	return e.restore(ctx, s, images, true)
}

func (e *Engine) restore(ctx context.Context, s runtime.Spec, images string, lazy bool) (err error) {
	root, err := e.mount(ctx, s)
	if err != nil {
		return err
	}
	var plug plugging
	ct := e.describe(s, root)
	ct.Lazy = lazy
	pid, err := e.Checkpoints.Restore(ct, images, runtime.RestoreHooks{
		Namespaces: func(pid int) error {
			plug.begin(func() error { return e.Network.Plug(s.ID, pid, s.NICs, true) })
			return nil
		},
		Connected: plug.wait,
		Restored:  func(int) error { return e.Cgroups.Hold(s.ID) },
	})
	if err := errors.Join(err, plug.wait()); err != nil {
		return err
	}
	frozen, err := e.Cgroups.Frozen(s.ID)
	if err != nil {
		return err
	}
	if !frozen {
		return errors.Join(fmt.Errorf("the restored copy of container %d was not held", s.ID), e.Cgroups.KillAll(ctx, s.ID))
	}
	// CRIU makes the folders between the container's cgroup and those with processes as root.
	if err := e.Cgroups.Delegate(s.ID, s.UIDBase); err != nil {
		return err
	}
	return e.OCI.Adopt(s.ID, pid)
}

// Resume opens the network of a held copy and lets it go on. Opened is called when its first instruction is next.
func (e *Engine) Resume(ctx context.Context, s runtime.Spec, opened func()) error {
	if err := e.Network.Open(s.ID, s.NICs); err != nil {
		return err
	}
	opened()
	if err := e.Cgroups.Thaw(ctx, s.ID); err != nil {
		return err
	}
	return e.Cgroups.Update(s.ID, s.Limits)
}

// Scan reads what a checkpoint of a running container will meet.
func (e *Engine) Scan(id int) (runtime.Scan, error) {
	st, err := e.OCI.Status(id)
	if err != nil {
		return runtime.Scan{}, err
	}
	if !st.Running {
		return runtime.Scan{}, fmt.Errorf("container %d: %w", id, runtime.ErrNotRunning)
	}
	pids, err := e.Cgroups.PIDs(id)
	if err != nil {
		return runtime.Scan{}, err
	}
	return e.Checkpoints.Scan(st.PID, pids)
}

// Outsiders returns the processes of a container that exec has started; it may be frozen.
func (e *Engine) Outsiders(id int) ([]runtime.Process, error) {
	st, err := e.OCI.Status(id)
	if err != nil {
		return nil, err
	}
	pids, err := e.Cgroups.PIDs(id)
	if err != nil {
		return nil, err
	}
	return e.Checkpoints.Outsiders(st.PID, pids), nil
}

// Settle returns when no checkpoint or restore with these images, begun by an agent that died, is under way any more.
func (e *Engine) Settle(ctx context.Context, images string) error {
	return e.Checkpoints.Settle(ctx, images)
}

// Broken says whether a checkpoint that did not come to its end has left code of its own inside a process of the
// container: such a process cannot go on.
func (e *Engine) Broken(id int) (bool, error) {
	pids, err := e.Cgroups.PIDs(id)
	if err != nil {
		return false, err
	}
	return e.Checkpoints.Infected(pids), nil
}
