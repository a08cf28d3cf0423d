// Package inside reads and writes files of a container from outside. It owns the rules for that: every path means what it
// means inside, links in it never lead out of the container's root, and owners are those that the container sees.
//
// The one rule for callers: the container may change anything meanwhile, so nothing is trusted from one call to the next.
package inside

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// Root is the root of a container.
type Root struct {
	dir  *os.File
	base uint32 // what the container's uid 0 is outside
}

// Open opens the root that is mounted at dir, or that a process has (/proc/PID/root), of a container whose ids begin at base.
func Open(dir string, base uint32) (*Root, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the container's root: %w", err)
	}
	return &Root{f, base}, nil
}

// Close closes it.
func (r *Root) Close() error { return r.dir.Close() }

// clean makes a path relative to the root; "" and "/" are the root itself. What follows a link is still resolved by the kernel.
func clean(name string) string {
	if name = path.Clean("/" + name)[1:]; name == "" {
		return "."
	}
	return name
}

// at opens a path inside the root, wherever links lead within it. With O_NOFOLLOW its last part may be a link itself.
func (r *Root) at(name string, flags int, mode uint32) (*os.File, error) {
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(int(r.dir.Fd()), name, how)
		if err == unix.EAGAIN || err == unix.EINTR { // something was renamed meanwhile
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: "/" + strings.TrimPrefix(name, "."), Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// folder opens a folder to work in; missing ones are made if make is set.
func (r *Root) folder(name string, create bool) (*os.File, error) {
	f, err := r.at(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if !create || !errors.Is(err, fs.ErrNotExist) || name == "." {
		return f, err
	}
	parent, err := r.folder(path.Dir(name), true)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if err := unix.Mkdirat(int(parent.Fd()), path.Base(name), 0o755); err == nil {
		err = unix.Fchownat(int(parent.Fd()), path.Base(name), int(r.base), int(r.base), unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return nil, &os.PathError{Op: "chown", Path: "/" + name, Err: err}
		}
	} else if err != unix.EEXIST {
		return nil, &os.PathError{Op: "mkdir", Path: "/" + name, Err: err}
	}
	return r.at(name, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// regular opens a plain file of a folder for reading; whatever else has the name is not opened.
func regular(folder *os.File, name string) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := unix.Openat(int(folder.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, st, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st, &os.PathError{Op: "open", Path: name, Err: errors.New("it is no plain file")}
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY|unix.O_NONBLOCK, 0)
	return f, st, err
}

// maxFile bounds what is read of a file that is going to be edited.
const maxFile = 4 << 20

// read returns a plain file of the root, with its mode and owner; fs.ErrNotExist when there is none.
func (r *Root) read(name string) ([]byte, unix.Stat_t, error) {
	parent, err := r.folder(path.Dir(clean(name)), false)
	if err != nil {
		return nil, unix.Stat_t{}, err
	}
	defer parent.Close()
	f, st, err := regular(parent, path.Base(name))
	if err != nil {
		return nil, st, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	return b, st, err
}

// replace writes a file as a whole, in one step, in place of whatever has the name now; ids are those inside.
func (r *Root) replace(name string, content []byte, mode os.FileMode, uid, gid int) error {
	name = clean(name)
	parent, err := r.folder(path.Dir(name), true)
	if err != nil {
		return err
	}
	defer parent.Close()
	return r.replaceIn(parent, path.Base(name), content, mode, uid, gid)
}

// replaceIn is replace in an open folder.
func (r *Root) replaceIn(parent *os.File, name string, content []byte, mode os.FileMode, uid, gid int) error {
	half := name + ".vzcluster-new"
	f, err := r.create(parent, half)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chown(r.outer(uid), r.outer(gid)), f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = unix.Renameat(int(parent.Fd()), half, int(parent.Fd()), name)
	}
	if err != nil {
		_ = unix.Unlinkat(int(parent.Fd()), half, 0)
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// create makes a new file in a folder, in place of whatever has the name unless that is a folder.
func (r *Root) create(parent *os.File, name string) (*os.File, error) {
	if err := unix.Unlinkat(int(parent.Fd()), name, 0); err != nil && err != unix.ENOENT {
		return nil, &os.PathError{Op: "replace", Path: name, Err: err}
	}
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// inner turns an id of this host into the container's; what is outside of its range is nobody.
func (r *Root) inner(id uint32) int {
	const nobody = 65534
	if id < r.base || id-r.base >= runtime.UIDs {
		return nobody
	}
	return int(id - r.base)
}

// outer is the opposite of inner.
func (r *Root) outer(id int) int {
	if id < 0 || id >= runtime.UIDs {
		return int(r.base)
	}
	return int(r.base) + id
}
