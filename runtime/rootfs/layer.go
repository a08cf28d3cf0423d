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

// Fill makes the private layer of a container whose root is not mounted a copy of one that was saved, or of another
// container's layer: filepath.Dir(Layer).
func (r *Roots) Fill(id int, from string) error {
	if mounted, err := mountinfo.Mounted(r.path(id, "root")); err == nil && mounted {
		return fmt.Errorf("the root of container %d is mounted: unmount it before its layer is exchanged", id)
	}
	if err := r.Create(id); err != nil {
		return err
	}
	next := r.path(id, filled)
	err := errors.Join(r.storage.Create(from, runtime.Space{}), r.storage.Remove(next))
	if err == nil {
		err = r.storage.Copy(from, next)
	}
	if err == nil {
		err = r.storage.Remove(r.path(id, "layer"))
	}
	if err == nil {
		err = r.finishFill(id)
	}
	if filepath.Base(from) != "layer" { // else it may be in use
		err = errors.Join(err, r.storage.Close(from))
	}
	if err != nil {
		return fmt.Errorf("exchange the layer of container %d: %w", id, err)
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
