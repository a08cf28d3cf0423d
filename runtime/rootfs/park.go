package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vzcluster/vzcluster/runtime"
)

// parked is where a container's layer lies aside.
func (r *Roots) parked(id int) string { return filepath.Join(r.dir, parked+strconv.Itoa(id)) }

// Park puts the private layer aside and deletes the rest of the root. The layer's files are left as they are; a layer
// that was aside before goes.
func (r *Roots) Park(id int) error {
	if err := r.Unmount(id); err != nil {
		return err
	}
	if err := r.DropParked(id); err != nil {
		return err
	}
	err := r.storage.Rename(r.path(id, "layer"), r.parked(id))
	if err := errors.Join(err, r.storage.Close(r.parked(id))); err != nil {
		return fmt.Errorf("put the layer of container %d aside: %w", id, err)
	}
	return r.Remove(id)
}

// Unpark makes the layer that is aside the private layer of a container that has no root yet. The files' notes of where
// overlay copied them from are the caller's to take away.
func (r *Roots) Unpark(id int) error {
	if err := r.Create(id); err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("take the layer of container %d back: %w", id, err) }
	if _, err := os.Lstat(r.parked(id)); err != nil {
		return fail(err)
	}
	if err := errors.Join(r.storage.Create(r.parked(id), runtime.Space{}), r.storage.Remove(r.path(id, "layer"))); err != nil { // the empty one
		return fail(err)
	}
	// Overlay's index of the layer is made anew: it speaks of files as they were when the layer was left.
	if err := os.RemoveAll(filepath.Join(r.parked(id), "work")); err != nil {
		return fail(err)
	}
	if err := r.storage.Rename(r.parked(id), r.path(id, "layer")); err != nil {
		return fail(err)
	}
	return r.Create(id)
}

// DropParked deletes the layer that is aside (idempotent).
func (r *Roots) DropParked(id int) error {
	if err := r.storage.Remove(r.parked(id)); err != nil {
		return fmt.Errorf("delete the layer of container %d that was put aside: %w", id, err)
	}
	return nil
}
