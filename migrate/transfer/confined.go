package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const maxPath = 4095 // bytes of a path, as the kernel has it

// dir is an open directory of a layer. Every name is looked up by the kernel below an open directory, without
// following any link.
type dir struct{ *os.File }

func (d dir) fd() int { return int(d.Fd()) }

func openRoot(name string) (dir, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	return dir{f}, err
}

// open opens what the name says, with flags. With O_PATH it opens a symbolic link itself.
func (d dir) open(name string, flags uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV}
	for {
		fd, err := unix.Openat2(d.fd(), name, &how)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) { // EAGAIN: something was renamed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// sub opens a directory.
func (d dir) sub(name string) (dir, error) {
	f, err := d.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	return dir{f}, err
}

// stat looks at a name in this directory, not following a link.
func (d dir) stat(base string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(d.fd(), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// remove deletes a name in this directory with everything below it; nothing there is fine.
func (d dir) remove(base string) error {
	err := unix.Unlinkat(d.fd(), base, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR):
		return err
	}
	below, err := d.sub(base)
	if err != nil {
		return err
	}
	defer below.Close()
	if err := below.empty(); err != nil {
		return err
	}
	return unix.Unlinkat(d.fd(), base, unix.AT_REMOVEDIR)
}

// empty deletes everything in this directory.
func (d dir) empty() error {
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := d.remove(n); err != nil {
			return fmt.Errorf("remove %q: %w", n, err)
		}
	}
	return nil
}

// walker opens parents; entries come directory by directory, so the last one is kept.
type walker struct {
	root dir
	last dir
	name string // of last, "" when there is none
}

// parent returns the directory that a path lies in, which stays open until the next call, and the path's last part.
func (w *walker) parent(p string) (dir, string, error) {
	name, base := path.Dir(p), path.Base(p)
	if w.name == name {
		return w.last, base, nil
	}
	d, err := w.root.sub(name)
	if err != nil {
		return dir{}, "", err
	}
	w.close()
	w.last, w.name = d, name
	return d, base, nil
}

func (w *walker) close() {
	if w.name != "" {
		w.last.Close()
		w.name = ""
	}
}

// safePath refuses a path that is not plain and relative.
func safePath(b []byte) (string, error) {
	p := string(b)
	parts := strings.Split(p, "/")
	bad := len(p) > maxPath || bytes.IndexByte(b, 0) >= 0 || slices.ContainsFunc(parts, func(s string) bool {
		return s == "" || s == ".." || s == "." && p != "." || len(s) > 255
	})
	if bad {
		return "", fmt.Errorf("the stream holds the path %.200q, which no layer may have", p)
	}
	return p, nil
}

// gone reports whether an error only says that a file vanished or became something else, as files of a running
// container do.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ESTALE)
}

// itself is a path to what a file is open on, usable for calls that take only paths and for links themselves.
func itself(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
