package migrate

import (
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Disk is the file system that journals, checkpoints and layers are on. What was written survives a loss of power only
// after a Sync of the file; a new name, only after a Sync of its folder.
type Disk interface {
	// Boot names the kernel's current boot, whose end may have cost what was not synced; empty when it is not known.
	Boot() string
	// Open opens a file, or a folder, as os.OpenFile does.
	Open(name string, flag int, perm fs.FileMode) (File, error)
	Rename(from, to string) error
	MkdirAll(name string, perm fs.FileMode) error
	RemoveAll(name string) error
}

// File is an open file or folder.
type File interface {
	fs.ReadDirFile
	io.Writer
	Sync() error
	// SyncAll does it for everything on the file system that the file is on.
	SyncAll() error
}

// LocalDisk is this host's.
type LocalDisk struct{}

// Boot implements Disk.
func (LocalDisk) Boot() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Open implements Disk.
func (LocalDisk) Open(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return localFile{f}, nil
}

// Rename implements Disk.
func (LocalDisk) Rename(from, to string) error { return os.Rename(from, to) }

// MkdirAll implements Disk.
func (LocalDisk) MkdirAll(name string, perm fs.FileMode) error { return os.MkdirAll(name, perm) }

// RemoveAll implements Disk.
func (LocalDisk) RemoveAll(name string) error { return os.RemoveAll(name) }

type localFile struct{ *os.File }

func (f localFile) SyncAll() error { return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd()))) }

// readFile reads a whole small file.
func readFile(d Disk, name string) ([]byte, error) {
	f, err := d.Open(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
