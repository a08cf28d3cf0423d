// Package engine puts one host's adapters together: it makes a container run out of its template, private layer,
// cgroup, network card and OCI runtime, ends it, and checkpoints and restores it. It knows the adapters only by the
// contracts of package runtime, and nothing of the cluster.
//
// The one rule for callers: calls for the same container do not overlap.
package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// Engine runs the containers of one host.
type Engine struct {
	Images      runtime.Images
	Roots       runtime.Roots
	Network     runtime.Network
	Cgroups     runtime.Cgroups
	OCI         runtime.OCI
	Checkpoints runtime.Checkpointer
	Inside      func(root string, uidBase uint32) (runtime.Inside, error)
	Dir         string // one folder per container: Dir/<id>
}

// bootLog is where PID 1 of a container leaves its log, below the private layer.
const bootLog = "dev/kmsg"

// Setup makes what all containers share (idempotent).
func (e *Engine) Setup(ctx context.Context) error {
	if err := os.MkdirAll(e.Dir, 0o711); err != nil {
		return fmt.Errorf("make the containers' folder: %w", err)
	}
	if err := e.Network.Setup(ctx); err != nil {
		return err
	}
	return e.Checkpoints.Warm(ctx)
}

// Start makes a container run: a suspended one goes on, any other boots. A running one is left alone; what a failed start
// has built is taken down again.
func (e *Engine) Start(ctx context.Context, s runtime.Spec) (err error) {
	st, err := e.OCI.Status(s.ID)
	if err != nil {
		return err
	}
	kept, err := e.Suspension(s.ID)
	switch {
	case err != nil:
		return err
	case st.Running && kept == "":
		return nil
	case st.Running && kept == runtime.Resuming: // a caller died before it let it go on
		return e.goOn(ctx, s)
	}
	if err := e.release(ctx, s.ID); err != nil { // what a crash has left
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start container %d: %w", s.ID, err), e.release(context.WithoutCancel(ctx), s.ID))
		}
	}()
	if kept == runtime.Suspended {
		return e.resume(ctx, s)
	}
	if err := e.DropMemory(ctx, s.ID); err != nil {
		return err
	}
	return e.boot(ctx, s)
}

// boot starts a container from its disk.
func (e *Engine) boot(ctx context.Context, s runtime.Spec) error {
	root, err := e.mount(ctx, s)
	if err != nil {
		return err
	}
	if err := e.Roots.Personalize(s, root); err != nil {
		return err
	}
	if err := e.clean(s, root); err != nil {
		return err
	}
	if err := e.Cgroups.Create(s.ID, s.Limits, s.UIDBase); err != nil {
		return err
	}
	pid, err := e.OCI.Create(ctx, s, root, e.Cgroups.Path(s.ID))
	if err != nil {
		return err
	}
	if err := e.Cgroups.Delegate(s.ID, s.UIDBase); err != nil {
		return err
	}
	if err := e.Network.Plug(s.ID, pid, s.NICs, false); err != nil {
		return err
	}
	return e.OCI.Start(ctx, s.ID)
}

// mount makes the container's root and returns its path.
func (e *Engine) mount(ctx context.Context, s runtime.Spec) (string, error) {
	template, err := e.Images.Path(s.Template)
	if err != nil {
		return "", err
	}
	if err := e.LimitDisk(s); err != nil {
		return "", err
	}
	return e.Roots.Mount(ctx, s, template)
}

// clean empties what a reboot empties and begins a new boot log. Nothing of the container runs yet, and no link in its
// root is followed out of it.
func (e *Engine) clean(s runtime.Spec, path string) error {
	root, err := os.OpenRoot(path)
	if err != nil {
		return fmt.Errorf("clean the root: %w", err)
	}
	defer root.Close()
	owner := int(s.UIDBase)
	for _, d := range e.OCI.Volatile() {
		err := errors.Join(root.RemoveAll(d.Path), root.Mkdir(d.Path, 0o700), root.Chmod(d.Path, d.Mode), root.Lchown(d.Path, owner, owner))
		if err != nil {
			return fmt.Errorf("empty /%s: %w", d.Path, err)
		}
	}
	if err := root.RemoveAll(bootLog); err != nil {
		return fmt.Errorf("begin the boot log: %w", err)
	}
	f, err := root.OpenFile(bootLog, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("begin the boot log: %w", err)
	}
	defer f.Close()
	return f.Chown(owner, owner)
}

// Log opens a container's boot log; fs.ErrNotExist when there is none. The container may have put anything in its
// place: no link is followed, and what is no plain file is refused.
func (e *Engine) Log(id int) (*os.File, error) {
	dir, err := e.existingLayer(id)
	if err != nil {
		return nil, fmt.Errorf("open the boot log of container %d: %w", id, err)
	}
	layer, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the boot log of container %d: %w", id, err)
	}
	defer unix.Close(layer)
	fd, err := unix.Openat2(layer, bootLog, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open the boot log of container %d: %w", id, err)
	}
	f := os.NewFile(uintptr(fd), bootLog)
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("the boot log of container %d is no plain file any more", id)
	}
	return f, nil
}

// Stop asks init to shut down, kills what is left after the time-out, and takes everything down but the layer.
func (e *Engine) Stop(ctx context.Context, id int, systemd bool, timeout time.Duration) error {
	st, err := e.OCI.Status(id)
	if err != nil {
		return err
	}
	if st.Running {
		// systemd halts at SIGRTMIN+3, and so does what follows its convention; busybox init powers off at SIGUSR2.
		sig := unix.SIGUSR2
		if systemd {
			sig = unix.Signal(34 + 3)
		}
		askCtx, cancel := context.WithTimeout(ctx, timeout)
		err := signalAndWait(askCtx, st.PID, sig)
		cancel()
		if err != nil && ctx.Err() != nil {
			return fmt.Errorf("stop container %d: %w", id, err)
		}
	}
	return e.release(ctx, id)
}

// Kill ends a container at once and takes everything down but the layer.
func (e *Engine) Kill(ctx context.Context, id int) error { return e.release(ctx, id) }

// Destroy removes everything of a container from this host (idempotent).
func (e *Engine) Destroy(ctx context.Context, id int) error {
	if err := errors.Join(e.release(ctx, id), e.settleSaved(ctx, id)); err != nil {
		return err
	}
	if err := e.Roots.Remove(id); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(e.Dir, strconv.Itoa(id))); err != nil {
		return fmt.Errorf("remove container %d: %w", id, err)
	}
	return nil
}

// Park ends a container, removes it from this host, and puts its layer aside.
func (e *Engine) Park(ctx context.Context, id int) error {
	if err := errors.Join(e.release(ctx, id), e.settleSaved(ctx, id)); err != nil {
		return err
	}
	if err := e.Roots.Park(id); err != nil {
		return err
	}
	return e.Destroy(ctx, id)
}

// Unpark makes the layer that is aside that of a container that is not here, and returns its folder.
func (e *Engine) Unpark(id int) (string, error) {
	if err := e.Roots.Unpark(id); err != nil {
		return "", err
	}
	return e.Layer(id)
}

// DropParked deletes the layer that is aside (idempotent).
func (e *Engine) DropParked(id int) error { return e.Roots.DropParked(id) }

// release takes down what a running container consists of: its port first, so that nothing of a dying copy gets out,
// then processes, records, cgroup and mounts. All of it is idempotent; every step is tried.
func (e *Engine) release(ctx context.Context, id int) error {
	if err := errors.Join(e.Network.Close(id), e.Cgroups.KillAll(ctx, id)); err != nil {
		return fmt.Errorf("end container %d: %w", id, err)
	}
	err := errors.Join(e.Network.Unplug(id), e.OCI.Forget(id), e.Cgroups.Remove(id), e.Roots.Unmount(id))
	if err != nil {
		return fmt.Errorf("take down container %d: %w", id, err)
	}
	return nil
}

// Status says what the kernel knows of a container.
func (e *Engine) Status(id int) (runtime.Status, error) {
	st, err := e.OCI.Status(id)
	if err != nil || !st.Running {
		return st, err
	}
	st.Frozen, err = e.Cgroups.Frozen(id)
	return st, err
}

// List returns the CTIDs that have left any trace on this host.
func (e *Engine) List() ([]int, error) {
	entries, err := os.ReadDir(e.Dir)
	if err != nil {
		return nil, fmt.Errorf("list the containers of this host: %w", err)
	}
	var ids []int
	for _, entry := range entries {
		if id, err := strconv.Atoi(entry.Name()); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// Inits are the pids of the running containers' inits.
func (e *Engine) Inits() ([]int, error) {
	ids, err := e.List()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, id := range ids {
		if st, err := e.OCI.Status(id); err == nil && st.Running {
			pids = append(pids, st.PID)
		}
	}
	return pids, nil
}

// Update changes limits, all or nothing. A container that does not run gets them at its next start.
func (e *Engine) Update(id int, l runtime.Limits) error {
	if st, err := e.OCI.Status(id); err != nil || !st.Running {
		return err
	}
	old, err := e.Network.Shape(id, l.Net)
	if err != nil {
		return err
	}
	err = e.Roots.Limit(id, l.Disk) // a larger one stays if the rest fails, which costs nothing
	if err == nil {
		err = e.Cgroups.Update(id, l)
	}
	if err != nil {
		_, undo := e.Network.Shape(id, old)
		return errors.Join(err, undo)
	}
	return nil
}

// Reach tells the host's network where containers are.
func (e *Engine) Reach(r runtime.Reach) error { return e.Network.Reach(r) }

// Connect makes the NICs of a running container these. One that does not run gets them at its next start.
func (e *Engine) Connect(id int, nics []runtime.NIC) error {
	st, err := e.OCI.Status(id)
	if err != nil || !st.Running {
		return err
	}
	return e.Network.Change(id, st.PID, nics)
}

// Exec runs a command inside and returns its exit code.
func (e *Engine) Exec(ctx context.Context, id int, o runtime.ExecOptions) (int, error) {
	return e.OCI.Exec(ctx, id, o)
}

// existingLayer is Layer of a container that has left a trace here, else fs.ErrNotExist.
func (e *Engine) existingLayer(id int) (string, error) {
	if _, err := os.Lstat(filepath.Join(e.Dir, strconv.Itoa(id))); err != nil {
		return "", err
	}
	return e.Layer(id)
}

// DiskUsage measures a container's private layer; fs.ErrNotExist when there is none.
func (e *Engine) DiskUsage(id int) (runtime.DiskUsage, error) { return e.Roots.Usage(id) }

// Usage says what a container uses now.
func (e *Engine) Usage(id int) (runtime.Usage, error) { return e.Cgroups.Usage(id) }

// Beans counts what a container uses, and how often it met a limit.
func (e *Engine) Beans(id int) ([]runtime.Bean, error) { return e.Cgroups.Beans(id) }

// Wait returns when the container's init has ended, or with the context's error.
func (e *Engine) Wait(ctx context.Context, id int) error {
	st, err := e.OCI.Status(id)
	if err != nil || !st.Running {
		return err
	}
	return waitPID(ctx, st.PID)
}
