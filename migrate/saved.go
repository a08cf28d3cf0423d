package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Keeper is what a host may be able to do besides: keep snapshots, and the memory of a suspended container, in a folder
// beside its layer. Nobody writes there while a migration has the container locked.
type Keeper interface {
	// Saved is the folder; it may not exist.
	Saved(id int) string
	MakeSaved(id int) (string, error)
}

// sendSaved sends that folder, if there is one, as one pass that is complete in itself.
func (m *move) sendSaved(ctx context.Context) error {
	k, ok := m.Host.(Keeper)
	if !ok {
		return nil
	}
	dir := k.Saved(m.spec.ID)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("look for what container %d keeps: %w", m.spec.ID, err)
	}
	m.shown.stage(0, "copying snapshots and memory")
	if err := m.s.send(msgSaved, struct{}{}); err != nil {
		return err
	}
	w := bulkWriter{m.s}
	if _, _, err := m.Copy.Send(ctx, w, dir, nil, true); err != nil {
		return fmt.Errorf("send what container %d keeps: %w", m.spec.ID, err)
	}
	if err := w.Close(); err != nil {
		return err
	}
	var done doneMsg
	return m.s.expect(msgPassDone, &done, m.op.To)
}

// saved receives it.
func (a *arrival) saved(ctx context.Context) error {
	k, ok := a.Host.(Keeper)
	if !ok {
		return errors.New("this host cannot keep snapshots")
	}
	dir, err := k.MakeSaved(a.spec.ID)
	if err != nil {
		return err
	}
	in := &bulkReader{s: a.s}
	_, stats, err := a.Copy.Receive(ctx, in, dir, nil)
	if err == nil {
		err = in.drain()
	}
	if err != nil {
		return fmt.Errorf("receive what container %d keeps: %w", a.spec.ID, err)
	}
	return a.s.send(msgPassDone, doneMsg{stats.Bytes})
}
