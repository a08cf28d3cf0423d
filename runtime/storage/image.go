package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// images keeps each directory in a file system of its own, in a sparse file beside it that is mounted over it.
type images struct{}

// What an image takes besides the files, at most: a journal, and 1/60 of it for inodes and the like.
const (
	imageJournal = 4  // MiB
	imageExtra   = 8  // MiB, the journal included
	imageLeast   = 16 // MiB
	mib          = 1 << 20
)

// imageOptions: blocks that are freed inside are freed on the host; inode tables that were never used stay holes.
const imageOptions = "discard,noinit_itable,errors=remount-ro"

func imageFile(dir string) string { return dir + ".img" }

// imageSize is how large the image is that has room for a limit.
func imageSize(limit int64) int64 { return (limit+limit/60)/mib*mib + imageExtra*mib }

// Create implements runtime.Storage. Without a limit the image is as large as the disk beside it.
func (s images) Create(dir string, limit runtime.Space) error {
	if mounted, err := mountinfo.Mounted(dir); err == nil && mounted {
		return nil
	}
	if err := makeDir(dir); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	if _, err := os.Lstat(imageFile(dir)); errors.Is(err, fs.ErrNotExist) {
		if err := s.format(dir, limit); err != nil {
			return fmt.Errorf("make an image for %s: %w", dir, err)
		}
	} else if err != nil {
		return err
	}
	if err := mountFile(imageFile(dir), dir, "ext4", imageOptions); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// format makes the image.
func (images) format(dir string, limit runtime.Space) (err error) {
	if !empty(dir) {
		return errors.New("it holds files of another storage driver")
	}
	size := imageSize(limit.Bytes)
	if limit.Bytes == 0 {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return err
		}
		size = imageSize(int64(st.Bavail) * st.Bsize)
	}
	if limit.Bytes != 0 && limit.Bytes < imageLeast*mib {
		return fmt.Errorf("it needs %d MiB at least", imageLeast)
	}
	half := imageFile(dir) + ".new"
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
	inodes := []string{"-i", "16384"}
	if limit.Files > 0 {
		inodes = []string{"-N", strconv.FormatInt(limit.Files, 10)}
	}
	args := append(inodes, "-q", "-F", "-b", "4096", "-I", "256", "-m", "0", "-J", fmt.Sprintf("size=%d", imageJournal),
		"-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", half)
	if err := run("mkfs.ext4", args...); err != nil {
		return err
	}
	return os.Rename(half, imageFile(dir))
}

// Close implements runtime.Storage.
func (images) Close(dir string) error {
	if _, err := os.Lstat(imageFile(dir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return unmount(dir)
}

// Limit implements runtime.Storage: ext4 grows while it is mounted, and shrinks while it is not.
func (s images) Limit(dir string, limit runtime.Space, live bool) error {
	if err := s.files(dir, limit.Files); err != nil || limit.Bytes == 0 { // then it is as large as it is
		return err
	}
	st, err := os.Stat(imageFile(dir))
	if err != nil {
		return err
	}
	size := imageSize(limit.Bytes)
	switch {
	case size == st.Size():
		return nil
	case size > st.Size():
		err := grow(dir, size)
		if errors.Is(err, unix.EPERM) && !live {
			return s.offline(dir, size)
		}
		if errors.Is(err, unix.EPERM) {
			return runtime.Unable("the kernel lets only a process with CAP_SYS_RESOURCE make a file system larger that is in use: stop the container first")
		}
		return err
	case live:
		return runtime.Unable("the image of a running container cannot be made smaller: stop it first")
	}
	if limit.Bytes < imageLeast*mib {
		return fmt.Errorf("an image needs %d MiB at least", imageLeast)
	}
	u, err := s.Usage(dir)
	if err == nil && u.Bytes > limit.Bytes {
		return tooSmall(u.Bytes, limit.Bytes)
	}
	if err != nil {
		return err
	}
	return s.offline(dir, size)
}

// files says that an image cannot have another number of inodes, if so: it has what it was made with, and more as it grows.
func (images) files(dir string, limit int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	// An image is made with up to a whole block of inodes more in each group than it was asked for.
	if have := int64(st.Files); limit > have || limit > 0 && limit < have-have/4-4096 {
		return runtime.Unable(fmt.Sprintf("its image has %d inodes; how many is chosen when a container is created", have))
	}
	return nil
}

func tooSmall(used, limit int64) error {
	return runtime.Unable(fmt.Sprintf("%d MiB of its disk are in use, more than the new limit of %d MiB", (used+mib-1)/mib, limit/mib))
}

// grow makes a mounted image larger.
func grow(dir string, size int64) (err error) {
	st, err := os.Stat(imageFile(dir))
	if err != nil {
		return err
	}
	dev, err := attach(imageFile(dir))
	if err != nil {
		return err
	}
	defer dev.Close()
	reach := func(size int64) error {
		return errors.Join(os.Truncate(imageFile(dir), size), unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_CAPACITY, 0))
	}
	if err := reach(size); err != nil {
		return errors.Join(err, reach(st.Size()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &fs); err != nil {
		return err
	}
	blocks := uint64(size / fs.Bsize)
	if err := ioctl(d, ext4Resize, &blocks); err != nil {
		return errors.Join(fmt.Errorf("make the file system of %s larger: %w", dir, err), reach(st.Size()))
	}
	return nil
}

// offline gives the image another size while nobody uses it. It works on a copy: a crash leaves the one or the other.
func (s images) offline(dir string, size int64) (err error) {
	file, half := imageFile(dir), imageFile(dir)+".new"
	if err := s.Close(dir); err != nil {
		return err
	}
	if err := detached(file); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(half)
		}
		err = errors.Join(err, s.Create(dir, runtime.Space{}))
	}()
	if err := run("cp", "--reflink=auto", "--sparse=always", file, half); err != nil {
		return fmt.Errorf("there is no room for a second copy of the image while its size changes: %w", err)
	}
	check := run("e2fsck", "-f", "-p", half)
	var exit *exec.ExitError
	if check != nil && !(errors.As(check, &exit) && exit.ExitCode() == 1) { // 1: it has mended something
		return check
	}
	if st, err := os.Stat(half); err != nil {
		return err
	} else if size > st.Size() {
		if err := os.Truncate(half, size); err != nil {
			return err
		}
	}
	if err := run("resize2fs", half, fmt.Sprintf("%dK", size>>10)); err != nil {
		return err
	}
	if err := os.Truncate(half, size); err != nil {
		return err
	}
	return os.Rename(half, file)
}

// Usage implements runtime.Storage.
func (s images) Usage(dir string) (u runtime.DiskUsage, err error) {
	if err := s.Create(dir, runtime.Space{}); err != nil {
		return u, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return u, fmt.Errorf("measure %s: %w", dir, err)
	}
	var file unix.Stat_t
	if err := unix.Stat(imageFile(dir), &file); err != nil {
		return u, fmt.Errorf("measure %s: %w", dir, err)
	}
	u.Bytes, u.Files = int64(st.Blocks-st.Bfree)*st.Bsize, int64(st.Files-st.Ffree)
	u.Own = file.Blocks * 512
	return u, nil
}

// Copy implements runtime.Storage.
func (s images) Copy(from, to string) error {
	st, err := os.Stat(imageFile(from))
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	if err := s.Create(from, runtime.Space{}); err != nil {
		return err
	}
	return copyFiles(s, from, to, runtime.Space{Bytes: limitOf(st.Size())})
}

// limitOf is the limit that an image of a size was made for.
func limitOf(size int64) int64 {
	limit := (size - imageExtra*mib) * 60 / 61
	for imageSize(limit) < size {
		limit += mib / 4
	}
	return limit
}

// Rename implements runtime.Storage.
func (s images) Rename(from, to string) error {
	if err := errors.Join(s.Close(from), s.Close(to)); err != nil {
		return err
	}
	if err := os.Rename(imageFile(from), imageFile(to)); errors.Is(err, fs.ErrNotExist) { // done already, before a crash
		_, err = os.Lstat(imageFile(to))
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := os.Remove(from); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.Create(to, runtime.Space{})
}

// Remove implements runtime.Storage.
func (s images) Remove(dir string) error {
	if err := s.Close(dir); err != nil {
		return err
	}
	for _, name := range []string{imageFile(dir), imageFile(dir) + ".new"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// Traits implements runtime.Storage.
func (images) Traits() runtime.StorageTraits {
	return runtime.StorageTraits{Driver: Image, Bytes: true, Files: true, Shown: true}
}
