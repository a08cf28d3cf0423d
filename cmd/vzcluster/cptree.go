package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	slash "path"
	"path/filepath"
	"strings"
)

// packTree writes a file or folder of this machine as a tar archive, whose names begin with its own.
func packTree(from string, w io.Writer) error {
	from, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	err = filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return packEntry(tw, filepath.Dir(from), p, d)
	})
	return errors.Join(err, tw.Close())
}

// packEntry leaves sockets and devices out.
func packEntry(tw *tar.Writer, top, p string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(p); err != nil {
			return err
		}
	}
	if info.Mode()&(fs.ModeSocket|fs.ModeDevice) != 0 {
		return nil
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	if h.Name, err = filepath.Rel(top, p); err != nil {
		return err
	}
	h.Uname, h.Gname, h.Format = "", "", tar.FormatPAX
	if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(tw, f, h.Size)
	return err
}

// unpackTree makes what is in an archive that a container has sent: nothing outside of root is touched, whatever it says.
// With a name, that takes the place of the archive's first one.
func unpackTree(root *os.Root, name string, archive io.Reader, owners bool) error {
	tr := tar.NewReader(archive)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		entry := slash.Clean("/" + h.Name)[1:]
		if name != "" {
			_, rest, _ := strings.Cut(entry, "/")
			entry = slash.Join(name, rest)
		}
		if entry == "" {
			continue
		}
		if err := unpackEntry(root, entry, h, tr); err != nil {
			return fmt.Errorf("write %s: %w", entry, err)
		}
		if owners {
			if err := root.Lchown(entry, h.Uid, h.Gid); err != nil {
				return err
			}
		}
	}
}

func unpackEntry(root *os.Root, entry string, h *tar.Header, content io.Reader) error {
	mode := fs.FileMode(h.Mode).Perm()
	if h.Typeflag == tar.TypeDir {
		if err := root.MkdirAll(entry, 0o755); err != nil {
			return err
		}
		return root.Chmod(entry, mode|0o700) // so that what is in it can be written
	}
	if dir := slash.Dir(entry); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := root.Remove(entry); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, entry)
	case tar.TypeReg:
		f, err := root.OpenFile(entry, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Chmod(mode), f.Close(), root.Chtimes(entry, h.ModTime, h.ModTime))
	}
	return nil // a pipe is of no use here
}
