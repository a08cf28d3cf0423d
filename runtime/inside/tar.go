package inside

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// Find implements runtime.Inside; the last part of the path is not followed when that is a link.
func (r *Root) Find(name string) error {
	f, err := r.at(clean(name), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// Pack writes a file or folder of the container as a tar archive, whose names begin with the path's last part. Owners are
// those that the container sees; sockets and devices are left out. A link is packed as one; with a slash at the end of the
// name, what it leads to is.
func (r *Root) Pack(name string, w io.Writer) error {
	tw := tar.NewWriter(w)
	top := clean(name)
	if strings.HasSuffix(name, "/") || top == "." {
		f, err := r.at(top, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := r.packFolder(tw, f, strings.TrimPrefix(path.Base(top), ".")); err != nil {
			return err
		}
		return tw.Close()
	}
	parent, err := r.folder(path.Dir(top), false)
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := r.pack(tw, parent, path.Base(top), path.Base(top)); err != nil {
		return err
	}
	return tw.Close()
}

// pack writes one entry of a folder, and what is below it.
func (r *Root) pack(tw *tar.Writer, parent *os.File, name, as string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(parent.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: as, Err: err}
	}
	h := r.header(as, st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		fd, err := unix.Openat(int(parent.Fd()), name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: as, Err: err}
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		return r.packFolder(tw, f, as)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(parent.Fd()), name, buf)
		if err != nil {
			return &os.PathError{Op: "readlink", Path: as, Err: err}
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(buf[:n])
		return tw.WriteHeader(h)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
		return tw.WriteHeader(h)
	case unix.S_IFREG:
		return r.packFile(tw, parent, name, as)
	}
	return nil
}

// packFile writes a plain file. One that shrinks meanwhile is an error: an archive says beforehand how much comes.
func (r *Root) packFile(tw *tar.Writer, parent *os.File, name, as string) error {
	f, st, err := regular(parent, name)
	if err != nil {
		return err
	}
	defer f.Close()
	h := r.header(as, st)
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(tw, io.LimitReader(f, st.Size))
	if err == nil && n < st.Size {
		err = fmt.Errorf("%s became shorter while it was read", as)
	}
	return err
}

// packFolder writes an open folder, whose name may be empty for the root itself, and what is in it.
func (r *Root) packFolder(tw *tar.Writer, folder *os.File, as string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(folder.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: as, Err: err}
	}
	if as != "" {
		h := r.header(as+"/", st)
		h.Typeflag = tar.TypeDir
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
	}
	list, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", folder.Fd()))
	if err != nil {
		return err
	}
	names, err := list.Readdirnames(-1)
	list.Close()
	if err != nil {
		return &os.PathError{Op: "list", Path: as, Err: err}
	}
	for _, name := range names {
		if err := r.pack(tw, folder, name, path.Join(as, name)); err != nil && !errors.Is(err, os.ErrNotExist) { // deleted meanwhile
			return err
		}
	}
	return nil
}

func (r *Root) header(name string, st unix.Stat_t) *tar.Header {
	return &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: r.inner(st.Uid), Gid: r.inner(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
}

// Unpack puts what is in a tar archive below a folder of the container. The folder must be there, unless o.Rename is set: then
// the archive's first name becomes the path's last part. Owners are those of the archive, or root's. What has the same name
// is replaced, but a folder by nothing but a folder.
func (r *Root) Unpack(name string, archive io.Reader, o runtime.UnpackOptions) error {
	top, first := clean(name), ""
	if st, err := r.at(top, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
		st.Close()
	} else if o.Rename && !strings.HasSuffix(name, "/") {
		top, first = path.Dir(top), path.Base(top)
	}
	into, err := r.folder(top, false)
	if err != nil {
		return err
	}
	into.Close()
	place := func(name string) string {
		entry := clean(name)
		if first != "" {
			_, rest, _ := strings.Cut(entry, "/")
			entry = path.Join(first, rest)
		}
		return path.Join(top, entry)
	}
	tr := tar.NewReader(archive)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		if clean(h.Name) == "." {
			continue
		}
		if o.AsRoot {
			h.Uid, h.Gid = 0, 0
		}
		h.Linkname = linkPlace(h, place)
		if err := r.unpack(place(h.Name), h, tr); err != nil {
			return fmt.Errorf("write /%s: %w", place(h.Name), err)
		}
	}
}

// linkPlace is what a link leads to: a hard link names an entry of the archive.
func linkPlace(h *tar.Header, place func(string) string) string {
	if h.Typeflag == tar.TypeLink {
		return place(h.Linkname)
	}
	return h.Linkname
}

// unpack makes one entry of an archive.
func (r *Root) unpack(name string, h *tar.Header, content io.Reader) error {
	parent, err := r.folder(path.Dir(name), true)
	if err != nil {
		return err
	}
	defer parent.Close()
	base, mode := path.Base(name), uint32(h.Mode)&0o7777
	fd := int(parent.Fd())
	remove := func() error {
		if err := unix.Unlinkat(fd, base, 0); err != nil && err != unix.ENOENT {
			return err
		}
		return nil
	}
	switch h.Typeflag {
	case tar.TypeDir:
		f, err := r.folder(name, true) // through a link, if that is what leads there
		if err != nil {
			return err
		}
		defer f.Close()
		own := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		return errors.Join(os.Chown(own, r.outer(h.Uid), r.outer(h.Gid)), unix.Chmod(own, mode))
	case tar.TypeReg:
		f, err := r.create(parent, base)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		own := f.Chown(r.outer(h.Uid), r.outer(h.Gid)) // before the mode: it takes setuid away
		return errors.Join(err, own, unix.Fchmod(int(f.Fd()), mode), touch(f, h.ModTime), f.Close())
	case tar.TypeSymlink:
		if err := errors.Join(remove(), unix.Symlinkat(h.Linkname, fd, base)); err != nil {
			return err
		}
	case tar.TypeFifo:
		if err := errors.Join(remove(), unix.Mkfifoat(fd, base, mode)); err != nil {
			return err
		}
	case tar.TypeLink:
		old, err := r.folder(path.Dir(h.Linkname), false)
		if err != nil {
			return err
		}
		defer old.Close()
		return errors.Join(remove(), unix.Linkat(int(old.Fd()), path.Base(h.Linkname), fd, base, 0))
	default:
		return errors.New("it is a device or something else that is not copied into a container")
	}
	return unix.Fchownat(fd, base, r.outer(h.Uid), r.outer(h.Gid), unix.AT_SYMLINK_NOFOLLOW)
}

func touch(f *os.File, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(int(f.Fd()), "", []unix.Timespec{ts, ts}, unix.AT_EMPTY_PATH)
}
