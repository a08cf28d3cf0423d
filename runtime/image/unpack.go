package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// Bounds of what one entry may carry beside its data.
const (
	maxXattr  = 64 << 10 // bytes of one value, as much as the kernel takes
	maxXattrs = 64
)

// unpacker writes the entries of an archive into a tree. Parents are opened without following any link, and the last
// part of a name is never followed either: nothing can be written outside.
type unpacker struct {
	root    *os.File
	dirs    map[string]time.Time // modification times, to be set when nothing is written into them any more
	parent  *os.File             // the last parent that was opened; entries come sorted by directory
	name    string               // of parent
	bytes   int64
	entries int
	limits  ImportOptions
}

// unpack reads a tar archive to its end into a new directory.
func unpack(r io.Reader, tree string, o ImportOptions) error {
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	root, err := os.Open(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Chmod(0o755); err != nil { // whatever the umask is
		return err
	}
	u := &unpacker{root: root, dirs: map[string]time.Time{}, limits: o}
	defer u.forget()
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, tar.ErrHeader) {
			return fmt.Errorf("the archive is damaged after %d entries: %w", u.entries, err)
		}
		if err != nil {
			return err
		}
		if err := u.entry(h, in); err != nil {
			return err
		}
	}
	if u.entries == 0 {
		return errors.New("the archive holds no files")
	}
	return u.times()
}

// entry writes one entry.
func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	name, err := u.check(h)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeXGlobalHeader || strings.HasPrefix(name, "dev/") {
		return nil // every template gets a /dev of ours
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the archive's root is no directory")
		}
		u.dirs["."] = h.ModTime
		return attributes(u.root, h)
	}
	dir, base, err := u.open(name)
	if err != nil {
		return err
	}
	if err := u.make(dir, base, h, r); errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("the disk is full: %w", err)
	} else if err != nil {
		return fmt.Errorf("entry %q: %w", h.Name, err)
	}
	return nil
}

// check refuses what no template may hold, and returns the clean name.
func (u *unpacker) check(h *tar.Header) (string, error) {
	u.entries++
	u.bytes += h.Size
	name := path.Clean(h.Name)
	switch {
	case u.entries > u.limits.MaxEntries:
		return "", fmt.Errorf("the archive holds more than %d entries", u.limits.MaxEntries)
	case h.Size < 0 || u.bytes > u.limits.MaxBytes:
		return "", fmt.Errorf("the archive's files are larger than %d bytes together", u.limits.MaxBytes)
	case path.IsAbs(h.Name):
		return "", fmt.Errorf("the archive holds the absolute path %q: pack it relative to its root", h.Name)
	case slices.Contains(strings.Split(h.Name, "/"), ".."):
		return "", fmt.Errorf("the archive holds the path %q, which leads out of it", h.Name)
	case strings.ContainsRune(h.Name, 0) || len(h.Name) > 4096:
		return "", fmt.Errorf("the archive holds a path that no file can have: %.100q", h.Name)
	case h.Uid < 0 || h.Uid >= runtime.UIDs || h.Gid < 0 || h.Gid >= runtime.UIDs:
		return "", fmt.Errorf("%q has the owner %d:%d: a template's owners are 0 to %d", h.Name, h.Uid, h.Gid, runtime.UIDs-1)
	case h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock:
		standard := []string{"console", "full", "null", "ptmx", "random", "tty", "urandom", "zero"}
		if h.Typeflag == tar.TypeChar && path.Dir(name) == "dev" && slices.Contains(standard, path.Base(name)) {
			break
		}
		return "", fmt.Errorf("the archive holds the device %q: a template may have none but the standard ones in /dev", h.Name)
	}
	return name, nil
}

// open returns the directory that an entry lies in, and makes it when the archive did not.
func (u *unpacker) open(name string) (*os.File, string, error) {
	dir, base := path.Dir(name), path.Base(name)
	if dir == u.name && u.parent != nil {
		return u.parent, base, nil
	}
	f, err := openBeneath(u.root, dir)
	if errors.Is(err, unix.ENOENT) {
		above, last, err2 := u.open(dir)
		if err2 != nil {
			return nil, "", err2
		}
		if err := unix.Mkdirat(int(above.Fd()), last, 0o755); err != nil {
			return nil, "", fmt.Errorf("entry %q: make its directory: %w", name, err)
		}
		if f, err = openBeneath(u.root, dir); err == nil {
			err = f.Chmod(0o755)
		}
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EXDEV) {
		return nil, "", fmt.Errorf("the archive writes %q through a link or a file", name)
	}
	if err != nil {
		return nil, "", fmt.Errorf("entry %q: open its directory: %w", name, err)
	}
	u.forget()
	u.parent, u.name = f, dir
	return f, base, nil
}

func (u *unpacker) forget() {
	if u.parent != nil {
		u.parent.Close()
		u.parent = nil
	}
}

// openBeneath opens a directory of a tree, following no link at all.
func openBeneath(root *os.File, name string) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	fd, err := unix.Openat2(int(root.Fd()), name, &how)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// make makes the file, directory or link itself.
func (u *unpacker) make(dir *os.File, base string, h *tar.Header, r io.Reader) error {
	at := int(dir.Fd())
	if h.Typeflag == tar.TypeDir {
		return u.directory(dir, base, h)
	}
	if err := unix.Unlinkat(at, base, 0); errors.Is(err, unix.EISDIR) {
		return errors.New("it replaces a directory of the same archive")
	} else if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return regular(dir, base, h, r)
	case tar.TypeLink:
		return u.hardlink(dir, base, h.Linkname)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, at, base); err != nil {
			return err
		}
	case tar.TypeFifo:
		if err := unix.Mknodat(at, base, unix.S_IFIFO, 0); err != nil {
			return err
		}
		if err := unix.Fchmodat(at, base, uint32(h.Mode&0o777), 0); err != nil {
			return err
		}
	default:
		return fmt.Errorf("its type %q is unknown", h.Typeflag)
	}
	if err := unix.Fchownat(at, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return setTime(at, base, h.ModTime)
}

func (u *unpacker) directory(dir *os.File, base string, h *tar.Header) error {
	at := int(dir.Fd())
	err := unix.Mkdirat(at, base, 0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	f, err := openBeneath(dir, base)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) { // a later entry wins over an earlier one
		if err = errors.Join(unix.Unlinkat(at, base, 0), unix.Mkdirat(at, base, 0o700)); err == nil {
			f, err = openBeneath(dir, base)
		}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	u.dirs[path.Clean(h.Name)] = h.ModTime
	return attributes(f, h)
}

// regular writes a file with its data.
func regular(dir *os.File, base string, h *tar.Header, r io.Reader) error {
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	_, err = io.Copy(f, r)
	if err == nil {
		err = attributes(f, h)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return setTime(int(dir.Fd()), base, h.ModTime)
}

// hardlink links to a file that is already there, inside.
func (u *unpacker) hardlink(dir *os.File, base, target string) error {
	clean := path.Clean(target)
	if path.IsAbs(target) || slices.Contains(strings.Split(target, "/"), "..") {
		return fmt.Errorf("it is a link to %q, which leads out of the archive", target)
	}
	from, err := openBeneath(u.root, path.Dir(clean))
	if err != nil {
		return fmt.Errorf("it is a link to %q, which is not in the archive", target)
	}
	defer from.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(from.Fd()), path.Base(clean), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Errorf("it is a link to %q, which is no file of the archive", target)
	}
	return unix.Linkat(int(from.Fd()), path.Base(clean), int(dir.Fd()), base, 0)
}

// attributes sets owner, mode and extended attributes, in the order in which the kernel keeps all of them.
func attributes(f *os.File, h *tar.Header) error {
	if err := unix.Fchown(int(f.Fd()), h.Uid, h.Gid); err != nil {
		return err
	}
	if err := unix.Fchmod(int(f.Fd()), uint32(h.Mode&0o7777)); err != nil {
		return err
	}
	n := 0
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		value := h.PAXRecords[key]
		if n++; n > maxXattrs || len(value) > maxXattr || len(name) > 255 {
			return errors.New("it has too many or too large extended attributes")
		}
		if err := unix.Fsetxattr(int(f.Fd()), name, []byte(value), 0); err != nil {
			return fmt.Errorf("set its attribute %s: %w", name, err)
		}
	}
	return nil
}

// times sets the directories' times, when nothing changes them any more.
func (u *unpacker) times() error {
	u.forget()
	for name, t := range u.dirs {
		f, err := openBeneath(u.root, name)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue // a later entry replaced it
		}
		if err == nil {
			err = errors.Join(setTime(int(f.Fd()), "", t), f.Close())
		}
		if err != nil {
			return fmt.Errorf("directory %q: %w", name, err)
		}
	}
	return nil
}

// setTime sets the modification time of base in the directory at; of the directory itself when base is empty.
func setTime(at int, base string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return nil // a time that the kernel cannot hold is not worth refusing the archive
	}
	if ts.Sec < 0 {
		ts = unix.Timespec{}
	}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if base == "" {
		flags = unix.AT_EMPTY_PATH
	}
	return unix.UtimesNanoAt(at, base, []unix.Timespec{ts, ts}, flags)
}
