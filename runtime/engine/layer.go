package engine

import (
	"errors"
	"fmt"

	"github.com/vzcluster/vzcluster/runtime"
)

// Instant says whether SaveLayer takes no time, and the layer as it is at one moment.
func (e *Engine) Instant() bool { return e.Roots.Instant() }

// SaveLayer copies the layer into a new folder.
func (e *Engine) SaveLayer(id int, to string) error { return e.Roots.Save(id, to) }

// DropSaved deletes a layer that was saved (idempotent).
func (e *Engine) DropSaved(dir string) error {
	if err := e.Roots.Discard(dir); err != nil {
		return fmt.Errorf("delete a layer that was saved: %w", err)
	}
	return nil
}

// NextLayer makes the layer that ExchangeLayer puts in the place of the container's own, and returns the folder of its
// files. Copied says that it has those of a saved layer; else it is empty.
func (e *Engine) NextLayer(s runtime.Spec, from string) (upper string, copied bool, err error) {
	return e.Roots.Next(s.ID, from, s.Limits.Disk)
}

// DropNextLayer deletes what NextLayer has made (idempotent).
func (e *Engine) DropNextLayer(id int) error { return e.Roots.DropNext(id) }

// ExchangeLayer puts it there. The container must not run.
func (e *Engine) ExchangeLayer(id int) error {
	if err := e.unmount(id); err != nil {
		return err
	}
	return errors.Join(e.Roots.Exchange(id), syncAll(e.Roots.Layer(id)))
}
