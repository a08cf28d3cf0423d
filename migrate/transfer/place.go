package transfer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// begin makes the file of an entry; what its name was before goes away, except a directory that stays one and a
// regular file that is patched.
func (r *receiver) begin(body []byte) error {
	var e entry
	if err := json.Unmarshal(body, &e); err != nil {
		return fmt.Errorf("the stream is damaged: %w", err)
	}
	p, err := safePath(e.Path)
	if err != nil {
		return err
	}
	r.stats.Files++
	if err := errors.Join(r.count(), r.check(&e, p)); err != nil {
		return err
	}
	d, base, err := r.parent(p)
	if err != nil {
		return fmt.Errorf("open the directory of %q: %w", p, err)
	}
	if e.Hard != nil {
		if err := r.link(d, base, e.Hard); err != nil {
			return fmt.Errorf("link %q: %w", p, err)
		}
		r.lose(p)
		r.linked[p], r.linked[string(e.Hard)] = true, true
		r.have.ended++
		return nil
	}
	blocks := r.blocks(p, &e)
	r.lose(p)
	f, err := r.place(d, base, &e)
	if err != nil {
		return fmt.Errorf("make %q: %w", p, err)
	}
	r.cur = current{entry: e, f: f, blocks: blocks}
	return nil
}

// check refuses what no layer may hold.
func (r *receiver) check(e *entry, p string) error {
	kind := e.Mode & unix.S_IFMT
	switch {
	case e.Size < 0 || e.Size > 0 && kind != unix.S_IFREG:
		return fmt.Errorf("%q: the stream holds a size that it cannot have", p)
	case p == "." && kind != unix.S_IFDIR, e.Hard != nil && kind == unix.S_IFDIR:
		return fmt.Errorf("%q: the stream holds a file where a directory must be", p)
	case kind == unix.S_IFBLK || kind == unix.S_IFCHR:
		number := [2]uint32{unix.Major(e.Rdev), unix.Minor(e.Rdev)}
		if !r.limits.AnyDevice && (kind == unix.S_IFBLK || !harmless()[number]) {
			return fmt.Errorf("%q is a node of device %d:%d, which no container may have: remove it before the move", p, number[0], number[1])
		}
	case e.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 && kind == unix.S_IFREG && (e.UID > maxID || e.GID > maxID):
		return fmt.Errorf("%q: the stream holds a set-uid file of somebody outside the container", p)
	}
	return nil
}

// maxID is the last uid and gid that a container has, as they are on disk.
const maxID = 65535

// place makes the file itself and returns it: a regular one open for writing, any other as a path.
func (r *receiver) place(d dir, base string, e *entry) (*os.File, error) {
	kind := e.Mode & unix.S_IFMT
	old, err := d.stat(base)
	switch {
	case err != nil && !errors.Is(err, unix.ENOENT):
		return nil, err
	case err == nil && kind == unix.S_IFDIR && old.Mode&unix.S_IFMT == unix.S_IFDIR:
		return d.open(base, unix.O_PATH|unix.O_DIRECTORY)
	case e.Patch:
		return patched(d, base, e, old.Mode)
	case err == nil:
		if err := d.remove(base); err != nil {
			return nil, err
		}
	}
	switch kind {
	case unix.S_IFREG:
		fd, err := unix.Openat(d.fd(), base, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), base)
		if err := f.Truncate(e.Size); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	case unix.S_IFDIR:
		err = unix.Mkdirat(d.fd(), base, 0o700)
	case unix.S_IFLNK:
		err = unix.Symlinkat(string(e.Link), d.fd(), base)
	case unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK:
		err = unix.Mknodat(d.fd(), base, kind|0o600, int(e.Rdev))
	default:
		err = fmt.Errorf("the stream is damaged: a file of the unknown type %o", kind)
	}
	if err != nil {
		return nil, err
	}
	return d.open(base, unix.O_PATH)
}

// patched opens the file that is to be changed in place.
func patched(d dir, base string, e *entry, old uint32) (*os.File, error) {
	if e.Mode&unix.S_IFMT != unix.S_IFREG || old&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("the stream changes a file that is not there")
	}
	f, err := d.open(base, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(e.Size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// link gives a file that came before another name.
func (r *receiver) link(d dir, base string, to []byte) error {
	target, err := safePath(to)
	if err != nil {
		return err
	}
	from := walker{root: r.walker.root}
	defer from.close()
	fd, name, err := from.parent(target)
	if err != nil {
		return err
	}
	st, err := fd.stat(name)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return errors.New("the stream links to a directory")
	}
	if old, err := d.stat(base); err == nil && old.Ino == st.Ino {
		return nil
	}
	if err := d.remove(base); err != nil {
		return err
	}
	return unix.Linkat(fd.fd(), name, d.fd(), base, 0)
}

// finish sets what the current file has beside its data, in the order in which the kernel keeps all of it, and closes
// it.
func (r *receiver) finish() error {
	if r.cur.f == nil {
		return nil
	}
	defer r.forget()
	e, f := &r.cur.entry, r.cur.f
	kind := e.Mode & unix.S_IFMT
	err := unix.Fchownat(int(f.Fd()), "", int(e.UID), int(e.GID), unix.AT_EMPTY_PATH)
	if err == nil && kind != unix.S_IFLNK {
		err = unix.Chmod(itself(f), e.Mode&0o7777)
	}
	if err == nil {
		err = setXattrs(f, r.cur.attrs)
	}
	if err == nil && kind == unix.S_IFDIR {
		r.times[string(e.Path)] = e.MTime
	} else if err == nil {
		err = setTime(f, e.MTime)
	}
	if err == nil {
		err = r.complete(f)
	}
	if err != nil {
		return fmt.Errorf("set the attributes of %q: %w", e.Path, err)
	}
	return nil
}

func (r *receiver) forget() {
	if r.cur.f != nil {
		r.cur.f.Close()
	}
	r.cur = current{}
}

// setTime sets the time of modification, in nanoseconds; that of access becomes the same.
func setTime(f *os.File, ns int64) error {
	t := unix.NsecToTimespec(ns)
	return unix.UtimesNanoAt(int(f.Fd()), "", []unix.Timespec{t, t}, unix.AT_EMPTY_PATH)
}
