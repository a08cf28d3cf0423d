package transfer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// maxHashes bounds what a receiver keeps of large files, over all files of a layer: enough for 512 GiB.
const maxHashes = 4 << 20

// blocks returns the hashes of the chunks that the receiver has of a large file before data comes: those of the file
// that is patched, else of a hole.
func (r *receiver) blocks(p string, e *entry) []uint64 {
	n := int((e.Size + chunk - 1) / chunk)
	old := r.have.files[p]
	if !compared(e.Size) || r.have.hashes+n > maxHashes || e.Patch && (old == nil || old.blocks == nil) {
		return nil
	}
	blocks := make([]uint64, n)
	if e.Patch {
		copy(blocks, old.blocks)
	}
	return blocks
}

// hash notes what a chunk is now. A stream that does not keep to the chunks has none noted.
func (c *current) hash(off, n int64, hash uint64) {
	if c.blocks == nil {
		return
	}
	if off%chunk != 0 || n != min(chunk, c.entry.Size-off) {
		c.blocks = nil
		return
	}
	c.blocks[off/chunk] = hash
}

// complete notes a file that has everything.
func (r *receiver) complete(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	m := metaOf(&st)
	m.blocks = r.cur.blocks
	r.have.files[string(r.cur.entry.Path)] = &m
	r.have.hashes += len(m.blocks)
	r.have.ended++
	return nil
}

// lose notes that a path is not any more what it was.
func (r *receiver) lose(p string) {
	if old := r.have.files[p]; old != nil {
		r.have.hashes -= len(old.blocks)
		delete(r.have.files, p)
	}
}

// note looks again, at the end of a pass, at what changed after it was complete: directories, and files that got more
// names.
func (r *receiver) note() error {
	again := r.linked
	for p := range r.times {
		again[p] = true
	}
	w := walker{root: r.walker.root}
	defer w.close()
	for _, p := range slices.Sorted(maps.Keys(again)) {
		d, base, err := w.parent(p)
		var st unix.Stat_t
		if err == nil {
			st, err = d.stat(base)
		}
		if gone(err) {
			r.lose(p)
			continue
		}
		if err != nil {
			return err
		}
		m := metaOf(&st)
		r.lose(p)
		r.have.files[p] = &m
	}
	r.have.started, r.have.partial = time.Now().UnixNano(), false
	return nil
}

// doubt marks, after a pass that broke off, what is not what it should be.
func (r *receiver) doubt() {
	for p, f := range r.have.files {
		if r.linked[p] || f.is(unix.S_IFDIR) {
			r.have.files[p] = f.doubtful()
		}
	}
	r.have.started, r.have.partial = time.Now().UnixNano(), true
}

// Adopt makes a layer that was kept aside the base of further passes, with the manifest of its last one. It says whether
// the layer is untouched since; if not, it is good for nothing but a first pass. Overlay's notes of where a file was
// copied from are taken away: they speak of a mount that is no more.
func (m *Manifest) Adopt(ctx context.Context, root string) (bool, error) {
	top, err := openRoot(root)
	if err != nil {
		return false, err
	}
	defer top.Close()
	order, found, err := look(ctx, top)
	if err != nil || !m.fits(found) {
		return false, err
	}
	m.hashes = 0
	w := walker{root: top}
	defer w.close()
	for _, p := range order {
		if m.files[p] == nil || m.files[p].ctime == doubtful {
			continue
		}
		if err := m.strip(&w, p); err != nil {
			return false, fmt.Errorf("adopt %q: %w", p, err)
		}
	}
	m.started, m.base, m.sent = time.Now().UnixNano(), nil, nil
	return true, nil
}

// fits says whether what is there is what the manifest says. After a pass that broke off, it does not say all.
func (m *Manifest) fits(found map[string]*meta) bool {
	for p, old := range m.files {
		now := found[p]
		if p == "." && now != nil {
			now = now.at(old.ctime) // mounting an overlay writes its notes there
		}
		if old.ctime != doubtful && (now == nil || !old.same(now)) {
			return false
		}
	}
	for p := range found {
		if m.files[p] == nil && !m.partial {
			return false
		}
	}
	return true
}

// strip takes overlay's note of origin from a path; that, and the same done to another name of it, changes its ctime.
func (m *Manifest) strip(w *walker, p string) error {
	d, base, err := w.parent(p)
	if err != nil {
		return err
	}
	f, err := d.open(base, unix.O_PATH)
	if err != nil {
		return err
	}
	defer f.Close()
	old := m.files[p]
	m.hashes += len(old.blocks)
	err = unix.Removexattr(itself(f), origin)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENODATA) && old.nlink == 1 {
		return nil
	} else if err != nil && !errors.Is(err, unix.ENODATA) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	now := metaOf(&st)
	now.blocks = old.blocks
	m.files[p] = &now
	return nil
}
