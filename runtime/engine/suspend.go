package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// What is kept beside a container's layer lies in one folder, which moves with it: the memory of a suspended one, and
// its snapshots, which are the caller's.
const (
	savedDir  = "saved"
	memory    = "memory"     // complete, on disk, and nothing has run since
	memoryNew = "memory.new" // being written
	memoryOld = "memory.old" // what was made of it may have run: it is of no use any more
)

// Saved is the folder of what is kept beside a container's layer; it may not exist.
func (e *Engine) Saved(id int) string {
	return filepath.Join(e.Dir, strconv.Itoa(id), savedDir)
}

// MakeSaved makes that folder.
func (e *Engine) MakeSaved(id int) (string, error) {
	if err := e.Roots.Create(id); err != nil {
		return "", err
	}
	dir := e.Saved(id)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make the folder for what container %d keeps: %w", id, err)
	}
	return dir, nil
}

// Suspension says whether the memory of a container lies on disk.
func (e *Engine) Suspension(id int) (runtime.Suspension, error) {
	for name, is := range map[string]runtime.Suspension{memory: runtime.Suspended, memoryOld: runtime.Resuming} {
		_, err := os.Stat(filepath.Join(e.Saved(id), name))
		if err == nil {
			return is, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("look for the memory of container %d: %w", id, err)
		}
	}
	return "", nil
}

// Suspend writes the memory of a running container to disk and ends its processes. After an error it runs on as before;
// runtime.ErrBroken means that it cannot. It is idempotent.
func (e *Engine) Suspend(ctx context.Context, s runtime.Spec) error {
	kept, err := e.Suspension(s.ID)
	if err != nil {
		return err
	}
	if kept == runtime.Suspended { // by a caller who died before the next step: nothing has run since
		return e.release(ctx, s.ID)
	}
	dir, err := e.MakeSaved(s.ID)
	if err != nil {
		return err
	}
	images := filepath.Join(dir, memoryNew)
	if err := e.clearImages(ctx, images); err != nil {
		return err
	}
	if err := e.Freeze(ctx, s.ID); err != nil {
		return errors.Join(err, e.Thaw(ctx, s))
	}
	if err := e.SaveMemory(ctx, s, images); err != nil {
		return errors.Join(err, e.Thaw(ctx, s), e.clearImages(ctx, images))
	}
	if err := replace(images, filepath.Join(dir, memory)); err != nil {
		return errors.Join(err, e.Thaw(ctx, s), e.clearImages(ctx, images))
	}
	return e.release(ctx, s.ID)
}

// SaveMemory writes the memory of a frozen container into a new folder and has it on disk when it returns. The container
// stays frozen, and nothing of it has moved meanwhile.
func (e *Engine) SaveMemory(ctx context.Context, s runtime.Spec, images string) error {
	found, err := e.Outsiders(s.ID)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("process %d %s was started by exec and would be lost; end it first", found[0].PID, found[0].Name)
	}
	root, err := e.mount(ctx, s)
	if err != nil {
		return err
	}
	// CRIU reads images as the container's root, who can reach this folder only through CRIU's descriptor.
	if err := os.Mkdir(images, 0o755); err != nil {
		return fmt.Errorf("make the folder for the memory: %w", err)
	}
	if err := e.Checkpoint(s, root, images, nil, nil); err != nil {
		return err
	}
	if moved, err := e.AssertFrozen(ctx, s.ID); err != nil || moved {
		return errors.Join(err, fmt.Errorf("container %d was thawed while its memory was written", s.ID))
	}
	return syncAll(images)
}

// resume lets a suspended container go on. If that fails, its memory is still there.
func (e *Engine) resume(ctx context.Context, s runtime.Spec) error {
	images, old := filepath.Join(e.Saved(s.ID), memory), filepath.Join(e.Saved(s.ID), memoryOld)
	if err := e.clearImages(ctx, old); err != nil {
		return err
	}
	err := e.restoreHere(ctx, s, images)
	if err != nil && ctx.Err() == nil { // CRIU loses a rare race with systemd's inotify watches
		if err = errors.Join(e.release(ctx, s.ID), e.Checkpoints.Settle(ctx, images)); err == nil {
			err = e.restoreHere(ctx, s, images)
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("resume it from its memory, which is kept: %w", err), e.Checkpoints.Settle(ctx, images))
	}
	if err := e.Checkpoints.Settle(ctx, images); err != nil {
		return err
	}
	// From now on it may have run, and must never be restored from the same memory again.
	if err := replace(images, old); err != nil {
		return err
	}
	return e.goOn(ctx, s)
}

// restoreHere makes the processes of a checkpoint and holds them.
func (e *Engine) restoreHere(ctx context.Context, s runtime.Spec, images string) error {
	root, err := e.mount(ctx, s)
	if err != nil {
		return err
	}
	if err := e.makeReady(ctx, s, root); err != nil {
		return err
	}
	return e.Restore(ctx, s, images)
}

// goOn lets a restored copy run, and deletes the memory that it was made of.
func (e *Engine) goOn(ctx context.Context, s runtime.Spec) error {
	if err := e.Resume(ctx, s, func() {}); err != nil {
		return err
	}
	return e.clearImages(ctx, filepath.Join(e.Saved(s.ID), memoryOld))
}

// DropMemory deletes the memory of a container that does not run (idempotent).
func (e *Engine) DropMemory(ctx context.Context, id int) error {
	var err error
	for _, name := range []string{memoryNew, memory, memoryOld} {
		err = errors.Join(err, e.clearImages(ctx, filepath.Join(e.Saved(id), name)))
	}
	return err
}

// MemoryDir is where the memory of a suspended container lies: who puts a complete folder there makes it one.
func (e *Engine) MemoryDir(id int) string { return filepath.Join(e.Saved(id), memory) }

// ClearImages deletes a folder with a checkpoint, when nobody works with it any more (idempotent).
func (e *Engine) ClearImages(ctx context.Context, images string) error {
	return e.clearImages(ctx, images)
}

func (e *Engine) clearImages(ctx context.Context, images string) error {
	if _, err := os.Lstat(images); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := e.Checkpoints.Settle(ctx, images); err != nil {
		return err
	}
	if err := os.RemoveAll(images); err != nil {
		return fmt.Errorf("delete a checkpoint: %w", err)
	}
	return nil
}

// settleSaved waits for every CRIU that a caller who died has left at work in what a container keeps.
func (e *Engine) settleSaved(ctx context.Context, id int) error {
	var err error
	for _, name := range []string{memoryNew, memory, memoryOld} {
		if images := filepath.Join(e.Saved(id), name); exists(images) {
			err = errors.Join(err, e.Checkpoints.Settle(ctx, images))
		}
	}
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Unmount takes the root of a container that does not run away, so that its layer may be written from outside.
func (e *Engine) Unmount(id int) error { return e.unmount(id) }

// replace renames a folder and has the new name on disk when it returns.
func replace(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("put a checkpoint in its place: %w", err)
	}
	d, err := os.Open(filepath.Dir(to))
	if err != nil {
		return fmt.Errorf("put a checkpoint in its place: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("put a checkpoint in its place: %w", err)
	}
	return nil
}

// syncAll puts the file system of a folder on disk.
func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("put a checkpoint on disk: %w", err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("put a checkpoint on disk: %w", err)
	}
	return nil
}
