package transfer

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// slack is how far a file's change time may lie before the moment of the change: the kernel stamps files with the
// time of its last tick.
const slack = 20 * time.Millisecond

// inode is a file, whatever its names are. Subvolumes of one file system number their files each from the beginning.
type inode struct{ dev, number uint64 }

// meta is what a pass saw of a path. Whatever is done to a file changes one of these, above all ctime.
type meta struct {
	ino    inode
	mode   uint32
	nlink  uint32
	size   int64
	mtime  int64
	ctime  int64
	disk   int64    // bytes that it takes
	blocks []uint64 // of a large regular file: hash of each chunk that was sent, 0 for a hole
}

func metaOf(st *unix.Stat_t) meta {
	return meta{
		ino: inode{st.Dev, st.Ino}, mode: st.Mode, nlink: uint32(st.Nlink), size: st.Size,
		mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), disk: st.Blocks * 512,
	}
}

// dense says that it has as many blocks as it needs, thus no holes.
func (m *meta) dense() bool { return m.disk >= m.size }

// doubtful is the ctime of a path of which it is not known what the other side has.
const doubtful = -1

// doubtful is the same path, with nothing known of what the other side has of it.
func (m *meta) doubtful() *meta {
	d := *m
	d.ctime, d.blocks = doubtful, nil
	return &d
}

// at is the same path with another ctime.
func (m *meta) at(ctime int64) *meta {
	d := *m
	d.ctime = ctime
	return &d
}

func (m *meta) is(kind uint32) bool { return m.mode&unix.S_IFMT == kind }

func (m *meta) same(o *meta) bool {
	return m.ino == o.ino && m.mode == o.mode && m.nlink == o.nlink && m.size == o.size && m.mtime == o.mtime && m.ctime == o.ctime
}

// Manifest is what two hosts have in common of a layer after a pass, as one of them sees its own copy: the sender what it
// sent, the receiver what it wrote. It is what the next pass is compared with, whichever way that goes: a receiver's
// manifest is where the sender begins who brings the layer back.
type Manifest struct {
	started int64 // wall clock, nanoseconds: a file that changed later than that (less slack) may have been seen too early
	seed    maphash.Seed
	files   map[string]*meta
	base    *Manifest // of a sender: what the pass was compared with, until the next pass
	sent    []string  // of a sender: the entries of the pass, in order
	ended   int       // of a receiver: the entries of the pass that are complete
	hashes  int       // of all blocks together, to bound them
	partial bool      // of a receiver: the pass broke off
}

func newManifest() *Manifest {
	return &Manifest{started: time.Now().UnixNano(), seed: maphash.MakeSeed(), files: map[string]*meta{}}
}

// Len is how many paths the layer has.
func (m *Manifest) Len() int { return len(m.files) }

// Ended is how many entries of its last pass a receiver has complete. The sender's Cut wants to know after a pass that
// broke off.
func (m *Manifest) Ended() int { return m.ended }

// Disk is how many bytes the layer takes.
func (m *Manifest) Disk() (n int64) {
	inodes := map[inode]bool{}
	for _, f := range m.files {
		if f.nlink > 1 && !f.is(unix.S_IFDIR) {
			if inodes[f.ino] {
				continue
			}
			inodes[f.ino] = true
		}
		n += f.disk
	}
	return n
}

// Cut turns what a broken pass returned into what the next pass can be compared with, when the receiver has the first n
// entries of it complete. Nil: it cannot, the receiver must have counted something else.
func (m *Manifest) Cut(n int) *Manifest {
	if n < 0 || n > len(m.sent) {
		return nil
	}
	// Of directories the receiver sets the times at the very end. Whatever came after entry n may be there in part, and
	// nothing was removed yet.
	out := &Manifest{started: m.started, seed: m.seed, files: make(map[string]*meta, len(m.files))}
	if m.base != nil {
		for p, f := range m.base.files {
			out.files[p] = f.doubtful()
		}
	}
	for p, f := range m.files {
		if f.is(unix.S_IFDIR) {
			f = f.doubtful()
		}
		out.files[p] = f
	}
	for _, p := range m.sent[n:] {
		out.files[p] = m.files[p].doubtful()
	}
	return out
}

// unchanged reports whether the receiver has what a path is now. A change time within the previous pass proves
// nothing: the file may have changed again in the same tick, or through a page that was still writable.
func (m *Manifest) unchanged(p string, now *meta) bool {
	old := m.files[p]
	return old != nil && old.same(now) && now.ctime < m.started-int64(slack)
}

// look walks a layer and returns its paths, parents before children, with what stat says of each.
func look(ctx context.Context, root dir) ([]string, map[string]*meta, error) {
	var order []string
	found := map[string]*meta{}
	var walk func(d dir, at string) error
	add := func(p string, st *unix.Stat_t) {
		m := metaOf(st)
		order, found[p] = append(order, p), &m
	}
	walk = func(d dir, at string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		names, err := d.Readdirnames(-1)
		if err != nil && !gone(err) {
			return err
		}
		slices.Sort(names)
		for _, name := range names {
			p := path.Join(at, name)
			if len(p) > maxPath {
				return fmt.Errorf("the path %.100q... is too long to be moved (%d bytes)", p, len(p))
			}
			st, err := d.stat(name)
			if err != nil {
				if gone(err) {
					continue
				}
				return fmt.Errorf("look at %q: %w", p, err)
			}
			add(p, &st)
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				continue
			}
			below, err := d.sub(name)
			if err != nil {
				if gone(err) {
					continue
				}
				return fmt.Errorf("open %q: %w", p, err)
			}
			if err := errors.Join(walk(below, p), below.Close()); err != nil {
				return err
			}
		}
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(root.fd(), &st); err != nil {
		return nil, nil, err
	}
	add(".", &st)
	again, err := root.sub(".") // a directory is read from where its last reader left it
	if err != nil {
		return nil, nil, err
	}
	defer again.Close()
	return order, found, walk(again, "")
}

// changed picks the paths that the receiver lacks, and the rest. Names of one file travel together: if one of them is to
// be sent, all are, or the receiver could not know that they belong together.
func changed(order []string, found map[string]*meta, prev *Manifest) (todo, rest []string) {
	linked := map[inode]bool{} // inodes with several names, one of which must be sent
	send := func(p string) bool { return prev == nil || !prev.unchanged(p, found[p]) }
	for _, p := range order {
		if m := found[p]; m.nlink > 1 && !m.is(unix.S_IFDIR) && send(p) {
			linked[m.ino] = true
		}
	}
	for _, p := range order {
		if m := found[p]; send(p) || !m.is(unix.S_IFDIR) && linked[m.ino] {
			todo = append(todo, p)
		} else {
			rest = append(rest, p)
		}
	}
	return todo, rest
}
