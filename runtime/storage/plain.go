package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// plain keeps directories on whatever file system they lie.
type plain struct{}

// Create implements runtime.Storage.
func (plain) Create(dir string, _ runtime.Space) error {
	if err := makeDir(dir); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	return nil
}

// Close implements runtime.Storage.
func (plain) Close(string) error { return nil }

// Limit implements runtime.Storage. A limit is only a reservation here.
func (plain) Limit(string, runtime.Space, bool) error { return nil }

// Usage implements runtime.Storage. It reads the whole tree.
func (plain) Usage(dir string) (u runtime.DiskUsage, err error) {
	seen := map[uint64]bool{} // files with several names
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was deleted meanwhile
		}
		if err != nil || seen[st.Ino] {
			return err
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			seen[st.Ino] = true
		}
		u.Bytes += st.Blocks * 512
		u.Files++
		return nil
	})
	if err != nil {
		return u, fmt.Errorf("measure %s: %w", dir, err)
	}
	u.Own = u.Bytes
	return u, nil
}

// Copy implements runtime.Storage.
func (p plain) Copy(from, to string) error { return copyFiles(p, from, to, runtime.Space{}) }

// Rename implements runtime.Storage.
func (plain) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements runtime.Storage.
func (plain) Remove(dir string) error { return os.RemoveAll(dir) }

// Traits implements runtime.Storage.
func (plain) Traits() runtime.StorageTraits { return runtime.StorageTraits{Driver: Overlay} }

// copyFiles copies file by file. What appears under the name is complete.
func copyFiles(s runtime.Storage, from, to string, limit runtime.Space) (err error) {
	half := copyName(to)
	if err := s.Remove(half); err != nil { // left by a crash
		return fmt.Errorf("copy %s: %w", from, err)
	}
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, fs.ErrExist)
	}
	if err := s.Create(half, limit); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Remove(half))
		}
	}()
	// Owners, times, links, holes, device files and all extended attributes, those of overlayfs included.
	out, err := exec.Command("cp", "--archive", "--reflink=auto", "--sparse=auto", "--no-target-directory", "--", from, half).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w: %s", from, to, err, lastLine(out))
	}
	f, err := os.Open(half)
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	if err := errors.Join(unix.Syncfs(int(f.Fd())), f.Close()); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return s.Rename(half, to)
}

// run runs a program of the file system's tools.
func run(name string, arg ...string) error {
	out, err := exec.Command(name, arg...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not installed: run `vzcluster setup`", name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, lastLine(out))
	}
	return nil
}

// lastLine is where these programs say what was wrong.
func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}
