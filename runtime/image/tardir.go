package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// TarDir writes a directory of this machine as a tar archive that Import takes: numeric owners, extended attributes,
// hard links; no devices and no sockets. Two calls on the same tree write the same bytes.
func TarDir(ctx context.Context, dir string, w io.Writer) error {
	out := tar.NewWriter(w)
	first := map[[2]uint64]string{} // device and inode of files with several names
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		return tarEntry(out, p, "./"+strings.TrimPrefix(name, "."), first)
	})
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		return fmt.Errorf("pack %s: %w", dir, err)
	}
	return nil
}

func tarEntry(out *tar.Writer, p, name string, first map[[2]uint64]string) error {
	info, err := os.Lstat(p)
	if err != nil {
		return err
	}
	if info.Mode()&(fs.ModeDevice|fs.ModeSocket) != 0 {
		return nil
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(p); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	h.Name, h.Format, h.Uname, h.Gname = name, tar.FormatPAX, "", ""
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{} // they say nothing about the tree
	if info.IsDir() {
		h.Name = strings.TrimSuffix(name, "/") + "/"
	}
	if id := [2]uint64{uint64(st.Dev), st.Ino}; st.Nlink > 1 && info.Mode().IsRegular() {
		if to, ok := first[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, to, 0
			return out.WriteHeader(h)
		}
		first[id] = name
	}
	if err := tarXattrs(h, p); err != nil {
		return err
	}
	if err := out.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	f, err := os.OpenFile(p, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if n, err := io.CopyN(out, f, h.Size); err != nil {
		return fmt.Errorf("%s changed while it was read (%d of %d bytes): %w", p, n, h.Size, err)
	}
	return nil
}

// tarXattrs adds the extended attributes that unpack takes.
func tarXattrs(h *tar.Header, p string) error {
	n, err := unix.Llistxattr(p, nil)
	if err != nil || n == 0 {
		return nil // a file system without extended attributes
	}
	list := make([]byte, n)
	if n, err = unix.Llistxattr(p, list); err != nil {
		return fmt.Errorf("attributes of %s: %w", p, err)
	}
	for _, raw := range bytes.Split(list[:n], []byte{0}) {
		name := string(raw)
		if name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		value := make([]byte, maxXattr)
		n, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			return fmt.Errorf("attribute %s of %s: %w", name, p, err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+name] = string(value[:n])
	}
	return nil
}
