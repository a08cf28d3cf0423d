package engine_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// tries runs a line inside and returns what it said, whatever came of it.
func (h *host) tries(line string) string {
	h.Helper()
	var out bytes.Buffer
	_, err := h.Exec(h.Context(), 101, runtime.ExecOptions{Args: []string{"sh", "-c", line}, Stdout: &out, Stderr: &out})
	if err != nil {
		h.Fatalf("%s: %v", line, err)
	}
	return out.String()
}

// TestEscapes tries the published ways out of runc's containers with a real one. Each is a container's root that does what
// the known attack began with; refused means that the host is as it was.
func TestEscapes(t *testing.T) {
	h, s := newHost(t)
	ctx := t.Context()
	must(t, h.Start(ctx, s))
	t.Cleanup(func() { _ = h.Destroy(t.Context(), 101) })

	t.Run("CVE-2019-5736: runc is overwritten through /proc/PID/exe", func(t *testing.T) {
		before, err := os.ReadFile(bin + "runc")
		must(t, err)
		// A program that exec runs is replaced by what runs it: /proc/self/exe is runc while it is being started.
		h.run(`printf '#!/proc/self/exe\n' > /root/again; chmod 755 /root/again`)
		for range 3 {
			_, _ = h.Exec(ctx, 101, runtime.ExecOptions{Args: []string{"/root/again"}})
		}
		said := h.tries(`for p in /proc/[0-9]*; do (echo owned > $p/exe) 2>/dev/null && readlink $p/exe; done; true`)
		after, err := os.ReadFile(bin + "runc")
		must(t, err)
		if !bytes.Equal(before, after) || strings.Contains(said, "runc") {
			t.Errorf("runc on the host was changed; inside: %s", said)
		}
	})

	t.Run("CVE-2024-21626: a working directory that is a descriptor of the host", func(t *testing.T) {
		for fd := 3; fd < 12; fd++ { // runc had 7 or 8 open
			dir := fmt.Sprintf("/proc/self/fd/%d", fd)
			var out bytes.Buffer
			code, err := h.Exec(ctx, 101, runtime.ExecOptions{
				Args: []string{"sh", "-c", "ls ../../../../../../.." + h.dir + " 2>/dev/null && echo escaped"}, Dir: dir, Stdout: &out, Stderr: &out,
			})
			if err == nil && code == 0 || strings.Contains(out.String(), "escaped") {
				t.Errorf("with %s as working directory: %s", dir, out.String())
			}
		}
		if said := h.tries(`for f in /proc/1/fd/* /proc/self/fd/*; do ls $f/../../../` + h.dir + ` 2>/dev/null && echo escaped $f; done; true`); strings.Contains(said, "escaped") {
			t.Errorf("a descriptor leads to the host: %s", said)
		}
	})

	t.Run("CVE-2025-31133: masked files behind a /dev/null that is none", func(t *testing.T) {
		must(t, h.Stop(ctx, 101, false, 0))
		root := h.Roots.Layer(101)
		target := filepath.Join(h.dir, "target")
		must(t, os.WriteFile(target, []byte("host"), 0o644))
		must(t, os.MkdirAll(filepath.Join(root, "dev"), 0o755))
		must(t, os.RemoveAll(filepath.Join(root, "dev/null")))
		must(t, os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(root, "dev/null")))
		pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
		must(t, err)
		if err := h.Start(ctx, s); err == nil {
			if said := h.tries("(echo '|/owned' > /proc/kcore) 2>&1; (echo '|/owned' > /dev/null) 2>&1; cat /proc/sys/kernel/core_pattern"); strings.Contains(said, "owned") {
				t.Errorf("inside: %s", said)
			}
		}
		if now, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || !bytes.Equal(now, pattern) {
			t.Errorf("core_pattern is %q: %v", now, err)
		}
		must(t, h.Destroy(ctx, 101))
		must(t, h.Start(ctx, s))
	})

	t.Run("CVE-2025-52565, CVE-2021-30465: mount points that are links out of the root", func(t *testing.T) {
		outside := filepath.Join(h.dir, "outside")
		must(t, os.Mkdir(outside, 0o777))
		for _, point := range []string{"dev/pts", "dev/shm", "dev/mqueue", "sys", "proc"} {
			must(t, h.Stop(ctx, 101, false, 0))
			root := h.Roots.Layer(101)
			must(t, os.RemoveAll(filepath.Join(root, point)))
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, point)), 0o755))
			must(t, os.Symlink("../../../../../../../.."+outside, filepath.Join(root, point)))
			if err := h.Start(ctx, s); err == nil {
				_ = h.tries("touch /" + point + "/escaped")
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
				t.Errorf("/%s as a link leads to the host: %v, %v", point, left, err)
			}
			var st, up unix.Stat_t
			must(t, unix.Stat(outside, &st))
			must(t, unix.Stat(h.dir, &up))
			if st.Dev != up.Dev {
				t.Errorf("/%s as a link: something is mounted outside of the root", point)
			}
			must(t, h.Destroy(ctx, 101))
			must(t, h.Start(ctx, s))
		}
	})

	t.Run("CVE-2025-52881: what the runtime writes to /proc lands elsewhere", func(t *testing.T) {
		names := []string{"/proc/sys/kernel/panic", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sys/kernel/hostname"}
		before := read(t, names...)
		// A file of /proc laid over another one would take what the runtime writes for a label or a sysctl.
		h.run("touch /root/f; mount --bind /root/f /proc/self/attr/current 2>/dev/null; mount -t tmpfs tmpfs /proc/self 2>/dev/null; true")
		for _, name := range names[:3] {
			if said := h.tries("(echo 7 > " + name + ") 2>/dev/null && echo written"); strings.Contains(said, "written") {
				t.Errorf("%s can be written inside", name)
			}
		}
		if said := h.tries("(echo c > /proc/sysrq-trigger) 2>/dev/null && echo written"); strings.Contains(said, "written") {
			t.Error("/proc/sysrq-trigger can be written inside")
		}
		if after := read(t, names...); after != before {
			t.Errorf("the host had %q and has %q", before, after)
		}
	})

	t.Run("the host's keys, devices and modules", func(t *testing.T) {
		for _, line := range []string{
			"mknod /root/disk b 254 0 && dd if=/root/disk of=/root/b bs=512 count=1", "mknod /root/mem c 1 1 && dd if=/root/mem of=/root/b bs=512 count=1",
			"cat /proc/kcore | head -c 1 | grep -q .", "(echo 1 > /sys/kernel/uevent_helper)", "(echo '|/x' > /proc/sys/kernel/core_pattern)",
			"mount -t cgroup -o release_agent=/x cgroup /mnt", "swapoff -a && false", "insmod /root/x.ko",
		} {
			if said := h.tries("(" + line + ") >/dev/null 2>&1 && echo done || echo refused"); strings.TrimSpace(said) != "refused" {
				t.Errorf("%s: %s", line, said)
			}
		}
	})
}

// read joins what is in files of the host.
func read(t *testing.T, names ...string) string {
	t.Helper()
	var all []byte
	for _, name := range names {
		b, _ := os.ReadFile(name) // some can only be written
		all = append(all, b...)
	}
	return string(all)
}
