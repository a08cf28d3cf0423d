package inside

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

func TestWithPassword(t *testing.T) {
	day := time.Unix(20000*24*60*60, 0)
	for _, c := range []struct{ what, content, want string }{
		{"Debian's shadow", "root:*:19000:0:99999:7:::\nwww-data:*:19000:0:99999:7:::\n", "root:H:20000:0:99999:7:::\nwww-data:*:19000:0:99999:7:::\n"},
		{"Alpine's, without a last newline", "root:::0:::::", "root:H:20000:0:::::\n"},
		{"one that lacks him", "bin:!!:1::::::\n", "bin:!!:1::::::\nroot:H:20000:0:99999:7:::\n"},
		{"passwd", "root:x:0:0:root:/root:/bin/sh\n", "root:H:0:0:root:/root:/bin/sh\n"},
	} {
		if got := string(withPassword([]byte(c.content), "root", "H", day)); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

func TestWithKeys(t *testing.T) {
	if got := string(withKeys([]byte("a 1\n\nb 2"), "b 2\nc 3\n\nc 3")); got != "a 1\n\nb 2\nc 3\n" {
		t.Errorf("got %q", got)
	}
	if got := string(withKeys(nil, "a 1")); got != "a 1\n" {
		t.Errorf("the first: %q", got)
	}
}

func TestEdit(t *testing.T) {
	r, dir := newRoot(t)
	file := func(name, text string, mode os.FileMode) {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), mode), os.Chmod(filepath.Join(dir, name), mode))
	}
	file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\neve:x:1001:1001::/home/eve:/bin/sh\n", 0o644)
	file("etc/shadow", "root:*:1:0:99999:7:::\n", 0o640)
	file("usr/share/zoneinfo/Etc/UTC", "TZif2...", 0o644)
	must(t, os.Chown(filepath.Join(dir, "etc/shadow"), base, base+42), os.MkdirAll(filepath.Join(dir, "root/.ssh"), 0o700), os.MkdirAll(filepath.Join(dir, "home/ann"), 0o755),
		os.MkdirAll(filepath.Join(dir, "home/eve"), 0o755), os.Symlink("../../root/.ssh", filepath.Join(dir, "home/eve/.ssh")))
	must(t, r.Edit(runtime.Edits{Passwords: map[string]string{"root": "$6$x"}, Keys: map[string]string{"ann": "ssh-ed25519 AAAA ann"}, TimeZone: "Etc/UTC"}))
	for name, want := range map[string]string{
		"etc/shadow": "root:$6$x:", "home/ann/.ssh/authorized_keys": "ssh-ed25519 AAAA ann\n", "etc/localtime": "TZif2", "etc/timezone": "Etc/UTC\n",
	} {
		if got := content(t, filepath.Join(dir, name)); !strings.HasPrefix(got, want) {
			t.Errorf("%s has %q", name, got)
		}
	}
	for name, want := range map[string][3]uint32{
		"etc/shadow": {0o640, base, base + 42}, "home/ann/.ssh": {0o700, base + 1000, base + 1000}, "home/ann/.ssh/authorized_keys": {0o600, base + 1000, base + 1000},
	} {
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dir, name), &st))
		if got := [3]uint32{st.Mode & 0o777, st.Uid, st.Gid}; got != want {
			t.Errorf("%s has %o, want %o", name, got, want)
		}
	}
	must(t, r.Edit(runtime.Edits{ResolvConf: "nameserver 10.0.0.1\n"}))
	if got := content(t, filepath.Join(dir, "etc/resolv.conf")); got != "nameserver 10.0.0.1\n" {
		t.Errorf("resolv.conf has %q", got)
	}
	// What one cannot have changes nothing.
	before := content(t, filepath.Join(dir, "etc/shadow"))
	for what, e := range map[string]runtime.Edits{
		"no user":            {Passwords: map[string]string{"root": "$6$y", "nobody": "$6$y"}},
		"a key for no user":  {Passwords: map[string]string{"root": "$6$y"}, Keys: map[string]string{"bob": "k"}},
		"no zone":            {Passwords: map[string]string{"root": "$6$y"}, TimeZone: "Mars/Olympus"},
		"a zone that is not": {Passwords: map[string]string{"root": "$6$y"}, TimeZone: "../../../etc/passwd"},
		"another's folder":   {Keys: map[string]string{"eve": "evil"}},
	} {
		if err := r.Edit(e); err == nil || content(t, filepath.Join(dir, "etc/shadow")) != before {
			t.Errorf("%s: %v, and shadow has %q", what, err, content(t, filepath.Join(dir, "etc/shadow")))
		}
	}
	if got := content(t, filepath.Join(dir, "root/.ssh/authorized_keys")); got != "none" {
		t.Errorf("by way of her link eve gave root's account away: %q", got)
	}
}
