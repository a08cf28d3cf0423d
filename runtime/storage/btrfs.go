package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// pool keeps directories as subvolumes of a btrfs of its own: each has a quota group, and copies are instant and share
// what neither of them changes.
type pool struct {
	dir string // where it is mounted
	sys string // its folder in /sys/fs/btrfs
}

// openPool mounts the pool, and makes it when there is none.
func openPool(c Config) (*pool, error) {
	fail := func(err error) (*pool, error) {
		return nil, fmt.Errorf("open the btrfs pool of this host: %w", err)
	}
	if c.Pool == "" {
		return fail(errors.New("storage.pool is empty"))
	}
	if mounted, err := mountinfo.Mounted(c.Dir); err != nil {
		return fail(err)
	} else if !mounted {
		if err := mountPool(c); err != nil {
			return fail(err)
		}
	}
	p := &pool{dir: c.Dir}
	if err := p.enable(); err != nil {
		return fail(err)
	}
	if err := p.fit(c); err != nil {
		return fail(err)
	}
	return p, os.Chmod(c.Dir, 0o711)
}

func mountPool(c Config) error {
	const options = "discard=async"
	st, err := os.Stat(c.Pool)
	if err == nil && st.Mode()&fs.ModeDevice != 0 {
		if err := unix.Mount(c.Pool, c.Dir, "btrfs", 0, options); !errors.Is(err, unix.EINVAL) {
			return err
		}
		if err := run("mkfs.btrfs", "-q", c.Pool); err != nil { // it refuses a device that holds something
			return err
		}
		return unix.Mount(c.Pool, c.Dir, "btrfs", 0, options)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = makePool(c)
	}
	if err != nil {
		return err
	}
	return mountFile(c.Pool, c.Dir, "btrfs", options)
}

// makePool makes the file that the pool lies in.
func makePool(c Config) (err error) {
	size, err := poolSize(c)
	if err != nil {
		return err
	}
	half := c.Pool + ".new"
	f, err := os.OpenFile(half, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(half)
		}
	}()
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	// The file system below it cares for its metadata as well as a second copy could.
	if err := run("mkfs.btrfs", "-q", "-K", "-m", "single", half); err != nil {
		return err
	}
	return os.Rename(half, c.Pool)
}

func poolSize(c Config) (int64, error) {
	if c.Size > 0 {
		return c.Size / mib * mib, nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(c.Pool), &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize / 10 * 9 / mib * mib, nil
}

// fit makes a pool in a file larger when it is configured to be.
func (p *pool) fit(c Config) error {
	st, err := os.Stat(c.Pool)
	if err != nil || !st.Mode().IsRegular() || c.Size/mib*mib <= st.Size() {
		return err
	}
	dev, err := attach(c.Pool)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := errors.Join(os.Truncate(c.Pool, c.Size/mib*mib), unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_CAPACITY, 0)); err != nil {
		return err
	}
	args := volume{}
	copy(args.Name[:], "max")
	return p.ioctl(p.dir, btrfsResize, &args)
}

// enable switches quota groups on.
func (p *pool) enable() error {
	var info fsInfo
	if err := p.ioctl(p.dir, btrfsInfo, &info); err != nil {
		return fmt.Errorf("%s is no btrfs: %w", p.dir, err)
	}
	u := info.ID
	p.sys = fmt.Sprintf("/sys/fs/btrfs/%x-%x-%x-%x-%x/qgroups", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	if _, err := os.Stat(p.sys); errors.Is(err, fs.ErrNotExist) {
		if err := p.ioctl(p.dir, btrfsQuota, &quota{Command: quotaEnable}); err != nil {
			return fmt.Errorf("switch quotas on: %w", err)
		}
	}
	// By default the kernel gives up counting when a large subvolume is deleted. Older ones have no such file.
	err := os.WriteFile(filepath.Join(p.sys, "drop_subtree_threshold"), []byte("8"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (p *pool) unmount() error { return unmount(p.dir) }

// ioctl does something with a directory of the pool.
func (p *pool) ioctl(dir string, request uintptr, arg any) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return ioctl(d, request, arg)
}

// Create implements runtime.Storage.
func (p *pool) Create(dir string, limit runtime.Space) error {
	if is, err := subvolume(dir); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	} else if is {
		return nil
	}
	var args volume
	if copy(args.Name[:len(args.Name)-1], filepath.Base(dir)) == 0 {
		return fmt.Errorf("make %s: %w", dir, fs.ErrInvalid)
	}
	if err := p.ioctl(filepath.Dir(dir), btrfsCreate, &args); err != nil {
		return fmt.Errorf("make the subvolume %s: %w", dir, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	return p.set(dir, limit.Bytes)
}

// subvolume says whether a directory is one; a missing one is not. One that is no subvolume is an error.
func subvolume(dir string) (bool, error) {
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil && st.Ino != btrfsTop {
		err = errors.New("it is a plain directory, no subvolume")
	}
	return err == nil, err
}

// Close implements runtime.Storage.
func (*pool) Close(string) error { return nil }

// Limit implements runtime.Storage.
func (p *pool) Limit(dir string, limit runtime.Space, _ bool) error {
	if now, err := p.limit(dir); err != nil || now == limit.Bytes {
		return err
	}
	if limit.Bytes > 0 {
		if u, err := p.Usage(dir); err != nil {
			return err
		} else if u.Bytes > limit.Bytes {
			return tooSmall(u.Bytes, limit.Bytes)
		}
	}
	return p.set(dir, limit.Bytes)
}

// set limits what a subvolume refers to.
func (p *pool) set(dir string, bytes int64) error {
	id, err := p.id(dir)
	if err != nil {
		return err
	}
	q := quotaLimit{Group: id, Flags: quotaReferenced, Referenced: math.MaxUint64} // which is none
	if bytes > 0 {
		q.Referenced = uint64(bytes)
	}
	if err := p.ioctl(p.dir, btrfsLimit, &q); err != nil {
		return fmt.Errorf("limit %s: %w", dir, err)
	}
	return nil
}

// id is the number of the subvolume that a directory is.
func (p *pool) id(dir string) (uint64, error) {
	if is, err := subvolume(dir); err != nil || !is {
		return 0, fmt.Errorf("%s is no subvolume: %w", dir, errors.Join(err, fs.ErrNotExist))
	}
	args := lookup{Object: btrfsTop}
	if err := p.ioctl(dir, btrfsLookup, &args); err != nil {
		return 0, fmt.Errorf("look up the subvolume %s: %w", dir, err)
	}
	return args.Tree, nil
}

// Usage implements runtime.Storage. The kernel counts when it writes to disk, so that is waited for.
func (p *pool) Usage(dir string) (u runtime.DiskUsage, err error) {
	id, err := p.id(dir)
	if err != nil {
		return u, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return u, err
	}
	if err := errors.Join(unix.Syncfs(int(d.Fd())), d.Close()); err != nil {
		return u, fmt.Errorf("measure %s: %w", dir, err)
	}
	for name, to := range map[string]*int64{"referenced": &u.Bytes, "exclusive": &u.Own} {
		b, err := os.ReadFile(filepath.Join(p.sys, fmt.Sprintf("0_%d", id), name))
		if err == nil {
			*to, err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		}
		if err != nil {
			return u, fmt.Errorf("measure %s: %w", dir, err)
		}
	}
	return u, nil
}

// Copy implements runtime.Storage: it is a snapshot, which has the limit of the original. What is no subvolume came from
// another host, and is copied file by file.
func (p *pool) Copy(from, to string) error {
	if is, _ := subvolume(from); !is {
		return copyFiles(p, from, to, runtime.Space{})
	}
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, fs.ErrExist)
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	args := snapshot{Source: int64(src.Fd())}
	copy(args.Name[:len(args.Name)-1], filepath.Base(to))
	if err := p.ioctl(filepath.Dir(to), btrfsSnapshot, &args); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	limit, err := p.limit(from)
	if err != nil {
		return err
	}
	return p.set(to, limit)
}

// limit reads the limit of a subvolume back.
func (p *pool) limit(dir string) (int64, error) {
	id, err := p.id(dir)
	if err != nil {
		return 0, err
	}
	b, err := os.ReadFile(filepath.Join(p.sys, fmt.Sprintf("0_%d", id), "max_referenced"))
	if err != nil {
		return 0, fmt.Errorf("read the limit of %s: %w", dir, err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n > math.MaxInt64 { // "none" in the kernel's words
		return 0, nil //nolint:nilerr // there is no limit
	}
	return int64(n), nil
}

// Rename implements runtime.Storage.
func (*pool) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements runtime.Storage. The kernel frees the space in the background.
func (p *pool) Remove(dir string) error {
	if is, err := subvolume(dir); err != nil || !is {
		return p.removeTree(dir)
	}
	id, err := p.id(dir)
	if err != nil {
		return err
	}
	var args volume
	copy(args.Name[:len(args.Name)-1], filepath.Base(dir))
	if err := p.ioctl(filepath.Dir(dir), btrfsDestroy, &args); err != nil {
		return fmt.Errorf("delete the subvolume %s: %w", dir, err)
	}
	// Recent kernels delete the group themselves, when the space is free.
	_ = p.ioctl(p.dir, btrfsGroup, &quotaGroup{Group: id})
	return nil
}

// removeTree deletes a plain folder, with the subvolumes in it as such: file by file it would take long.
func (p *pool) removeTree(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if is, _ := subvolume(path); !is {
			return nil
		}
		return errors.Join(p.Remove(path), fs.SkipDir)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", dir, err)
	}
	return os.RemoveAll(dir)
}

// Traits implements runtime.Storage.
func (*pool) Traits() runtime.StorageTraits {
	return runtime.StorageTraits{Driver: Btrfs, Bytes: true, Instant: true}
}
