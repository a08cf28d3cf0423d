package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

const child = "VZCLUSTER_STORAGE_TEST"

// TestMain runs the tests again in a mount namespace of their own: whatever happens, nothing stays mounted or attached.
func TestMain(m *testing.M) {
	if os.Getenv(child) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fixture opens a driver in a folder that is gone at the end.
func fixture(t *testing.T, driver string) (runtime.Storage, Config) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	top, err := os.MkdirTemp("/var/tmp", "vzstorage") // /tmp may be a tmpfs, which has no trusted attributes
	must(t, err)
	c := Config{Driver: driver, Dir: filepath.Join(top, "containers"), Pool: filepath.Join(top, "pool"), Size: 512 * mib}
	t.Cleanup(func() {
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(top))
		must(t, err)
		for i := range mounts {
			must(t, unmount(mounts[len(mounts)-1-i].Mountpoint))
		}
		must(t, os.RemoveAll(top))
	})
	s, err := Open(c)
	must(t, err)
	return s, c
}

// fill writes so many MiB, that do not compress, and has them on disk.
func fill(t *testing.T, name string, size int) error {
	t.Helper()
	zero, err := os.Open("/dev/urandom")
	must(t, err)
	defer zero.Close()
	f, err := os.Create(name)
	must(t, err)
	_, err = io.CopyN(f, zero, int64(size)*mib)
	return errors.Join(err, f.Sync(), f.Close())
}

// TestConformance is what every driver must do.
func TestConformance(t *testing.T) {
	for _, driver := range Drivers() {
		t.Run(driver, func(t *testing.T) {
			for name, test := range map[string]func(*testing.T, runtime.Storage, string){
				"a directory": aDirectory, "limits": limits, "copies": copies, "names": names, "usage": usage,
			} {
				t.Run(name, func(t *testing.T) {
					s, c := fixture(t, driver)
					test(t, s, c.Dir)
				})
			}
			t.Run("another agent", func(t *testing.T) { anotherAgent(t, driver) })
		})
	}
}

func aDirectory(t *testing.T, s runtime.Storage, top string) {
	dir := filepath.Join(top, "101")
	must(t, s.Create(dir, runtime.Space{}))
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("others may enter it: %v %v", st.Mode(), err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("kept"), 0o600))
	must(t, unix.Setxattr(filepath.Join(dir, "file"), "trusted.overlay.opaque", []byte("y"), 0))
	must(t, s.Create(dir, runtime.Space{Bytes: 64 * mib}))
	must(t, errors.Join(s.Close(dir), s.Close(dir), s.Create(dir, runtime.Space{})))
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "kept" {
		t.Errorf("after it was closed and opened the file holds %q: %v", got, err)
	}
	must(t, errors.Join(s.Remove(dir), s.Remove(dir)))
	if left, err := os.ReadDir(top); err != nil || len(left) != 0 {
		t.Errorf("removed, it leaves %v: %v", left, err)
	}
}

func limits(t *testing.T, s runtime.Storage, top string) {
	dir := filepath.Join(top, "101")
	must(t, s.Create(dir, runtime.Space{Bytes: 40 * mib}))
	must(t, fill(t, filepath.Join(dir, "fits"), 30))
	if !s.Traits().Bytes {
		must(t, fill(t, filepath.Join(dir, "more"), 30))
		return
	}
	if err := fill(t, filepath.Join(dir, "more"), 30); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		t.Errorf("60 MiB went into 40: %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "more")))
	if err := s.Limit(dir, runtime.Space{Bytes: 20 * mib}, false); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("less than is in use was taken as a limit: %v", err)
	}
	live := unix.Prctl(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0) == nil && hasCapability(t, unix.CAP_SYS_RESOURCE)
	must(t, s.Limit(dir, runtime.Space{Bytes: 80 * mib}, live || s.Traits().Driver != Image))
	must(t, fill(t, filepath.Join(dir, "more"), 30))
	must(t, os.Remove(filepath.Join(dir, "more")))
	must(t, s.Limit(dir, runtime.Space{Bytes: 40 * mib}, false))
	if err := fill(t, filepath.Join(dir, "more"), 30); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		t.Errorf("after it shrank, 60 MiB went into 40: %v", err)
	}
	if st, err := os.Stat(filepath.Join(dir, "fits")); err != nil || st.Size() != 30*mib {
		t.Errorf("the file is damaged: %v", err)
	}
}

func hasCapability(t *testing.T, number uint) bool {
	t.Helper()
	var data [2]unix.CapUserData
	must(t, unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]))
	return data[number/32].Effective&(1<<(number%32)) != 0
}

func copies(t *testing.T, s runtime.Storage, top string) {
	from, to := filepath.Join(top, "101"), filepath.Join(top, "102")
	must(t, s.Create(from, runtime.Space{Bytes: 40 * mib}))
	must(t, fill(t, filepath.Join(from, "large"), 10))
	must(t, unix.Mknod(filepath.Join(from, "whiteout"), unix.S_IFCHR, 0))
	must(t, os.Mkdir(filepath.Join(from, "dir"), 0o751))
	must(t, os.Lchown(filepath.Join(from, "dir"), 7, 8))
	must(t, unix.Setxattr(filepath.Join(from, "dir"), "trusted.overlay.opaque", []byte("y"), 0))
	must(t, os.Link(filepath.Join(from, "large"), filepath.Join(from, "name")))
	must(t, s.Copy(from, to))
	if err := s.Copy(from, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a copy was made over another one: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(from, "large"), nil, 0o600))
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(to, "large"), &st))
	if st.Size != 10*mib || st.Nlink != 2 {
		t.Errorf("the copy's file has %d bytes and %d names", st.Size, st.Nlink)
	}
	must(t, unix.Lstat(filepath.Join(to, "whiteout"), &st))
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("the whiteout became %o", st.Mode)
	}
	must(t, unix.Lstat(filepath.Join(to, "dir"), &st))
	value := make([]byte, 8)
	if n, err := unix.Getxattr(filepath.Join(to, "dir"), "trusted.overlay.opaque", value); err != nil || n != 1 || st.Uid != 7 || st.Gid != 8 || st.Mode&0o777 != 0o751 {
		t.Errorf("the folder is %d:%d %o, its attribute has %d bytes: %v", st.Uid, st.Gid, st.Mode, n, err)
	}
	if s.Traits().Bytes {
		if err := fill(t, filepath.Join(to, "more"), 40); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
			t.Errorf("the copy has no limit: %v", err)
		}
	}
	must(t, s.Remove(from))
	if _, err := os.Stat(filepath.Join(to, "name")); err != nil {
		t.Errorf("the copy went with its original: %v", err)
	}
	must(t, s.Remove(to))
}

func names(t *testing.T, s runtime.Storage, top string) {
	from, to := filepath.Join(top, "101"), filepath.Join(top, ".parked-101")
	must(t, s.Create(from, runtime.Space{Bytes: 40 * mib}))
	must(t, os.WriteFile(filepath.Join(from, "file"), []byte("kept"), 0o600))
	must(t, s.Rename(from, to))
	must(t, s.Create(from, runtime.Space{})) // another one under the old name
	if _, err := os.Lstat(filepath.Join(from, "file")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the new directory has the old one's file: %v", err)
	}
	must(t, s.Remove(from))
	must(t, s.Rename(to, from))
	if got, err := os.ReadFile(filepath.Join(from, "file")); err != nil || string(got) != "kept" {
		t.Errorf("renamed twice, the file holds %q: %v", got, err)
	}
}

func usage(t *testing.T, s runtime.Storage, top string) {
	dir, other := filepath.Join(top, "101"), filepath.Join(top, "102")
	must(t, s.Create(dir, runtime.Space{Bytes: 64 * mib}))
	must(t, fill(t, filepath.Join(dir, "f"), 10))
	u, err := s.Usage(dir)
	must(t, err)
	if u.Bytes < 10*mib || u.Bytes > 12*mib || u.Own < 10*mib {
		t.Errorf("10 MiB are counted as %+v", u)
	}
	must(t, s.Copy(dir, other))
	if u, err = s.Usage(other); err != nil || u.Bytes < 10*mib || s.Traits().Instant == (u.Own > 2*mib) {
		t.Errorf("a copy of 10 MiB is counted as %+v: %v", u, err)
	}
	if s.Traits().Shown {
		var st unix.Statfs_t
		must(t, unix.Statfs(dir, &st))
		if got := int64(st.Blocks) * st.Bsize; got < 64*mib || got > 68*mib {
			t.Errorf("df shows %d MiB, want 64", got/mib)
		}
	}
}

// anotherAgent finds what one that was killed has left, also while it is in use.
func anotherAgent(t *testing.T, driver string) {
	s, c := fixture(t, driver)
	dir := filepath.Join(c.Dir, "101")
	must(t, s.Create(dir, runtime.Space{Bytes: 40 * mib}))
	f, err := os.Create(filepath.Join(dir, "file"))
	must(t, err)
	defer f.Close()
	s, err = Open(c)
	must(t, err)
	must(t, s.Create(dir, runtime.Space{}))
	must(t, s.Close(dir)) // it stays in use
	must(t, s.Create(dir, runtime.Space{}))
	if _, err := f.WriteString("one file system"); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "one file system" {
		t.Errorf("opened again while it is in use, it shows %q: %v", got, err)
	}
	for _, other := range Drivers() {
		changed := c
		changed.Driver = other
		if _, err := Open(changed); (err != nil) != (other != driver) {
			t.Errorf("with the container of %s here, %s was opened: %v", driver, other, err)
		}
	}
	if driver == Btrfs { // the refusals must have left the pool as it was
		if mounted, err := mountinfo.Mounted(c.Dir); err != nil || !mounted {
			t.Errorf("the pool is gone: %v", err)
		}
	}
}

func TestPoolGrows(t *testing.T) {
	_, c := fixture(t, Btrfs)
	c.Size = 768 * mib
	_, err := Open(c)
	must(t, err)
	var st unix.Statfs_t
	must(t, unix.Statfs(c.Dir, &st))
	if got := int64(st.Blocks) * st.Bsize; got != c.Size {
		t.Errorf("the pool has %d MiB, want 768", got/mib)
	}
}

func TestInstantCopies(t *testing.T) {
	s, c := fixture(t, Btrfs)
	dir := filepath.Join(c.Dir, "101")
	must(t, s.Create(dir, runtime.Space{}))
	must(t, fill(t, filepath.Join(dir, "f"), 200))
	began := time.Now()
	must(t, s.Copy(dir, filepath.Join(c.Dir, "102")))
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the copy took %v", took)
	}
}

func TestImageSizes(t *testing.T) {
	for _, limit := range []int64{imageLeast, 40, 64, 100, 1024, 2048, 1 << 20} {
		limit *= mib
		if size := imageSize(limit); imageSize(limitOf(size)) != size {
			t.Errorf("the image of %d bytes is one for %d, which has another size", size, limitOf(size))
		}
	}
}
