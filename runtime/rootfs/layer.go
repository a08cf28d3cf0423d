package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"

	"github.com/vzcluster/vzcluster/runtime"
)

// filled is a copy that is about to become the private layer; under this name it is complete.
const filled = "layer.new"

// Limit gives the private layer a limit; it is made when there is none.
func (r *Roots) Limit(id int, limit runtime.Space) error {
	if err := r.create(id, limit); err != nil {
		return err
	}
	live, err := mountinfo.Mounted(r.path(id, "root"))
	if err != nil {
		return fmt.Errorf("look at the root of container %d: %w", id, err)
	}
	if err := r.storage.Limit(r.path(id, "layer"), limit, live); err != nil {
		return fmt.Errorf("limit the disk of container %d: %w", id, err)
	}
	return nil
}

// Usage measures the private layer.
func (r *Roots) Usage(id int) (runtime.DiskUsage, error) {
	if _, err := os.Lstat(r.path(id)); err != nil {
		return runtime.DiskUsage{}, fmt.Errorf("measure the disk of container %d: %w", id, err)
	}
	if err := r.Create(id); err != nil {
		return runtime.DiskUsage{}, err
	}
	return r.storage.Usage(r.path(id, "layer"))
}

// Save copies the private layer to a directory below the containers' that does not exist: all of it or nothing. What the
// container writes meanwhile may be there in part.
func (r *Roots) Save(id int, to string) error {
	if err := r.Create(id); err != nil {
		return err
	}
	if err := r.storage.Copy(r.path(id, "layer"), to); err != nil {
		return fmt.Errorf("copy the layer of container %d: %w", id, err)
	}
	return r.storage.Close(to)
}

// Instant says whether layers are copied at once, sharing what neither side changes.
func (r *Roots) Instant() bool { return r.storage.Traits().Instant }

// Next makes the layer that Exchange puts in the place of the private one, which stays what it is until then, and returns
// the folder of its files. If the storage makes instant copies it has the files of a layer that was saved, or of another
// container's (filepath.Dir(Layer)), and copied says so; else it is empty.
func (r *Roots) Next(id int, from string, limit runtime.Space) (upper string, copied bool, err error) {
	fail := func(err error) (string, bool, error) {
		return "", false, fmt.Errorf("make another layer for container %d: %w", id, err)
	}
	if err := errors.Join(r.Create(id), r.DropNext(id)); err != nil {
		return fail(err)
	}
	next := r.path(id, filled)
	if from != "" && r.Instant() {
		err, copied = errors.Join(r.storage.Copy(from, next), r.storage.Limit(next, limit, false)), true
	} else {
		err = r.storage.Create(next, limit)
	}
	if err == nil {
		err = makeDirs(next, dir{"upper", 0o755}, dir{"work", 0o755})
	}
	if err != nil {
		return fail(errors.Join(err, r.DropNext(id)))
	}
	return filepath.Join(next, "upper"), copied, nil
}

// DropNext deletes what Next has made (idempotent).
func (r *Roots) DropNext(id int) error { return r.storage.Remove(r.path(id, filled)) }

// Exchange puts the layer that Next has made in the place of the private one, which is deleted. The root must not be
// mounted.
func (r *Roots) Exchange(id int) error {
	if mounted, err := mountinfo.Mounted(r.path(id, "root")); err == nil && mounted {
		return fmt.Errorf("the root of container %d is mounted: unmount it before its layer is exchanged", id)
	}
	if _, err := os.Lstat(r.path(id, filled)); err != nil {
		return fmt.Errorf("exchange the layer of container %d: %w", id, err)
	}
	if err := r.storage.Remove(r.path(id, "layer")); err != nil {
		return fmt.Errorf("exchange the layer of container %d: %w", id, err)
	}
	if err := r.finishFill(id); err != nil {
		return err
	}
	return r.Reset(id)
}

// finishFill puts a complete copy in the place of the layer, if that is gone: a crash came in between.
func (r *Roots) finishFill(id int) error {
	layer, next := r.path(id, "layer"), r.path(id, filled)
	if _, err := os.Lstat(next); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Lstat(layer); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := r.storage.Rename(next, layer); err != nil {
		return fmt.Errorf("exchange the layer of container %d: %w", id, err)
	}
	return nil
}

// Open makes the files of a saved layer seen, and returns their folder; Discard deletes one (idempotent).
func (r *Roots) Open(saved string) (string, error) {
	if _, err := os.Lstat(saved); err != nil {
		return "", fmt.Errorf("open a saved layer: %w", err)
	}
	return filepath.Join(saved, "upper"), r.storage.Create(saved, runtime.Space{})
}

// Discard deletes a saved layer (idempotent).
func (r *Roots) Discard(saved string) error { return r.storage.Remove(saved) }
