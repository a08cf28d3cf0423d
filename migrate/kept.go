package migrate

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/vzcluster/vzcluster/migrate/memory"
)

// KeptMemory is the memory that a container had when it left this host; memory.Kept is it. It waits beside the layer.
type KeptMemory interface {
	Bytes() int64 // on disk
	Drop() error
	// Hashes tells the host that has the container what is here, for memory.Sender.Learn.
	Hashes(w io.Writer) error
	// Resume makes it the store of a migration back; it is not kept any more then, whatever comes of it.
	Resume(images string, charge func(bytes int64) error) (PageStore, error)
}

// keepMemory keeps the memory of the copy that was handed over and stands still, before it ends. It is only a saving.
func (m *move) keepMemory(ctx context.Context) {
	if m.KeepMemory == nil || m.rounds == nil || m.Shelf == nil || m.Shelf.For <= 0 {
		return
	}
	pids, err := m.Host.PIDs(m.spec.ID)
	if err == nil {
		m.kept, err = m.KeepMemory(m.spec.ID, m.Shelf.Disk, func(visit memory.Visit) error { return m.Memory().Round(ctx, pids, visit) })
	}
	if err != nil {
		m.Log.Info("the memory of a container that has left is not kept", "container", m.spec.ID, "error", err)
	}
}

// dropKept deletes kept memory that nobody took.
func dropKept(k KeptMemory) {
	if k != nil {
		_ = k.Drop() // what stays is deleted when the next agent begins
	}
}

// learn reads what the target has kept of the memory.
func (m *move) learn() error {
	in := &bulkReader{s: m.s}
	count := &counter{r: in}
	if err := m.rounds.send.Learn(bufio.NewReader(count)); err != nil {
		return err
	}
	m.s.n += count.n // it has crossed the wire, too
	return in.drain()
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// offer tells the source what is kept here of the memory, if anything.
func (a *arrival) offer() error {
	if err := a.s.send(msgPrepared, preparedMsg{Kept: a.kept != nil}); err != nil || a.kept == nil {
		return err
	}
	w := bulkWriter{a.s}
	if err := a.kept.Hashes(w); err != nil {
		return err
	}
	return w.Close()
}

// openPages opens the store for the memory, with what was kept of it.
func (a *arrival) openPages(room *budget) (err error) {
	dir := a.images
	if a.later() { // the checkpoint has files of pages of its own
		dir = filepath.Join(a.images, laterDir)
		if err := a.Disk.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("keep memory: %w", err)
		}
	}
	if a.kept == nil {
		a.pages, err = a.Memory(dir, room.charge)
		return err
	}
	k := a.kept
	a.kept = nil
	if a.pages, err = k.Resume(dir, room.charge); err != nil {
		return fmt.Errorf("take up the memory of container %d: %w", a.spec.ID, err)
	}
	return nil
}
