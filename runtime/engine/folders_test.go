package engine_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// TestFolders has a container with folders of its host: ids inside are those on disk, a checkpoint keeps them, and what is
// in them survives the container.
func TestFolders(t *testing.T) {
	h, s := newHost(t)
	ctx := t.Context()
	data, fixed := filepath.Join(h.dir, "data"), filepath.Join(h.dir, "fixed")
	must(t, errors.Join(os.Mkdir(data, 0o755), os.Mkdir(fixed, 0o755), os.WriteFile(filepath.Join(fixed, "f"), []byte("fixed\n"), 0o644)))
	s.Folders = []runtime.Folder{{Source: data, Path: "/srv/data"}, {Source: fixed, Path: "/fixed", ReadOnly: true}}
	must(t, h.Start(ctx, s))
	if got := h.run("echo inside > /srv/data/f; chown 7:8 /srv/data/f; cat /fixed/f; (echo x > /fixed/g) 2>/dev/null || echo refused; touch /fixed/f 2>/dev/null || echo refused"); got != "fixed\nrefused\nrefused" {
		t.Errorf("inside: %q", got)
	}
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(data, "f"), &st))
	if st.Uid != 7 || st.Gid != 8 {
		t.Errorf("on the host the file belongs to %d:%d, want 7:8", st.Uid, st.Gid)
	}
	must(t, h.Suspend(ctx, s))
	must(t, os.WriteFile(filepath.Join(data, "while"), []byte("suspended\n"), 0o644))
	must(t, h.Start(ctx, s))
	if got := h.run("cat /srv/data/f /srv/data/while; touch /fixed/f 2>/dev/null || echo refused"); got != "inside\nsuspended\nrefused" {
		t.Errorf("after it was resumed: %q", got)
	}
	must(t, h.Destroy(ctx, 101))
	if b, err := os.ReadFile(filepath.Join(data, "f")); err != nil || string(b) != "inside\n" {
		t.Errorf("when the container is gone its folder has %q: %v", b, err)
	}
	if _, err := os.Lstat(filepath.Join(h.dir, "containers", "101")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the container is still there: %v", err)
	}
	s.Folders[0].Source = filepath.Join(h.dir, "nowhere")
	if err := h.Start(ctx, s); err == nil || !strings.Contains(err.Error(), "this host has no folder") {
		t.Errorf("started without its folder: %v", err)
	}
	must(t, h.Destroy(ctx, 101))
}
