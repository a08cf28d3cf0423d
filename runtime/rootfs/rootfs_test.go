package rootfs

import (
	"context"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
	"github.com/vzcluster/vzcluster/runtime/storage"
)

const base = 1_000_000

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fixture has roots and a small template, and unmounts everything at the end.
func fixture(t *testing.T) (*Roots, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	dir := t.TempDir()
	template := filepath.Join(dir, "template")
	for _, d := range []string{"etc/ssh", "usr/sbin", "bin"} {
		must(t, os.MkdirAll(filepath.Join(template, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(template, "usr/sbin/sshd"), nil, 0o755))
	must(t, os.WriteFile(filepath.Join(template, "bin/sh"), []byte("template"), 0o755))
	must(t, os.WriteFile(filepath.Join(template, "etc/machine-id"), nil, 0o444))
	r := open(t, filepath.Join(dir, "containers, with: odd\\name"))
	t.Cleanup(func() {
		for _, id := range []int{101, 102} {
			if err := r.Unmount(id); err != nil {
				t.Error(err)
			}
		}
	})
	return r, template
}

func open(t *testing.T, dir string) *Roots {
	t.Helper()
	store, err := storage.Open(storage.Config{Dir: dir})
	must(t, err)
	r, err := New(Config{Dir: dir, Storage: store})
	must(t, err)
	return r
}

func spec(id int) runtime.Spec {
	return runtime.Spec{
		ID: id, Hostname: "web", UIDBase: base, DNS: []string{"10.0.0.1", "10.0.0.2"}, Search: []string{"vz.test"},
		NICs: []runtime.NIC{{Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.5/24")}}},
	}
}

func mount(t *testing.T, r *Roots, s runtime.Spec, template string) string {
	t.Helper()
	root, err := r.Mount(context.Background(), s, template)
	must(t, err)
	return root
}

func owner(t *testing.T, p string) uint32 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(p, &st))
	return st.Uid
}

func read(t *testing.T, p string) string {
	t.Helper()
	b, err := os.ReadFile(p)
	must(t, err)
	return string(b)
}

func TestMountShiftsAndLayersStayUnshifted(t *testing.T) {
	r, template := fixture(t)
	root := mount(t, r, spec(101), template)
	if again := mount(t, r, spec(101), template); again != root {
		t.Errorf("the second mount is at %s, the first at %s", again, root)
	}
	if got := owner(t, filepath.Join(root, "bin/sh")); got != base {
		t.Errorf("the template's file belongs to %d, want %d", got, base)
	}
	must(t, os.Chown(filepath.Join(root, "bin/sh"), base+33, base+33)) // copied up
	must(t, os.WriteFile(filepath.Join(root, "new"), []byte("x"), 0o644))
	must(t, os.Chown(filepath.Join(root, "new"), base+7, base+7))
	if got := owner(t, filepath.Join(r.Layer(101), "bin/sh")); got != 33 {
		t.Errorf("in the layer the file belongs to %d, want 33", got)
	}
	if got := owner(t, filepath.Join(r.Layer(101), "new")); got != 7 {
		t.Errorf("in the layer the new file belongs to %d, want 7", got)
	}
	if got := owner(t, filepath.Join(template, "bin/sh")); got != 0 {
		t.Errorf("the template's own file belongs to %d", got)
	}
	other := spec(102)
	other.UIDBase = 5 * base
	if got := owner(t, filepath.Join(mount(t, r, other, template), "bin/sh")); got != 5*base {
		t.Errorf("in another container the file belongs to %d, want %d", got, 5*base)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(r.dir))
	must(t, err)
	if len(mounts) != 2 {
		t.Errorf("%d mounts for two roots", len(mounts))
	}
	if st, err := os.Stat(r.path(101)); err != nil || st.Mode().Perm() != 0o700 || owner(t, r.path(101)) != base {
		t.Errorf("others can enter the container's directory: %v %v", st.Mode(), err)
	}
	if st, err := os.Stat(filepath.Dir(r.Layer(101))); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("others can enter the layer: %v %v", st.Mode(), err)
	}
}

func TestUnmountAndRemove(t *testing.T) {
	r, template := fixture(t)
	root := mount(t, r, spec(101), template)
	must(t, os.WriteFile(filepath.Join(root, "kept"), []byte("x"), 0o644))
	if err := r.Reset(101); err == nil {
		t.Error("a mounted root was reset")
	}
	must(t, r.Unmount(101))
	must(t, r.Unmount(101))
	root = mount(t, r, spec(101), template)
	if read(t, filepath.Join(root, "kept")) != "x" {
		t.Error("the file did not survive")
	}
	must(t, r.Remove(101))
	must(t, r.Remove(101))
	if _, err := os.Lstat(r.path(101)); err == nil {
		t.Error("the container's directory is still there")
	}
	if read(t, filepath.Join(template, "bin/sh")) != "template" {
		t.Error("the template was damaged")
	}
	if mounted, _ := mountinfo.Mounted(root); mounted {
		t.Error("the root is still mounted")
	}
}

// A crash between the mounts leaves binds behind; nothing may be deleted through them.
func TestRemoveAfterACrash(t *testing.T) {
	r, template := fixture(t)
	must(t, r.Create(101))
	must(t, r.bind(spec(101), template))
	must(t, r.Remove(101))
	if read(t, filepath.Join(template, "bin/sh")) != "template" {
		t.Error("the template was deleted through its mount")
	}
	must(t, os.MkdirAll(filepath.Join(r.dir, removed+"101-1/layer"), 0o755))
	open(t, r.dir)
	if _, err := os.Lstat(filepath.Join(r.dir, removed+"101-1")); err == nil {
		t.Error("what an interrupted Remove left is still there")
	}
}

// A layer that came from another host has no work directory, and lies on another tree than it did there.
func TestResetAndForeignTemplate(t *testing.T) {
	r, template := fixture(t)
	root := mount(t, r, spec(101), template)
	must(t, os.Remove(filepath.Join(root, "bin/sh")))
	must(t, os.WriteFile(filepath.Join(root, "etc/new"), []byte("x"), 0o644))
	must(t, r.Unmount(101))
	must(t, r.Reset(101))
	other := filepath.Join(t.TempDir(), "other")
	must(t, os.CopyFS(other, os.DirFS(template)))
	root = mount(t, r, spec(101), other)
	if _, err := os.Lstat(filepath.Join(root, "bin/sh")); err == nil {
		t.Error("the removed file came back")
	}
	if read(t, filepath.Join(root, "etc/new")) != "x" {
		t.Error("the new file is lost")
	}
	must(t, r.Unmount(101))
	mount(t, r, spec(101), template) // no Reset: the index speaks of the other tree, Mount must mend that by itself
}

func TestMountRefusesTheHostsIDs(t *testing.T) {
	r, template := fixture(t)
	s := spec(101)
	s.UIDBase = 0
	if _, err := r.Mount(context.Background(), s, template); err == nil {
		t.Error("a root with the host's own ids was mounted")
	}
	if _, err := r.Mount(context.Background(), spec(101), filepath.Join(template, "none")); err == nil {
		t.Error("a template that is not there was mounted")
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(r.dir))
	must(t, err)
	if len(mounts) != 0 {
		t.Errorf("refused mounts left %d mounts", len(mounts))
	}
}

func TestPersonalize(t *testing.T) {
	r, template := fixture(t)
	root := mount(t, r, spec(101), template)
	must(t, r.Personalize(spec(101), root))
	in := func(p string) string { return filepath.Join(root, p) }
	if got := read(t, in("etc/hostname")); got != "web\n" {
		t.Errorf("hostname %q", got)
	}
	if got := read(t, in("etc/hosts")); !strings.Contains(got, "\n127.0.0.1\tlocalhost\n") || !strings.Contains(got, "\n10.77.0.5\tweb\n") {
		t.Errorf("hosts %q", got)
	}
	if got := read(t, in("etc/resolv.conf")); !strings.HasSuffix(got, "search vz.test\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n") {
		t.Errorf("resolv.conf %q", got)
	}
	id := read(t, in("etc/machine-id"))
	if len(id) != 33 {
		t.Errorf("machine-id %q", id)
	}
	for _, kind := range []string{"ed25519", "ecdsa"} {
		name := in("etc/ssh/ssh_host_" + kind + "_key")
		key, err := ssh.ParsePrivateKey([]byte(read(t, name)))
		must(t, err)
		public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(read(t, name+".pub")))
		must(t, err)
		if string(public.Marshal()) != string(key.PublicKey().Marshal()) {
			t.Errorf("the halves of the %s key differ", kind)
		}
		if st, err := os.Stat(name); err != nil || st.Mode() != 0o600 {
			t.Errorf("the %s key has mode %v (%v)", kind, st.Mode(), err)
		}
	}
	must(t, filepath.WalkDir(in("etc"), func(p string, _ fs.DirEntry, err error) error {
		if owner(t, p) != base {
			t.Errorf("%s belongs to %d", p, owner(t, p))
		}
		return err
	}))
	key := read(t, in("etc/ssh/ssh_host_ecdsa_key"))
	moved := spec(101)
	moved.Hostname = "moved"
	must(t, r.Personalize(moved, root))
	if read(t, in("etc/machine-id")) != id || read(t, in("etc/ssh/ssh_host_ecdsa_key")) != key {
		t.Error("the container lost its identity")
	}
	if read(t, in("etc/hostname")) != "moved\n" {
		t.Error("the new hostname was not written")
	}
	other := mount(t, r, spec(102), template)
	must(t, r.Personalize(spec(102), other))
	if read(t, filepath.Join(other, "etc/machine-id")) == id {
		t.Error("two containers share a machine-id")
	}
}

func TestPersonalizeFollowsNoLinkOut(t *testing.T) {
	r, template := fixture(t)
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	must(t, os.WriteFile(secret, []byte("good"), 0o600))
	root := mount(t, r, spec(101), template)
	for _, name := range []string{"etc/hostname", "etc/hosts", "etc/machine-id", "etc/hostname.vzcluster-new", "etc/ssh/ssh_host_ecdsa_key"} {
		must(t, os.RemoveAll(filepath.Join(root, name)))
		must(t, os.Symlink(secret, filepath.Join(root, name)))
	}
	must(t, os.MkdirAll(filepath.Join(root, "etc/resolv.conf/a/directory"), 0o755))
	must(t, r.Personalize(spec(101), root))
	if read(t, filepath.Join(root, "etc/hostname")) != "web\n" {
		t.Error("the link was not replaced")
	}
	must(t, os.RemoveAll(filepath.Join(root, "etc")))
	must(t, os.Symlink(outside, filepath.Join(root, "etc")))
	if err := r.Personalize(spec(101), root); err == nil {
		t.Error("an /etc that leads out was written to")
	}
	if read(t, secret) != "good" {
		t.Error("the secret was overwritten")
	}
	if list, _ := os.ReadDir(outside); len(list) != 1 {
		t.Errorf("outside there are %v", list)
	}
	bad := spec(101)
	bad.Hostname = "x\n127.0.0.1 bank.example"
	if err := r.Personalize(bad, root); err == nil {
		t.Error("a hostname of two lines was taken")
	}
}
