package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// Parts of a snapshot, which is a folder of what is kept beside a container's layer.
const (
	snapshotsDir = "snapshots"
	layerPart    = "layer" // what the storage saved, or a folder like it
	filesPart    = "upper" // of a layer
	memoryPart   = "memory"
	beingMade    = ".new" // ends the name of what is not complete
)

// task carries out the local operation that has a container locked, from its beginning, whatever a former agent has done
// of it, and says how it ended. The replica here may be behind: what the leader does not know of is left alone.
func (r *reconciler) task(ctx context.Context, c *cluster.Container) error {
	now, err := r.m.read(ctx, c.ID)
	if err != nil {
		return err
	}
	op := r.m.store.State().Operation(now.Operation)
	if op == nil || now.Operation != c.Operation {
		return r.settled(ctx, c)
	}
	r.m.log.Info("a local operation begins", "container", c.ID, "operation", op.ID, "kind", op.Kind)
	end := cluster.EndTask{Operation: op.ID}
	end.Bytes, err = r.carryOut(ctx, op, now)
	if ctx.Err() != nil {
		return ctx.Err() // the next agent begins again
	}
	if err != nil {
		r.m.log.Error("a local operation failed", "container", c.ID, "operation", op.ID, "error", err)
		end.Error = err.Error()
		if err := r.reviveAfter(c); err != nil {
			return err
		}
	}
	end.At = time.Now().UTC()
	if _, err := r.m.apply(ctx, end); err != nil {
		return err
	}
	return r.settled(ctx, c)
}

// reviveAfter has a container started again that an operation has ended and that is wanted running.
func (r *reconciler) reviveAfter(c *cluster.Container) error {
	st, err := r.m.deps.Engine.Status(c.ID)
	if err != nil || st.Running {
		return err
	}
	return r.note(c.ID, acted{Generation: c.Generation, Epoch: c.Epoch - 1})
}

// settled waits until the replica here has seen that an operation has ended, so that it is not begun again.
func (r *reconciler) settled(ctx context.Context, c *cluster.Container) error {
	for {
		changed := r.m.store.Changed()
		if op := r.m.store.State().ActiveTask(c.ID); op == nil || op.ID != c.Operation {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// carryOut returns how large what it has made is.
func (r *reconciler) carryOut(ctx context.Context, op *cluster.Operation, c *cluster.Container) (int64, error) {
	spec, err := r.m.spec(c)
	if err != nil {
		return 0, err
	}
	t := &taskRun{e: r.m.deps.Engine, spec: spec, task: op.Task}
	switch op.Kind {
	case cluster.OpSnapshot:
		return t.snapshot(ctx)
	case cluster.OpDropSnapshot:
		return 0, t.dropSnapshot(ctx)
	case cluster.OpSwitch:
		snap := c.Snapshot(op.Task.Snapshot)
		if err := r.m.ensureTemplate(ctx, snap.Digest); err != nil {
			return 0, err
		}
		return 0, t.switchTo(ctx, snap.Memory)
	case cluster.OpClone:
		return 0, t.clone(ctx)
	case cluster.OpReinstall:
		if err := r.m.ensureTemplate(ctx, op.Task.Digest); err != nil {
			return 0, err
		}
		return 0, t.reinstall(ctx)
	}
	return 0, fmt.Errorf("a %s is not known here; upgrade this host's agent", op.Kind)
}

// taskRun is one local operation.
type taskRun struct {
	e    Engine
	spec runtime.Spec
	task *cluster.Task
}

// snapshotDir is the folder of a snapshot.
func (t *taskRun) snapshotDir(name string) string {
	return filepath.Join(t.e.Saved(t.spec.ID), snapshotsDir, name)
}

// snapshot copies the layer while the container runs, and what has changed meanwhile while it stands still, together with
// its memory if that is wanted.
func (t *taskRun) snapshot(ctx context.Context) (bytes int64, err error) {
	dir := t.snapshotDir(t.task.Snapshot)
	if _, err := os.Stat(dir); err == nil {
		return treeSize(dir) // a former agent has made it and did not live to say so
	}
	if _, err := t.e.MakeSaved(t.spec.ID); err != nil {
		return 0, err
	}
	half := dir + beingMade
	if err := t.removeSnapshot(ctx, half); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.removeSnapshot(context.WithoutCancel(ctx), half))
		}
	}()
	if err := os.MkdirAll(half, 0o755); err != nil {
		return 0, fmt.Errorf("make the snapshot's folder: %w", err)
	}
	if err := t.saveLayer(ctx, half); err != nil {
		return 0, err
	}
	if bytes, err = treeSize(half); err != nil {
		return 0, err
	}
	return bytes, putInPlace(half, dir)
}

// saveLayer puts the layer into the folder of a snapshot, with the memory if that is wanted. Where the storage copies at
// once nothing stands still for the layer alone.
func (t *taskRun) saveLayer(ctx context.Context, dir string) error {
	layer := filepath.Join(dir, layerPart)
	switch {
	case !t.e.Instant():
		files := filepath.Join(layer, filesPart)
		if err := os.MkdirAll(files, 0o755); err != nil {
			return fmt.Errorf("make the snapshot's folder: %w", err)
		}
		return t.copyStill(ctx, t.inPasses(files), dir)
	case !t.task.Memory:
		return t.e.SaveLayer(t.spec.ID, layer)
	}
	return t.copyStill(ctx, func(_ context.Context, last bool) error {
		if !last {
			return nil
		}
		return t.e.SaveLayer(t.spec.ID, layer)
	}, dir)
}

// layerCopy copies the layer, while it is written to and once more when nobody writes any more.
type layerCopy func(ctx context.Context, last bool) error

// inPasses copies the files that have changed since the pass before.
func (t *taskRun) inPasses(to string) layerCopy {
	p := &passes{to: to}
	return func(ctx context.Context, last bool) (err error) {
		if p.from, err = t.e.Layer(t.spec.ID); err != nil {
			return err
		}
		return p.copy(ctx, last)
	}
}

// copyStill copies the layer as it is at one moment, and into keep, if it is not empty, what else a snapshot has.
func (t *taskRun) copyStill(ctx context.Context, layer layerCopy, keep string) error {
	st, err := t.e.Status(t.spec.ID)
	if err != nil {
		return err
	}
	if !st.Running {
		if keep != "" && t.task.Memory {
			if err := t.copyMemory(ctx, keep); err != nil {
				return err
			}
		}
		return layer(ctx, true)
	}
	if err := layer(ctx, false); err != nil {
		return err
	}
	if err := t.e.Freeze(ctx, t.spec.ID); err != nil {
		return errors.Join(err, t.e.Thaw(ctx, t.spec))
	}
	if keep != "" && t.task.Memory {
		err = t.e.SaveMemory(ctx, t.spec, filepath.Join(keep, memoryPart))
	}
	if err == nil {
		err = layer(ctx, true)
	}
	if errors.Is(err, runtime.ErrBroken) {
		return errors.Join(err, t.e.Kill(context.WithoutCancel(ctx), t.spec.ID)) // it is started again, as after any fault
	}
	return errors.Join(err, t.e.Thaw(context.WithoutCancel(ctx), t.spec))
}

// copyMemory keeps the memory of a suspended container.
func (t *taskRun) copyMemory(ctx context.Context, keep string) error {
	is, err := t.e.Suspension(t.spec.ID)
	if err != nil {
		return err
	}
	if is != runtime.Suspended {
		return errors.New("it does not run any more, so there is no memory to keep")
	}
	return copyTree(ctx, t.e.MemoryDir(t.spec.ID), filepath.Join(keep, memoryPart))
}

// dropSnapshot deletes one.
func (t *taskRun) dropSnapshot(ctx context.Context) error {
	dir := t.snapshotDir(t.task.Snapshot)
	return errors.Join(t.removeSnapshot(ctx, dir), t.removeSnapshot(ctx, dir+beingMade))
}

func (t *taskRun) removeSnapshot(ctx context.Context, dir string) error {
	if err := t.e.ClearImages(ctx, filepath.Join(dir, memoryPart)); err != nil {
		return err
	}
	if err := t.e.DropSaved(filepath.Join(dir, layerPart)); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("delete a snapshot: %w", err)
	}
	return nil
}

// switchTo ends what runs and exchanges the layer for the snapshot's in one step: until then nothing is lost, and after it
// the old one is of no use.
func (t *taskRun) switchTo(ctx context.Context, memory bool) error {
	dir := t.snapshotDir(t.task.Snapshot)
	images := filepath.Join(t.e.Saved(t.spec.ID), memoryPart+".switch")
	if err := t.e.ClearImages(ctx, images); err != nil {
		return err
	}
	layer, err := t.nextLayer(ctx, t.spec, filepath.Join(dir, layerPart))
	if err == nil && memory {
		err = copyTree(ctx, filepath.Join(dir, memoryPart), images)
	}
	if err == nil {
		err = syncTree(layer)
	}
	if err != nil {
		return errors.Join(err, t.e.ClearImages(context.WithoutCancel(ctx), images), t.e.DropNextLayer(t.spec.ID))
	}
	if err := errors.Join(t.e.Kill(ctx, t.spec.ID), t.e.DropMemory(ctx, t.spec.ID)); err != nil {
		return err
	}
	if err := t.e.ExchangeLayer(t.spec.ID); err != nil {
		return err
	}
	if memory {
		return putInPlace(images, t.e.MemoryDir(t.spec.ID))
	}
	return nil
}

// nextLayer makes the layer that a container is to have from one that was saved.
func (t *taskRun) nextLayer(ctx context.Context, of runtime.Spec, saved string) (string, error) {
	to, copied, err := t.e.NextLayer(of, saved)
	if err != nil || copied {
		return to, err
	}
	return to, copyTree(ctx, filepath.Join(saved, filesPart), to)
}

// clone copies the layer, as it is or as it was at a snapshot, into that of the new container, which gets an identity of
// its own when it starts.
func (t *taskRun) clone(ctx context.Context) (err error) {
	to := t.spec
	to.ID = t.task.Clone
	defer func() {
		if err != nil {
			err = errors.Join(err, t.e.DropNextLayer(to.ID))
		}
	}()
	layer, err := t.cloneLayer(ctx, to)
	if err == nil {
		err = forgetIdentity(layer)
	}
	if err == nil {
		err = syncTree(layer)
	}
	if err == nil {
		err = t.e.ExchangeLayer(to.ID)
	}
	if err != nil {
		return err
	}
	return t.e.Unmount(to.ID)
}

func (t *taskRun) cloneLayer(ctx context.Context, to runtime.Spec) (string, error) {
	if t.task.Snapshot != "" {
		return t.nextLayer(ctx, to, filepath.Join(t.snapshotDir(t.task.Snapshot), layerPart))
	}
	from, err := t.e.Layer(t.spec.ID)
	if err != nil {
		return "", err
	}
	layer, copied, err := t.e.NextLayer(to, filepath.Dir(from))
	if err != nil || copied {
		return layer, err
	}
	return layer, t.copyStill(ctx, t.inPasses(layer), "")
}

// forgetIdentity removes what no two machines may share. A layer was written by its container: no link is followed out
// of it.
func forgetIdentity(layer string) error {
	root, err := os.OpenRoot(layer)
	if err != nil {
		return fmt.Errorf("give the clone an identity of its own: %w", err)
	}
	defer root.Close()
	names := []string{"etc/machine-id", "var/lib/dbus/machine-id"}
	if keys, err := fs.Glob(root.FS(), "etc/ssh/ssh_host_*"); err == nil {
		names = append(names, keys...)
	}
	for _, name := range names {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("give the clone an identity of its own: %w", err)
		}
	}
	return nil
}

// reinstall exchanges the layer for one that has nothing in it but what is to be kept.
func (t *taskRun) reinstall(ctx context.Context) error {
	if err := errors.Join(t.e.Kill(ctx, t.spec.ID), t.e.DropMemory(ctx, t.spec.ID)); err != nil {
		return err
	}
	fresh, _, err := t.e.NextLayer(t.spec, "")
	if err != nil {
		return err
	}
	old, err := t.e.Layer(t.spec.ID)
	if err != nil {
		return err
	}
	for _, path := range t.task.Keep {
		if err := keepPath(ctx, old, fresh, strings.TrimPrefix(path, "/")); err != nil {
			return errors.Join(fmt.Errorf("keep %s: %w", path, err), t.e.DropNextLayer(t.spec.ID))
		}
	}
	if err := syncTree(fresh); err != nil {
		return err
	}
	return t.e.ExchangeLayer(t.spec.ID)
}
