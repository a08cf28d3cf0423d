// Package storage keeps directories that can be given a limit, copied and thrown away: the private layers of one host's
// containers, and the snapshots of them. Three drivers do it: plain directories on any file system, which enforce
// nothing; an image with a file system of its own for each; and the subvolumes of a btrfs pool.
//
// It owns the images, the pool and their mounts, and knows nothing of what is in a directory. The one rule for callers:
// all directories lie below Config.Dir, and calls for the same directory do not overlap.
package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vzcluster/vzcluster/runtime"
)

// The drivers.
const (
	Overlay = "overlay" // plain directories
	Image   = "image"   // an ext4 image for each
	Btrfs   = "btrfs"   // subvolumes of a pool
)

// Drivers are the names that Config.Driver may have.
func Drivers() []string { return []string{Overlay, Image, Btrfs} }

// Config says where and how directories are kept.
type Config struct {
	Driver string // one of Drivers; empty: Overlay
	Dir    string // above all of them; a btrfs pool is mounted here
	// Of a btrfs pool: the device or the file that it lies in, and how large a file is made or grown to (0: nine tenths of
	// what is free beside it).
	Pool string
	Size int64
}

// marker, beside Config.Dir, names the driver that made what is there.
const marker = ".storage"

// Open makes a driver ready, its pool mounted. It refuses to begin with another driver while directories of a former one
// are there: they would not be seen.
func Open(c Config) (runtime.Storage, error) {
	if c.Driver == "" {
		c.Driver = Overlay
	}
	note := strings.TrimSuffix(c.Dir, "/") + marker
	before, err := os.ReadFile(note)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the storage: %w", err)
	}
	former := strings.TrimSpace(string(before))
	if former == "" { // made before there was a choice, or empty
		former = Overlay
	}
	if former != c.Driver {
		if err := refuseUsed(c, former); err != nil {
			return nil, err
		}
	}
	s, err := open(c)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(note, []byte(c.Driver+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("open the storage: %w", err)
	}
	return s, nil
}

func open(c Config) (runtime.Storage, error) {
	if err := os.MkdirAll(c.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("make the directory of containers: %w", err)
	}
	switch c.Driver {
	case Overlay:
		return plain{}, nil
	case Image:
		return images{}, nil
	case Btrfs:
		return openPool(c)
	}
	return nil, fmt.Errorf("there is no storage driver %q: use one of %s", c.Driver, strings.Join(Drivers(), ", "))
}

// refuseUsed says that containers of a former driver are here, if so.
func refuseUsed(c Config, former string) error {
	was := c
	if was.Driver = former; former == Btrfs {
		p, err := openPool(was)
		if err != nil {
			return fmt.Errorf("this host's containers were kept by the storage driver btrfs, and its pool cannot be opened to see whether there are any: %w", err)
		}
		defer p.unmount()
	}
	entries, err := os.ReadDir(c.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open the storage: %w", err)
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			return fmt.Errorf("storage.driver is %s, but container %s of this host is kept by %s: set it back, move the containers away, and change it then",
				c.Driver, e.Name(), former)
		}
	}
	return nil
}

// empty says whether a directory is missing or holds nothing.
func empty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0
}

// makeDir makes a directory for nobody else, whatever the umask is.
func makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// copyName is a copy that is not complete.
func copyName(to string) string { return filepath.Join(filepath.Dir(to), ".copy-"+filepath.Base(to)) }
