package inside

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

const base = 100000

// newRoot makes a container's root beside a file that no container may touch.
func newRoot(t *testing.T) (r *Root, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("giving files to others needs root")
	}
	top := t.TempDir()
	dir = filepath.Join(top, "root")
	for name, content := range map[string]string{"root/etc/hosts": "one", "outside/secret": "whole"} {
		file := filepath.Join(top, name)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o644))
	}
	r, err := Open(dir, base)
	must(t, err)
	t.Cleanup(func() { r.Close() })
	return r, dir
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

type entry struct {
	name, content string
	kind          byte
	mode          int64
	uid           int
}

func pack(t *testing.T, entries ...entry) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: e.mode, Uid: e.uid, Gid: e.uid}
		if e.kind == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.content))
		} else {
			h.Linkname = e.content
		}
		must(t, w.WriteHeader(h))
		if e.kind == 0 {
			_, err := io.WriteString(w, e.content)
			must(t, err)
		}
	}
	must(t, w.Close())
	return &b
}

func content(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		return "none"
	}
	return string(b)
}

func TestUnpackAndPack(t *testing.T) {
	r, dir := newRoot(t)
	must(t, os.Symlink("/usr/lib", filepath.Join(dir, "lib")), os.MkdirAll(filepath.Join(dir, "usr/lib"), 0o755))
	must(t, r.Unpack("/", pack(
		t, entry{"lib/", "", tar.TypeDir, 0o755, 0}, entry{"lib/a", "inside", 0, 0o4755, 33}, entry{"lib/link", "/etc/hosts", tar.TypeSymlink, 0o777, 5},
		entry{"lib/hard", "lib/a", tar.TypeLink, 0o755, 33},
	), runtime.UnpackOptions{}))
	st, err := os.Lstat(filepath.Join(dir, "usr/lib/a")) // an absolute link means what it means inside
	must(t, err)
	if st.Mode() != 0o755|fs.ModeSetuid || content(t, filepath.Join(dir, "usr/lib/hard")) != "inside" {
		t.Errorf("it has mode %v, and its other name %q", st.Mode(), content(t, filepath.Join(dir, "usr/lib/hard")))
	}
	var us unix.Stat_t
	must(t, unix.Lstat(filepath.Join(dir, "usr/lib/a"), &us))
	if us.Uid != base+33 {
		t.Errorf("it belongs to %d", us.Uid)
	}
	var out bytes.Buffer
	must(t, r.Pack("/usr/lib", &out))
	var names []string
	for tr := tar.NewReader(&out); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		if h.Name == "lib/a" && h.Uid != 33 {
			t.Errorf("packed it belongs to %d", h.Uid)
		}
		names = append(names, h.Name)
	}
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "lib/ lib/a lib/hard lib/link" {
		t.Errorf("packed are %q", got)
	}
	// A name that is not there yet, and one whose folder is not.
	must(t, r.Unpack("/etc/new", pack(t, entry{"old", "x", 0, 0o600, 1000}), runtime.UnpackOptions{Rename: true, AsRoot: true}))
	must(t, unix.Lstat(filepath.Join(dir, "etc/new"), &us))
	if us.Uid != base || content(t, filepath.Join(dir, "etc/new")) != "x" {
		t.Errorf("it is %q and belongs to %d", content(t, filepath.Join(dir, "etc/new")), us.Uid)
	}
	for name, rename := range map[string]bool{"/no/such": true, "/none": false, "/none/": true} {
		if err := r.Unpack(name, pack(t, entry{"a", "x", 0, 0o600, 0}), runtime.UnpackOptions{Rename: rename}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("into %s: %v", name, err)
		}
	}
	if err := r.Find("/etc/nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing is found: %v", err)
	}
	if err := r.Unpack("/etc", pack(t, entry{"disk", "", tar.TypeBlock, 0o600, 0}), runtime.UnpackOptions{}); err == nil {
		t.Error("a device was made")
	}
}

// TestNothingLeadsOut tries what a container, or an archive, may do to have files of its host read or written.
func TestNothingLeadsOut(t *testing.T) {
	r, dir := newRoot(t)
	secret := filepath.Join(dir, "../outside/secret")
	for _, target := range []string{"../outside", "/../outside", filepath.Dir(secret), "/proc/self/root" + filepath.Dir(secret)} {
		link := filepath.Join(dir, "way")
		must(t, os.Symlink(target, link))
		_ = r.Unpack("/way", pack(t, entry{"secret", "broken", 0, 0o600, 0}), runtime.UnpackOptions{})
		_ = r.Unpack("/", pack(t, entry{"way/secret", "broken", 0, 0o600, 0}), runtime.UnpackOptions{})
		_ = r.Unpack("/way/secret", pack(t, entry{"a", "broken", 0, 0o600, 0}), runtime.UnpackOptions{Rename: true})
		_ = r.Unpack("/", pack(t, entry{"w2", target, tar.TypeSymlink, 0, 0}, entry{"w2/secret", "broken", 0, 0o600, 0}, entry{"h", "w2/secret", tar.TypeLink, 0, 0}), runtime.UnpackOptions{})
		_ = r.Unpack("/", pack(t, entry{"../../outside/secret", "broken", 0, 0o600, 0}), runtime.UnpackOptions{})
		_ = r.replace("/way/secret", []byte("broken"), 0o600, 0, 0)
		if got := content(t, secret); got != "whole" {
			t.Fatalf("by way of %s it is %q", target, got)
		}
		var out bytes.Buffer
		_ = r.Pack("/way/", &out)
		_ = r.Pack("/way/secret", &out)
		if strings.Contains(out.String(), "whole") {
			t.Fatalf("by way of %s it was read", target)
		}
		must(t, os.Remove(link), os.RemoveAll(filepath.Join(dir, "w2")), os.RemoveAll(filepath.Join(dir, "outside")), os.RemoveAll(filepath.Join(dir, "h")))
	}
}
