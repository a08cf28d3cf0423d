package engine_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/runtime"
)

// counting begins to count in a file of the container and returns what reads it.
func (h *host) counting() func() int {
	h.Helper()
	h.run("setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i > /root/n.new; mv /root/n.new /root/n; usleep 2000; done' </dev/null >/dev/null 2>&1 &")
	count := func() int {
		b, _ := os.ReadFile(filepath.Join(h.Roots.Layer(101), "root/n"))
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return n
	}
	h.eventually("counting", func() bool { return count() > 5 })
	return count
}

func (h *host) suspension() runtime.Suspension {
	h.Helper()
	is, err := h.Suspension(101)
	must(h.T, err)
	return is
}

func (h *host) running() bool {
	h.Helper()
	st, err := h.Status(101)
	must(h.T, err)
	return st.Running
}

func TestSuspendAndResume(t *testing.T) {
	h, s := newHost(t)
	ctx := t.Context()
	must(t, h.Start(ctx, s))
	count := h.counting()
	h.run("echo kept > /run/here")
	for range 2 {
		must(t, h.Suspend(ctx, s))
		stood := count()
		if h.running() || h.suspension() != runtime.Suspended {
			t.Fatalf("suspended it runs: %v, is kept: %q", h.running(), h.suspension())
		}
		must(t, h.Suspend(ctx, s)) // again
		must(t, h.Start(ctx, s))
		h.eventually("it goes on", func() bool { return count() > stood })
		if h.suspension() != "" || count() > stood+2000 || h.run("cat /run/here") != "kept" {
			t.Errorf("it stood at %d and is at %d, kept: %q", stood, count(), h.suspension())
		}
	}
	must(t, h.Suspend(ctx, s))
	must(t, h.DropMemory(ctx, 101))
	must(t, h.Start(ctx, s))
	if got := h.run("cat /run/here 2>/dev/null || echo booted"); got != "booted" {
		t.Errorf("without its memory it has %q", got)
	}
	must(t, h.Destroy(ctx, 101))
	if left := h.leftovers(); len(left) > 0 {
		t.Errorf("it has left %v", left)
	}
}

// TestSuspendCutOff has an agent die between the steps of suspend and resume.
func TestSuspendCutOff(t *testing.T) {
	h, s := newHost(t)
	ctx := t.Context()
	must(t, h.Start(ctx, s))
	count := h.counting()
	saved, memory := h.Saved(101), h.MemoryDir(101)

	// While the memory was written: what there is of it is nothing, and it goes on.
	must(t, os.MkdirAll(filepath.Join(saved, "memory.new/half"), 0o755))
	if h.suspension() != "" {
		t.Fatal("half a memory counts")
	}
	// Behind that, before the processes were ended: it is suspended all the same.
	must(t, h.Freeze(ctx, 101))
	must(t, os.RemoveAll(filepath.Join(saved, "memory.new")))
	must(t, h.SaveMemory(ctx, s, filepath.Join(saved, "memory.new")))
	must(t, os.Rename(filepath.Join(saved, "memory.new"), memory))
	stood := count()
	must(t, h.Suspend(ctx, s))
	if h.running() || h.suspension() != runtime.Suspended {
		t.Fatalf("it runs: %v, is kept: %q", h.running(), h.suspension())
	}
	// When the copy was made and held: it has not run, and is made again.
	must(t, h.PrepareRestore(ctx, s, memory))
	must(t, h.Restore(ctx, s, memory))
	must(t, h.Start(ctx, s))
	h.eventually("it goes on", func() bool { return count() > stood })
	// When the memory was marked as used up: what is held goes on.
	must(t, h.Suspend(ctx, s))
	stood = count()
	must(t, h.PrepareRestore(ctx, s, memory))
	must(t, h.Restore(ctx, s, memory))
	must(t, h.Checkpoints.Settle(ctx, memory))
	must(t, os.Rename(memory, filepath.Join(saved, "memory.old")))
	must(t, h.Start(ctx, s))
	h.eventually("it goes on", func() bool { return count() > stood })
	if h.suspension() != "" {
		t.Errorf("its memory is still kept: %q", h.suspension())
	}
	// And when its host went down then: it has to boot.
	must(t, h.Kill(ctx, 101))
	must(t, os.Mkdir(filepath.Join(saved, "memory.old"), 0o755))
	must(t, h.Start(ctx, s))
	if got := h.run("cat /proc/1/comm"); got != "init" || h.suspension() != "" {
		t.Errorf("inside runs %q, kept: %q", got, h.suspension())
	}
}

// TestBadMemory is kept when it cannot be resumed from.
func TestBadMemory(t *testing.T) {
	h, s := newHost(t)
	ctx := t.Context()
	must(t, h.Start(ctx, s))
	h.counting() // its init has opened its own streams by then
	must(t, h.Suspend(ctx, s))
	image := filepath.Join(h.MemoryDir(101), "inventory.img")
	good, err := os.ReadFile(image)
	must(t, err)
	must(t, os.WriteFile(image, []byte("nonsense"), 0o600))
	if err := h.Start(ctx, s); err == nil || !strings.Contains(err.Error(), "memory, which is kept") {
		t.Fatalf("it resumed from nonsense: %v", err)
	}
	if h.running() || h.suspension() != runtime.Suspended {
		t.Fatalf("it runs: %v, is kept: %q", h.running(), h.suspension())
	}
	must(t, os.WriteFile(image, good, 0o644))
	must(t, h.Start(ctx, s))
	if !h.running() {
		t.Error("it does not run")
	}
}

// TestSuspendRefused: what cannot be suspended runs on.
func TestSuspendRefused(t *testing.T) {
	h, s := newHost(t)
	ctx := t.Context()
	must(t, h.Start(ctx, s))
	count := h.counting()
	whole := h.Checkpoints
	h.Checkpoints = failing{whole}
	if err := h.Suspend(ctx, s); err == nil {
		t.Fatal("it was suspended without a checkpoint")
	}
	stood := count()
	h.eventually("it goes on", func() bool { return count() > stood })
	if h.suspension() != "" {
		t.Error("half of its memory is kept")
	}
	h.Checkpoints = whole
	must(t, h.Suspend(ctx, s))
}

// failing is a checkpointer on a full disk.
type failing struct{ runtime.Checkpointer }

func (failing) Dump(runtime.Checkpoint, int, string, func()) error {
	return errors.New("no space left on device")
}
