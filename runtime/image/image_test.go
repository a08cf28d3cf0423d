package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
	"github.com/vzcluster/vzcluster/runtime/image/imagetest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("devices and owners need root")
	}
}

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	must(t, err)
	return s
}

func take(t *testing.T, s *Store, archive []byte) (Info, string) {
	t.Helper()
	info, err := s.Import(context.Background(), bytes.NewReader(archive), ImportOptions{})
	must(t, err)
	tree, err := s.Path(info.Digest)
	must(t, err)
	return info, tree
}

func stat(t *testing.T, p string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(p, &st))
	return st
}

// entries lists what a directory holds, hidden things too.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestImportKeepsWhatMatters(t *testing.T) {
	needRoot(t)
	when := time.Unix(1_500_000_000, 123_000_000)
	caps := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	s := open(t)
	info, tree := take(t, s, imagetest.Tiny(
		imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "./bin/su", Mode: 0o4755, Uid: 0, Gid: 42, ModTime: when, Format: tar.FormatPAX, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": caps, "SCHILY.xattr.user.note": "x", "SCHILY.xattr.trusted.overlay.opaque": "y",
		}}, Content: "binary"},
		imagetest.Hardlink("./etc/su2", "./bin/su"),
		imagetest.Symlink("./etc/out", "../../../outside"),
		imagetest.Symlink("./etc/absolute", "/etc/shadow"),
		imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: "./deep/er/", Mode: 0o1777, Uid: 7, Gid: 8, ModTime: when, Format: tar.FormatPAX}},
		imagetest.File("./deep/er/implicit/parents/file", "first"),
		imagetest.File("./deep/er/implicit/parents/file", "the last one wins"),
		imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "./etc/pipe", Mode: 0o620}},
		imagetest.Dir("./dev/"), imagetest.Device("./dev/console", tar.TypeChar, 5, 1), imagetest.File("./dev/junk", "x"),
	))
	if want := []string{"/bin/sh", "-c", idle}; !slices.Equal(info.Init, want) || info.Systemd {
		t.Errorf("init %q, systemd %v", info.Init, info.Systemd)
	}
	su := stat(t, filepath.Join(tree, "bin/su"))
	if su.Mode != unix.S_IFREG|0o4755 || su.Gid != 42 || su.Mtim.Nano() != when.UnixNano() || su.Nlink != 2 {
		t.Errorf("bin/su: mode %o gid %d mtime %d links %d", su.Mode, su.Gid, su.Mtim.Nano(), su.Nlink)
	}
	buf := make([]byte, 100)
	for name, want := range map[string]int{"security.capability": 20, "user.note": 1, "trusted.overlay.opaque": -1} {
		if n, _ := unix.Getxattr(filepath.Join(tree, "bin/su"), name, buf); n != want {
			t.Errorf("attribute %s has length %d, want %d", name, n, want)
		}
	}
	if to, _ := os.Readlink(filepath.Join(tree, "etc/out")); to != "../../../outside" {
		t.Errorf("etc/out leads to %q", to)
	}
	if d := stat(t, filepath.Join(tree, "deep/er")); d.Mode != unix.S_IFDIR|0o1777 || d.Uid != 7 || d.Mtim.Nano() != when.UnixNano() {
		t.Errorf("deep/er: %o %d %v", d.Mode, d.Uid, d.Mtim)
	}
	if b, _ := os.ReadFile(filepath.Join(tree, "deep/er/implicit/parents/file")); string(b) != "the last one wins" {
		t.Errorf("the file holds %q", b)
	}
	if st := stat(t, filepath.Join(tree, "etc/pipe")); st.Mode != unix.S_IFIFO|0o620 {
		t.Errorf("the pipe's mode is %o", st.Mode)
	}
}

func TestDev(t *testing.T) {
	needRoot(t)
	old := unix.Umask(0o077) // nothing may depend on it
	defer unix.Umask(old)
	_, tree := take(t, open(t), imagetest.Tiny(imagetest.Dir("./dev/"), imagetest.File("./dev/junk", "x")))
	want := []string{"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}
	if got := entries(t, filepath.Join(tree, "dev")); !slices.Equal(got, want) {
		t.Errorf("/dev holds %v", got)
	}
	for name, mode := range map[string]uint32{".": unix.S_IFDIR | 0o755, "dev": unix.S_IFDIR | 0o755, "dev/null": unix.S_IFCHR | 0o666, "dev/shm": unix.S_IFDIR | 0o1777, "tmp": unix.S_IFDIR | 0o1777, "proc": unix.S_IFDIR | 0o555} {
		if st := stat(t, filepath.Join(tree, name)); st.Mode != mode {
			t.Errorf("%s has mode %o, want %o", name, st.Mode, mode)
		}
	}
	if st := stat(t, filepath.Join(tree, "dev/urandom")); st.Rdev != unix.Mkdev(1, 9) {
		t.Errorf("/dev/urandom is device %x", st.Rdev)
	}
}

func TestHostileArchives(t *testing.T) {
	needRoot(t)
	for name, archive := range imagetest.Hostile() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.Mkdir(filepath.Join(dir, "outside"), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, "outside/secret"), []byte("good"), 0o600))
			s, err := Open(filepath.Join(dir, "store"))
			must(t, err)
			_, err = s.Import(context.Background(), bytes.NewReader(archive), ImportOptions{})
			if err == nil {
				t.Fatal("the archive was taken")
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), dir) {
				t.Errorf("no clear sentence: %v", err)
			}
			if left := entries(t, s.dir); len(left) != 0 {
				t.Errorf("the store holds %v", left)
			}
			if got := entries(t, dir); !slices.Equal(got, []string{"outside", "store"}) {
				t.Errorf("beside the store: %v", got)
			}
			if got := entries(t, filepath.Join(dir, "outside")); !slices.Equal(got, []string{"secret"}) {
				t.Errorf("outside: %v", got)
			}
			if st := stat(t, filepath.Join(dir, "outside/secret")); st.Nlink != 1 {
				t.Error("somebody linked to the secret")
			}
			for _, evil := range []string{"/tmp/vzcluster-evil", "/etc/vzcluster-evil", "/outside", "/tmp/outside"} {
				if _, err := os.Lstat(evil); err == nil {
					t.Errorf("%s was made", evil)
				}
			}
		})
	}
}

func TestBounds(t *testing.T) {
	needRoot(t)
	s := open(t)
	archive := imagetest.Tiny(imagetest.File("./zeros", strings.Repeat("\x00", 1<<20)))
	for name, o := range map[string]ImportOptions{"bytes": {MaxBytes: 1 << 20}, "entries": {MaxEntries: 4}} {
		if _, err := s.Import(context.Background(), bytes.NewReader(archive), o); err == nil {
			t.Errorf("%s: an archive beyond the bound was taken", name)
		}
	}
	if _, err := s.Import(context.Background(), bytes.NewReader(archive), ImportOptions{MaxBytes: 2 << 20, MaxEntries: 5}); err != nil {
		t.Error(err)
	}
}

// The same archive is the same template, however it is compressed, and travels between stores.
func TestCompressionsAndFetch(t *testing.T) {
	needRoot(t)
	plain := imagetest.Tiny(imagetest.File("./etc/data", strings.Repeat("data", 10_000)))
	var gz, zs, x bytes.Buffer
	gw := gzip.NewWriter(&gz)
	zw, err := zstd.NewWriter(&zs)
	must(t, err)
	xw, err := xz.NewWriter(&x)
	must(t, err)
	for _, w := range []io.WriteCloser{gw, zw, xw} {
		_, err := w.Write(plain)
		must(t, errors.Join(err, w.Close()))
	}
	s := open(t)
	first, _ := take(t, s, plain)
	if first.Size != int64(len(plain)) {
		t.Errorf("size %d, want %d", first.Size, len(plain))
	}
	for name, b := range map[string][]byte{"gzip": gz.Bytes(), "zstd": zs.Bytes(), "xz": x.Bytes()} {
		other, _ := take(t, open(t), b)
		if other.Digest != first.Digest {
			t.Errorf("%s: digest %s, want %s", name, other.Digest, first.Digest)
		}
		if _, err := open(t).Import(context.Background(), bytes.NewReader(b[:len(b)/2]), ImportOptions{}); err == nil {
			t.Errorf("%s: a truncated archive was taken", name)
		}
	}
	peer := open(t)
	a, size, err := s.Archive(first.Digest)
	must(t, err)
	defer a.Close()
	packed, err := io.ReadAll(a)
	must(t, err)
	if int64(len(packed)) != size {
		t.Errorf("the archive has %d bytes, said were %d", len(packed), size)
	}
	wrong := "sha256:" + strings.Repeat("0", 64)
	if _, err := peer.Fetch(context.Background(), wrong, bytes.NewReader(packed)); !errors.Is(err, ErrDigest) {
		t.Errorf("a foreign archive: %v", err)
	}
	if left := entries(t, peer.dir); len(left) != 0 {
		t.Errorf("a refused archive left %v", left)
	}
	got, err := peer.Fetch(context.Background(), first.Digest, bytes.NewReader(packed))
	must(t, err)
	if got.Digest != first.Digest || !slices.Equal(got.Prepared, first.Prepared) {
		t.Errorf("fetched %+v, want %+v", got, first)
	}
	if !peer.Has(first.Digest) || peer.Has(wrong) {
		t.Error("Has is wrong")
	}
}

func TestStoreLife(t *testing.T) {
	needRoot(t)
	s := open(t)
	info, tree := take(t, s, imagetest.Tiny())
	again, _ := take(t, s, imagetest.Tiny())
	if again.Digest != info.Digest {
		t.Error("the same archive got two digests")
	}
	must(t, os.MkdirAll(filepath.Join(s.dir, temporary+"crash", treeDir), 0o700))
	s, err := Open(s.dir)
	must(t, err)
	if got := entries(t, s.dir); len(got) != 1 {
		t.Errorf("after a crash the store holds %v", got)
	}
	list, err := s.List()
	must(t, err)
	if len(list) != 1 || list[0].Digest != info.Digest {
		t.Errorf("List: %+v", list)
	}
	must(t, s.Remove(info.Digest))
	must(t, s.Remove(info.Digest))
	if _, err := os.Lstat(tree); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the tree is still there")
	}
	for _, bad := range []string{info.Digest, "", "sha256:../../etc", "sha256:" + strings.Repeat("A", 64), strings.Repeat("a", 64)} {
		if _, err := s.Path(bad); !errors.Is(err, runtime.ErrNoTemplate) {
			t.Errorf("Path(%q): %v", bad, err)
		}
		if _, _, err := s.Archive(bad); !errors.Is(err, runtime.ErrNoTemplate) {
			t.Errorf("Archive(%q): %v", bad, err)
		}
	}
}

func TestCancelledImportLeavesNothing(t *testing.T) {
	needRoot(t)
	s := open(t)
	ctx, cancel := context.WithCancel(context.Background())
	archive := imagetest.Tiny(imagetest.File("./large", strings.Repeat("x", 4<<20)))
	r := io.MultiReader(bytes.NewReader(archive[:2<<20]), readerFunc(func([]byte) (int, error) { cancel(); return 0, nil }), bytes.NewReader(archive[2<<20:]))
	if _, err := s.Import(ctx, r, ImportOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled import: %v", err)
	}
	if left := entries(t, s.dir); len(left) != 0 {
		t.Errorf("it left %v", left)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestCheckBuild(t *testing.T) {
	for _, c := range []struct {
		name, include, want string
	}{
		{"debian-12", "nginx", ""},
		{"busybox", "", ""},
		{"busybox", "nginx", "busybox has no packages"},
		{"nosuch", "", `no recipe named "nosuch"`},
		{"debian-13", "--x", `"--x" is no package name`},
	} {
		err := CheckBuild(c.name, strings.Fields(c.include))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("CheckBuild(%s, %s) = %v, want %q", c.name, c.include, err, c.want)
		}
	}
}

func TestUnknownPackages(t *testing.T) {
	said := "I: installing\nE: Unable to locate package nosuchpkg\nE: Unable to locate package nosuchpkg\nE: Package 'gone' has no installation candidate\nE: setup failed\n"
	if got := strings.Join(unknownPackages(said), " "); got != "nosuchpkg gone" {
		t.Errorf("found %q", got)
	}
	if got := complaint("E: a\nE: b\nx\nE: c\nE: d\n"); got != "b; c; d" {
		t.Errorf("complaint is %q", got)
	}
}

func TestPatience(t *testing.T) {
	lines, w := io.Pipe()
	stop := patience(w, time.Millisecond)
	line, err := bufio.NewReader(lines).ReadString('\n')
	if err != nil || line != "still building, 0 s\n" {
		t.Errorf("it says %q, %v", line, err)
	}
	lines.Close()
	stop()
}

// A template remembers when it was used, also for the next process.
func TestTouch(t *testing.T) {
	needRoot(t)
	s := open(t)
	info, _ := take(t, s, imagetest.Tiny())
	kept := filepath.Join(s.dir, strings.TrimPrefix(info.Digest, "sha256:"), infoFile)
	long := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(kept, long, long))
	if got, err := s.Info(info.Digest); err != nil || time.Since(got.Used) < time.Hour {
		t.Errorf("used at %v (%v)", got.Used, err)
	}
	must(t, s.Touch(info.Digest))
	if all, err := s.List(); err != nil || len(all) != 1 || time.Since(all[0].Used) > time.Minute {
		t.Errorf("after a use: %+v (%v)", all, err)
	}
	if err := s.Touch("sha256:" + strings.Repeat("0", 64)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of one that is not here: %v", err)
	}
}
