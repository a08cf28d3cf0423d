package image

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime/image/imagetest"
)

// debianLike has what preparing looks at in a Debian tree.
func debianLike() []byte {
	return imagetest.Tar(
		imagetest.Dir("./"), imagetest.Symlink("./sbin", "usr/sbin"), imagetest.Symlink("./lib", "usr/lib"), imagetest.Symlink("./bin", "usr/bin"),
		imagetest.Symlink("./usr/sbin/init", "/lib/systemd/systemd"), imagetest.File("./usr/lib/systemd/systemd", "elf"),
		imagetest.File("./usr/lib/systemd/system/systemd-udevd.service", "[Unit]"),
		imagetest.File("./usr/share/zoneinfo/Etc/UTC", "TZif2"), imagetest.Dir("./etc/"),
		imagetest.Symlink("./etc/localtime", "/usr/share/zoneinfo/Etc/UTC"),
		imagetest.File("./etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
		imagetest.File("./var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n"),
		imagetest.File("./var/lib/systemd/random-seed", "seed"),
		imagetest.File("./etc/ssh/sshd_config", "UsePAM yes"), imagetest.File("./etc/ssh/ssh_host_rsa_key", "secret"), imagetest.File("./etc/ssh/ssh_host_rsa_key.pub", "key"),
		imagetest.Symlink("./etc/systemd/system/tmp.mount", "/usr/share/systemd/tmp.mount"),
	)
}

func TestPrepareSystemd(t *testing.T) {
	needRoot(t)
	info, tree := take(t, open(t), debianLike())
	if !info.Systemd || !slices.Equal(info.Init, []string{"/sbin/init"}) {
		t.Errorf("systemd %v, init %q", info.Systemd, info.Init)
	}
	for _, unit := range []string{"dev-hugepages.mount", "tmp.mount", "systemd-udevd.service", "console-getty.service"} {
		if to, _ := os.Readlink(filepath.Join(tree, "etc/systemd/system", unit)); to != "/dev/null" {
			t.Errorf("%s leads to %q, it is not masked", unit, to)
		}
	}
	if _, err := os.Lstat(filepath.Join(tree, "etc/systemd/system/systemd-modules-load.service")); err == nil {
		t.Error("a unit that is not installed was masked")
	}
	if st := stat(t, filepath.Join(tree, "etc/localtime")); st.Mode&unix.S_IFMT != unix.S_IFREG {
		t.Error("/etc/localtime is still a link")
	}
	for name, want := range map[string]string{"etc/localtime": "TZif2", "etc/machine-id": "", "etc/ssh/sshd_config": "UsePAM yes"} {
		if got, err := os.ReadFile(filepath.Join(tree, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
		}
	}
	if to, _ := os.Readlink(filepath.Join(tree, "var/lib/dbus/machine-id")); to != "/etc/machine-id" {
		t.Errorf("dbus has a machine-id of its own: %q", to)
	}
	if got := entries(t, filepath.Join(tree, "etc/ssh")); !slices.Equal(got, []string{"sshd_config"}) {
		t.Errorf("/etc/ssh holds %v", got)
	}
	drop, err := os.ReadFile(filepath.Join(tree, "etc/systemd/system/service.d/zz-vzcluster.conf"))
	if err != nil || !strings.Contains(string(drop), "\nPrivateTmp=no\n") || !strings.Contains(string(drop), "\nReadWritePaths=\n") {
		t.Errorf("the drop-in holds %q (%v)", drop, err)
	}
	for _, manager := range []string{"system", "user"} {
		conf, err := os.ReadFile(filepath.Join(tree, "etc/systemd", manager+".conf.d/vzcluster.conf"))
		if err != nil || !strings.Contains(string(conf), "\nDefaultMemoryAccounting=no\n") {
			t.Errorf("the %s manager's configuration holds %q (%v)", manager, conf, err)
		}
	}
	for _, s := range info.Prepared {
		if !strings.HasSuffix(s, ".") || strings.Contains(s, "\n") {
			t.Errorf("%q is no sentence", s)
		}
	}
	other, _ := take(t, open(t), debianLike())
	if !slices.Equal(other.Prepared, info.Prepared) {
		t.Error("the same archive was prepared in two ways")
	}
}

func TestGivenInit(t *testing.T) {
	needRoot(t)
	s := open(t)
	info, err := s.Import(context.Background(), bytes.NewReader(debianLike()), ImportOptions{Init: []string{"/usr/bin/app", "-x"}})
	must(t, err)
	if info.Systemd || !slices.Equal(info.Init, []string{"/usr/bin/app", "-x"}) {
		t.Errorf("systemd %v, init %q", info.Systemd, info.Init)
	}
	again, err := s.Info(info.Digest)
	must(t, err)
	if !slices.Equal(again.Init, info.Init) {
		t.Errorf("the store remembers %q", again.Init)
	}
}

func TestDanglingLocaltime(t *testing.T) {
	needRoot(t)
	_, tree := take(t, open(t), imagetest.Tar(
		imagetest.Dir("./"), imagetest.File("./sbin/init", "elf"), imagetest.File("./lib/systemd/systemd", "elf"),
		imagetest.Symlink("./etc/localtime", "../../../../etc/hostname"),
	))
	if _, err := os.Lstat(filepath.Join(tree, "etc/localtime")); err == nil {
		t.Error("a link that leads out is still there")
	}
}

func TestBuildBusybox(t *testing.T) {
	needRoot(t)
	if _, err := staticBusybox(); err != nil {
		t.Skip(err)
	}
	o := BuildOptions{CacheDir: t.TempDir(), Log: &bytes.Buffer{}}
	path, err := Build(context.Background(), "busybox", o)
	must(t, err)
	again, err := Build(context.Background(), "busybox", o)
	must(t, err)
	if again != path {
		t.Errorf("the second build is at %s, the first at %s", again, path)
	}
	archive, err := os.ReadFile(path)
	must(t, err)
	info, tree := take(t, open(t), archive)
	if info.Systemd || !slices.Equal(info.Init, []string{"/sbin/init"}) {
		t.Errorf("systemd %v, init %q", info.Systemd, info.Init)
	}
	if to, _ := os.Readlink(filepath.Join(tree, "sbin/init")); to != "/bin/busybox" {
		t.Errorf("/sbin/init leads to %q", to)
	}
	if _, err := os.Lstat(filepath.Join(tree, "bin/sh")); err != nil {
		t.Error(err)
	}
}

func TestBuildRefusesNonsense(t *testing.T) {
	o := BuildOptions{CacheDir: t.TempDir(), Include: []string{"nginx", "--hook=rm"}}
	for _, name := range []string{"debian-12", "debian-99", ""} {
		if _, err := Build(context.Background(), name, o); err == nil {
			t.Errorf("%q was built", name)
		}
	}
}

// What mmdebstrap made before is used again: the key is the suite and the packages, in any order.
func TestBuildUsesTheCache(t *testing.T) {
	var log bytes.Buffer
	o := BuildOptions{CacheDir: t.TempDir(), Include: []string{"nginx", "redis-server"}, Log: &log}
	packages := append(slices.Clone(base), "nginx", "redis-server")
	slices.Sort(packages)
	want := cached(o.CacheDir, "debian-12", append(packages, "bookworm", recipe)...)
	must(t, os.WriteFile(want, []byte("archive"), 0o600))
	o.Include = []string{"redis-server", "nginx", "dbus"}
	got, err := Build(context.Background(), "debian-12", o)
	must(t, err)
	if got != want || !strings.Contains(log.String(), "built 0 seconds ago") {
		t.Errorf("got %s, want %s; it said %q", got, want, log.String())
	}
}

func TestTarDir(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	in := func(p string) string { return filepath.Join(dir, p) }
	must(t, os.MkdirAll(in("bin"), 0o755))
	must(t, os.WriteFile(in("bin/sh"), []byte("shell"), 0o755))
	must(t, os.Link(in("bin/sh"), in("bin/dash")))
	must(t, os.Symlink("/bin/sh", in("bin/ash")))
	must(t, os.Chown(in("bin/sh"), 12, 34))
	must(t, unix.Chmod(in("bin/sh"), 0o4755))
	must(t, unix.Setxattr(in("bin/sh"), "user.note", []byte("kept"), 0))
	must(t, unix.Mknod(in("socket"), unix.S_IFSOCK|0o600, 0))
	must(t, unix.Mknod(in("disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(8, 0))))
	var first, second bytes.Buffer
	must(t, TarDir(context.Background(), dir, &first))
	must(t, TarDir(context.Background(), dir, &second))
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two archives of the same tree differ")
	}
	_, tree := take(t, open(t), first.Bytes())
	sh := stat(t, filepath.Join(tree, "bin/sh"))
	if sh.Uid != 12 || sh.Gid != 34 || sh.Mode&0o7777 != 0o4755 || sh.Nlink != 2 {
		t.Errorf("bin/sh: %d:%d %o, %d links", sh.Uid, sh.Gid, sh.Mode, sh.Nlink)
	}
	buf := make([]byte, 10)
	if n, _ := unix.Getxattr(filepath.Join(tree, "bin/sh"), "user.note", buf); string(buf[:max(n, 0)]) != "kept" {
		t.Error("the attribute is lost")
	}
	if to, _ := os.Readlink(filepath.Join(tree, "bin/ash")); to != "/bin/sh" {
		t.Errorf("bin/ash leads to %q", to)
	}
	for _, name := range []string{"socket", "disk"} {
		if _, err := os.Lstat(filepath.Join(tree, name)); err == nil {
			t.Errorf("the %s was packed", name)
		}
	}
}
