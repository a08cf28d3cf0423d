package engine_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/runtime"
	"github.com/vzcluster/vzcluster/runtime/storage"
)

// TestStorage runs a container on each driver: its limit holds inside, and what it wrote survives a stop, a copy and a
// way back.
func TestStorage(t *testing.T) {
	for _, driver := range storage.Drivers() {
		t.Run(driver, func(t *testing.T) {
			h, s := newHostOf(t, driver)
			enforced := driver != storage.Overlay
			s.Limits.Disk.Bytes = 32 << 20
			must(t, h.Start(t.Context(), s))
			h.run("echo kept > /root/f")
			over := func() bool {
				var out bytes.Buffer
				code, err := h.Exec(t.Context(), 101, runtime.ExecOptions{Args: []string{"dd", "if=/dev/urandom", "of=/root/big", "bs=1M", "count=40", "conv=fsync"}, Stdout: &out, Stderr: &out})
				must(t, err)
				return code != 0
			}
			if over() != enforced {
				t.Errorf("40 MiB into 32: refused is %v", !enforced)
			}
			h.run("rm /root/big && sync")
			if driver == storage.Image {
				f := strings.Fields(h.run("df -m / | tail -1"))
				if n, err := strconv.Atoi(f[1]); err != nil || n < 32 || n > 36 {
					t.Errorf("df shows %v MiB, want about 32", f)
				}
			}
			saved := filepath.Join(h.dir, "containers", "101", "copy")
			must(t, h.Roots.Save(101, saved))
			h.run("echo later > /root/f; echo more > /root/g")

			larger := s
			larger.Limits.Disk.Bytes = 64 << 20
			if err := h.Update(101, larger.Limits); err != nil && driver != storage.Image { // which needs CAP_SYS_RESOURCE
				t.Error(err)
			}
			must(t, h.Stop(t.Context(), 101, false, 0))
			must(t, h.Start(t.Context(), larger))
			if got := h.run("cat /root/f"); got != "later" {
				t.Errorf("after a stop the file holds %q", got)
			}
			if over() {
				t.Error("40 MiB do not go into 64")
			}
			if u, err := h.DiskUsage(101); err != nil || u.Bytes < 40<<20 || u.Bytes > 60<<20 {
				t.Errorf("40 MiB are counted as %+v: %v", u, err)
			}
			must(t, h.Stop(t.Context(), 101, false, 0))
			upper, copied, err := h.NextLayer(s, saved)
			must(t, err)
			if copied != h.Roots.Instant() {
				t.Errorf("copied at once: %v", copied)
			}
			if !copied {
				from, err := h.Roots.Open(saved)
				must(t, err)
				must(t, os.Remove(upper))
				must(t, exec.Command("cp", "-a", from, upper).Run())
			}
			must(t, h.ExchangeLayer(101))
			must(t, h.Start(t.Context(), s))
			if got := h.run("cat /root/f; ls /root"); got != "kept\nf" {
				t.Errorf("what was saved holds %q", got)
			}
			must(t, h.Stop(t.Context(), 101, false, 0))
			if dir, err := h.Roots.Open(saved); err != nil {
				t.Error(err)
			} else if b, err := os.ReadFile(filepath.Join(dir, "root/f")); err != nil || string(b) != "kept\n" {
				t.Errorf("opened, the copy holds %q: %v", b, err)
			}
			must(t, h.Roots.Discard(saved))
			must(t, h.Destroy(t.Context(), 101))
			left, err := filepath.Glob(filepath.Join(h.dir, "containers", "[0-9.][0-9a-z]*"))
			must(t, err)
			for _, name := range left {
				if filepath.Base(name) != ".cgroup" {
					t.Errorf("destroyed, it leaves %s", name)
				}
			}
		})
	}
}
