package transfer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"math"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// patchFrom is the size from which on a file that changed is compared chunk by chunk, and only chunks that differ are
// sent. Beyond patchTo the hashes would take too much memory.
const (
	patchFrom = 4 * chunk
	patchTo   = 256 << 30
)

func compared(size int64) bool { return size >= patchFrom && size <= patchTo }

// Send sends one pass of the layer in root while its container may be running. A nil prev sends everything, else what
// changed since the pass that returned prev. Files that change or vanish meanwhile are no error: the next pass gets
// them right. The last pass must be SendFinal. After an error, what is returned can be gone on from with Cut, if it is
// not nil.
func Send(ctx context.Context, w io.Writer, root string, prev *Manifest) (*Manifest, Stats, error) {
	return send(ctx, w, root, prev, false)
}

// SendFinal sends the last pass, of a layer that nobody writes to any more. It saves the sync of the file system
// that Send needs, so it is fast.
func SendFinal(ctx context.Context, w io.Writer, root string, prev *Manifest) (*Manifest, Stats, error) {
	return send(ctx, w, root, prev, true)
}

func send(ctx context.Context, w io.Writer, root string, prev *Manifest, final bool) (*Manifest, Stats, error) {
	next, stats, err := func() (*Manifest, Stats, error) {
		top, err := openRoot(root)
		if err != nil {
			return nil, Stats{}, err
		}
		defer top.Close()
		s := &sender{ctx: ctx, out: recordWriter{newBlockWriter(w)}, walker: walker{root: top}, prev: prev, sent: map[inode]string{}, buf: make([]byte, chunk)}
		defer s.walker.close()
		return s.pass(final)
	}()
	if err != nil {
		return next, stats, fmt.Errorf("send layer %s: %w", root, err)
	}
	return next, stats, nil
}

// sender carries one pass.
type sender struct {
	ctx    context.Context
	out    recordWriter
	walker walker
	prev   *Manifest
	next   *Manifest
	stats  Stats
	sent   map[inode]string // inodes with several names that were sent, by the name they were sent under
	buf    []byte
}

func (s *sender) pass(final bool) (*Manifest, Stats, error) {
	s.next = newManifest()
	if s.prev != nil {
		s.next.seed, s.next.base, s.prev.base, s.prev.sent = s.prev.seed, s.prev, nil, nil
	}
	if !final {
		// Writing all pages out makes them read-only again where a process has them mapped: whoever writes to such a
		// page from now on changes the file's times, and the next pass sees it.
		if err := unix.Syncfs(s.walker.root.fd()); err != nil {
			return nil, s.stats, fmt.Errorf("sync: %w", err)
		}
	}
	order, found, err := look(s.ctx, s.walker.root)
	if err != nil {
		return nil, s.stats, err
	}
	todo, rest := changed(order, found, s.prev)
	for _, p := range rest { // the receiver has these already
		s.next.files[p] = s.prev.files[p]
	}
	if err := s.out.json(recStart, start{format, s.prev == nil}); err != nil {
		return s.next, s.stats, err
	}
	for _, p := range todo {
		if err := s.ctx.Err(); err != nil {
			return s.next, s.stats, err
		}
		if err := s.file(p); err != nil {
			return s.next, s.stats, fmt.Errorf("%q: %w", p, err)
		}
	}
	return s.next, s.stats, errors.Join(s.removals(), s.out.json(recEnd, s.stats), s.out.Close())
}

// hasDir reports whether the receiver has a directory of this name, at this point of the pass.
func (s *sender) hasDir(p string) bool {
	m := s.next.files[p]
	return m != nil && m.is(unix.S_IFDIR)
}

// file sends a path, if it is still there.
func (s *sender) file(p string) error {
	if p != "." && !s.hasDir(path.Dir(p)) {
		return nil // its directory vanished before it could be sent
	}
	parent, base, err := s.walker.parent(p)
	if err != nil {
		return ignoreGone(err)
	}
	f, err := parent.open(base, unix.O_PATH)
	if err != nil {
		return ignoreGone(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	m := metaOf(&st)
	e := entry{Path: []byte(p), Mode: st.Mode, UID: st.Uid, GID: st.Gid, MTime: m.mtime}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Size = st.Size
	case unix.S_IFLNK:
		target, err := grow(func(b []byte) (int, error) {
			n, err := unix.Readlinkat(int(f.Fd()), "", b)
			if err == nil && n == len(b) && n < maxXattr {
				err = unix.ERANGE // it may be longer
			}
			return n, err
		})
		if err != nil {
			return err
		}
		e.Link = target
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Rdev = st.Rdev
	}
	if m.nlink > 1 && !m.is(unix.S_IFDIR) {
		if to, ok := s.sent[m.ino]; ok {
			e.Hard = []byte(to)
			return s.entry(&e, &m, nil)
		}
	}
	return s.whole(f, &e, &m)
}

// whole sends a file that is no second name of one already sent.
func (s *sender) whole(f *os.File, e *entry, m *meta) error {
	attrs, err := xattrs(f)
	if err != nil {
		return err
	}
	var data *os.File
	if m.is(unix.S_IFREG) && m.size > 0 {
		data, err = os.OpenFile(itself(f), os.O_RDONLY|unix.O_NOATIME, 0)
		if err != nil {
			return ignoreGone(err)
		}
		defer data.Close()
	}
	var old []uint64
	if s.prev != nil && m.nlink == 1 {
		if o := s.prev.files[string(e.Path)]; o != nil && o.ino == m.ino && o.is(unix.S_IFREG) && len(o.blocks) > 0 {
			old, e.Patch = o.blocks, m.is(unix.S_IFREG)
		}
	}
	if err := s.entry(e, m, attrs); err != nil || data == nil {
		return err
	}
	return s.data(data, m, old)
}

// entry sends the header of a file and notes that the receiver has it.
func (s *sender) entry(e *entry, m *meta, attrs map[string][]byte) error {
	if m.nlink > 1 && !m.is(unix.S_IFDIR) && e.Hard == nil {
		s.sent[m.ino] = string(e.Path)
	}
	if err := s.out.json(recEntry, e); err != nil {
		return err
	}
	s.stats.Files++
	s.next.files[string(e.Path)] = m
	s.next.sent = append(s.next.sent, string(e.Path))
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		var n [2]byte
		binary.BigEndian.PutUint16(n[:], uint16(len(name)))
		if err := s.out.put(recXattr, n[:], []byte(name), attrs[name]); err != nil {
			return err
		}
	}
	return nil
}

// data sends a file chunk by chunk, holes left out. With old hashes, chunks that have not changed are left out too.
func (s *sender) data(f *os.File, m *meta, old []uint64) error {
	keep := compared(m.size)
	holes := holes{f: f}
	if m.dense() {
		holes.to = math.MaxInt64
	}
	for off := int64(0); off < m.size; off += chunk {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		n := min(chunk, m.size-off)
		data, err := holes.data(off, n)
		if err != nil {
			return err
		}
		var hash uint64
		if data {
			got, err := f.ReadAt(s.buf[:n], off)
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			clear(s.buf[got:n]) // it shrank meanwhile
			hash = max(maphash.Bytes(s.next.seed, s.buf[:n]), 1)
		}
		if keep {
			m.blocks = append(m.blocks, hash)
		} else if !data && old == nil {
			off = max(off, holes.from/chunk*chunk-chunk) // on to the chunk where the hole ends
		}
		if err := s.chunk(off, n, hash, old); err != nil {
			return err
		}
	}
	return nil
}

// chunk sends what the receiver needs to have this chunk: nothing, its bytes, or that it is a hole (its hash is 0).
func (s *sender) chunk(off, n int64, hash uint64, old []uint64) error {
	at := off / chunk
	there := at < int64(len(old))
	var h [16]byte
	binary.BigEndian.PutUint64(h[:], uint64(off))
	binary.BigEndian.PutUint64(h[8:], uint64(n))
	switch {
	case there && old[at] == hash, !there && hash == 0:
		return nil
	case hash == 0:
		return s.out.put(recHole, h[:])
	}
	s.stats.Bytes += n
	return s.out.put(recData, h[:8], s.buf[:n])
}

// holes finds out where a file has data, asking the kernel once per hole.
type holes struct {
	f        *os.File
	from, to int64 // the stretch of data that was found last; nothing but hole lies between the question and from
}

// data reports whether there is data in the n bytes at off. Calls must go forward.
func (h *holes) data(off, n int64) (bool, error) {
	if off >= h.to {
		from, err := unix.Seek(int(h.f.Fd()), off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO): // a hole to the end
			h.from, h.to = math.MaxInt64, math.MaxInt64
		case errors.Is(err, unix.EINVAL): // a file system that knows no holes
			h.from, h.to = off, math.MaxInt64
		case err != nil:
			return false, err
		default:
			h.from = from
			if h.to, err = unix.Seek(int(h.f.Fd()), from, unix.SEEK_HOLE); err != nil { // it shrank meanwhile
				h.to = math.MaxInt64
			}
		}
	}
	return h.from < off+n, nil
}

// removals sends what the receiver has and should not have, children before parents.
func (s *sender) removals() error {
	if s.prev == nil {
		return nil
	}
	var lost []string
	for p := range s.prev.files {
		if s.next.files[p] == nil {
			lost = append(lost, p)
		}
	}
	slices.SortFunc(lost, func(a, b string) int { return strings.Compare(b, a) })
	for _, p := range lost {
		if err := s.out.put(recRemove, []byte(p)); err != nil {
			return err
		}
		s.stats.Deleted++
	}
	return nil
}

func ignoreGone(err error) error {
	if gone(err) {
		return nil
	}
	return err
}
