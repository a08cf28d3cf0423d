package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/runtime"
)

const ct = 101

// open returns a manager whose cgroups go away with the test, processes included.
func open(t *testing.T, root string) *Manager {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	parent := fmt.Sprintf("vztest-%d", os.Getpid())
	m, err := New(Config{Parent: parent, Root: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := m.KillAll(ctx, ct); err != nil {
			t.Error(err)
		}
		if err := m.tree.Remove(ctx, "/"+parent); err != nil {
			t.Error(err)
		}
	})
	return m
}

// hierarchies runs a test on whatever this machine mounts: on a hybrid one that is v1, and v2 without controllers.
func hierarchies(t *testing.T, f func(t *testing.T, m *Manager)) {
	roots := []string{DefaultRoot}
	if u := filepath.Join(DefaultRoot, "unified"); exists(u) {
		roots = append(roots, u)
	}
	for _, root := range roots {
		t.Run(filepath.Base(root), func(t *testing.T) { f(t, open(t, root)) })
	}
}

// cat is a process that answers what it is sent.
type cat struct {
	cmd *exec.Cmd
	in  *os.File
	out *os.File
}

func startCat(t *testing.T, cgroups ...string) *cat {
	t.Helper()
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := &cat{exec.Command("cat"), inW, outR}
	c.cmd.Stdin, c.cmd.Stdout = inR, outW
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	inR.Close()
	outW.Close()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		go func() { _ = c.cmd.Wait() }() // it may be frozen until its cgroup is cleaned up
		inW.Close()
		outR.Close()
	})
	for _, dir := range cgroups {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, c.cmd.Process.Pid), 0); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// answers reports whether the process echoes within the time.
func (c *cat) answers(t *testing.T, within time.Duration) bool {
	t.Helper()
	if err := c.out.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	n, err := c.out.Read(make([]byte, 1))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return n == 1
}

func (c *cat) send(t *testing.T) {
	t.Helper()
	if _, err := c.in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}

func TestFreezeCoversSubCgroups(t *testing.T) {
	hierarchies(t, func(t *testing.T, m *Manager) {
		ctx := t.Context()
		if err := m.Create(ct, runtime.Limits{}, 4000000); err != nil {
			t.Fatal(err)
		}
		// As systemd does inside: a cgroup below the container's, in the hierarchies that it manages.
		outer, inner := startCat(t), startCat(t)
		for _, c := range []*cat{outer, inner} {
			if err := m.Add(ct, c.cmd.Process.Pid); err != nil {
				t.Fatal(err)
			}
		}
		for _, dir := range m.tree.delegable() {
			sub := filepath.Join(dir, m.Path(ct), "init.scope")
			if err := os.Mkdir(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(sub, "cgroup.procs"), fmt.Append(nil, inner.cmd.Process.Pid), 0); err != nil {
				t.Fatal(err)
			}
		}
		pids, err := m.PIDs(ct)
		if err != nil || len(pids) != 2 || !slices.Contains(pids, inner.cmd.Process.Pid) {
			t.Fatalf("PIDs = %v, %v, want %d and %d", pids, err, outer.cmd.Process.Pid, inner.cmd.Process.Pid)
		}
		if err := m.Freeze(ctx, ct); err != nil {
			t.Fatal(err)
		}
		if is, err := m.Frozen(ct); err != nil || !is {
			t.Fatalf("Frozen = %v, %v after Freeze", is, err)
		}
		for _, c := range []*cat{outer, inner} {
			if c.send(t); c.answers(t, 20*time.Millisecond) {
				t.Fatal("a frozen process answered")
			}
		}
		if err := m.Thaw(ctx, ct); err != nil {
			t.Fatal(err)
		}
		if is, err := m.Frozen(ct); err != nil || is {
			t.Fatalf("Frozen = %v, %v after Thaw", is, err)
		}
		if !outer.answers(t, 5*time.Second) || !inner.answers(t, 5*time.Second) {
			t.Fatal("a thawed process does not answer")
		}
	})
}

func TestFrozenProcessesDie(t *testing.T) {
	hierarchies(t, func(t *testing.T, m *Manager) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := m.Create(ct, runtime.Limits{}, 0); err != nil {
			t.Fatal(err)
		}
		var cats []*cat
		for range 20 {
			c := startCat(t)
			if err := m.Add(ct, c.cmd.Process.Pid); err != nil {
				t.Fatal(err)
			}
			cats = append(cats, c)
		}
		if err := m.Freeze(ctx, ct); err != nil {
			t.Fatal(err)
		}
		if err := m.KillAll(ctx, ct); err != nil {
			t.Fatal(err)
		}
		for _, c := range cats { // they hold their pipes no longer: they are gone, not just marked
			if _, err := c.in.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
				t.Fatalf("a killed process still has its files: %v", err)
			}
		}
		if pids, err := m.PIDs(ct); err != nil || len(pids) != 0 {
			t.Fatalf("PIDs = %v, %v after KillAll", pids, err)
		}
		if err := m.Remove(ct); err != nil {
			t.Fatal(err)
		}
		for _, dir := range m.tree.dirs {
			if exists(filepath.Join(dir, m.Path(ct))) {
				t.Errorf("%s is still there", filepath.Join(dir, m.Path(ct)))
			}
		}
	})
}

func TestEndTakesFrozenSubCgroups(t *testing.T) {
	hierarchies(t, func(t *testing.T, m *Manager) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := m.Create(ct, runtime.Limits{}, 0); err != nil {
			t.Fatal(err)
		}
		c := startCat(t)
		if err := errors.Join(m.Add(ct, c.cmd.Process.Pid), m.Freeze(ctx, ct)); err != nil {
			t.Fatal(err)
		}
		top := "/" + m.parent
		for range 2 {
			if err := m.tree.End(ctx, top); err != nil {
				t.Fatal(err)
			}
		}
		if m.tree.Exists(top) {
			t.Fatal("the subtree is still there")
		}
	})
}

func TestAbsentCgroup(t *testing.T) {
	hierarchies(t, func(t *testing.T, m *Manager) {
		ctx := t.Context()
		for what, err := range map[string]error{
			"Freeze": m.Freeze(ctx, ct), "Thaw": m.Thaw(ctx, ct), "Update": m.Update(ct, runtime.Limits{}),
		} {
			if !errors.Is(err, runtime.ErrNotFound) {
				t.Errorf("%s = %v, want ErrNotFound", what, err)
			}
		}
		if _, err := m.Usage(ct); !errors.Is(err, runtime.ErrNotFound) {
			t.Errorf("Usage = %v, want ErrNotFound", err)
		}
		if pids, err := m.PIDs(ct); len(pids) > 0 || err != nil {
			t.Errorf("PIDs = %v, %v", pids, err)
		}
		if err := errors.Join(m.KillAll(ctx, ct), m.Remove(ct)); err != nil {
			t.Errorf("removing nothing: %v", err)
		}
	})
}

func TestFreezeGivesUpAndThaws(t *testing.T) {
	m := fakeV2(t) // whose freezer never gets there
	dir := filepath.Join(m.tree.root, m.Path(ct))
	if err := os.WriteFile(filepath.Join(dir, "cgroup.events"), []byte("populated 1\nfrozen 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := m.Freeze(ctx, ct); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Freeze = %v, want a deadline", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "cgroup.freeze")); err != nil || string(b) != "0" {
		t.Fatalf("cgroup.freeze = %q, %v: a failed freeze left it frozen", b, err)
	}
}

func TestDelegate(t *testing.T) {
	hierarchies(t, func(t *testing.T, m *Manager) {
		const uid = 4000000
		if err := m.Create(ct, runtime.Limits{}, 0); err != nil {
			t.Fatal(err)
		}
		for _, dir := range m.tree.delegable() {
			if err := os.MkdirAll(filepath.Join(dir, m.Path(ct), "system.slice/a.service"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Delegate(ct, uid); err != nil {
			t.Fatal(err)
		}
		for _, dir := range m.tree.delegable() {
			for name, want := range map[string]uint32{
				"": uid, "cgroup.procs": uid, "system.slice/a.service/cgroup.procs": uid, "../cgroup.procs": 0,
			} {
				fi, err := os.Stat(filepath.Join(dir, m.Path(ct), name))
				if err != nil {
					t.Fatal(err)
				}
				if got := fi.Sys().(*syscall.Stat_t).Uid; got != want {
					t.Errorf("%s of %s belongs to %d, want %d", name, dir, got, want)
				}
			}
		}
	})
}

// limitsOf reads the limit files by base name.
func limitsOf(t *testing.T, m *Manager) map[string]string {
	t.Helper()
	ss, err := m.settings(m.Path(ct), runtime.Limits{}, machine{disk: "8:0"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range ss {
		if v, err := s.now(); err == nil {
			got[filepath.Base(s.file)] = v
		}
	}
	return got
}

func wantLimits(t *testing.T, m *Manager, want map[string]string) {
	t.Helper()
	got := limitsOf(t, m)
	for name, w := range want {
		if g, ok := got[name]; ok && g != w {
			t.Errorf("%s = %s, want %s", name, g, w)
		}
	}
}

func TestLimitsV1(t *testing.T) {
	m := open(t, "")
	if m.tree.v2 {
		t.Skip("this machine has no v1 hierarchies")
	}
	if err := m.Create(ct, runtime.Limits{RAM: 64 << 20, Swap: 32 << 20, MilliCPU: 500}, 0); err != nil {
		t.Fatal(err)
	}
	first := map[string]string{
		"memory.limit_in_bytes": "67108864", "memory.memsw.limit_in_bytes": "100663296",
		"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000", "cpu.shares": "1024",
	}
	wantLimits(t, m, first)
	for _, l := range []runtime.Limits{ // up, down, unlimited, down again: each order of the two memory limits
		{RAM: 256 << 20, Swap: 0, CPUUnits: 2048}, {RAM: 16 << 20}, {}, {RAM: 64 << 20, Swap: 32 << 20, MilliCPU: 500},
	} {
		if err := m.Update(ct, l); err != nil {
			t.Fatalf("%+v: %v", l, err)
		}
	}
	wantLimits(t, m, first)
	// Memory is set before the CPU quota is refused, and must go back.
	if err := m.Update(ct, runtime.Limits{RAM: 128 << 20, MilliCPU: 1 << 50}); err == nil {
		t.Fatal("an impossible quota was taken")
	}
	wantLimits(t, m, first)
}

func TestUsage(t *testing.T) {
	hierarchies(t, func(t *testing.T, m *Manager) {
		if err := m.Create(ct, runtime.Limits{}, 0); err != nil {
			t.Fatal(err)
		}
		c := startCat(t)
		if err := m.Add(ct, c.cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		u, err := m.Usage(ct)
		if err != nil {
			t.Fatal(err)
		}
		if !m.tree.v2 && u.PIDs != 1 {
			t.Errorf("PIDs = %d, want 1", u.PIDs)
		}
	})
}

// fakeV2 is a directory that looks like a unified hierarchy with all controllers.
func fakeV2(t *testing.T) *Manager {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{
		"cgroup.controllers": "cpuset cpu io memory pids", "cgroup.subtree_control": "", "vz/cgroup.subtree_control": "",
		"vz/101/memory.swap.max": "max", "vz/101/memory.max": "max", "vz/101/cpu.weight": "100", "vz/101/cpu.max": "max 100000",
	} {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := New(Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if !m.tree.V2() {
		t.Fatal("not seen as v2")
	}
	return m
}

func TestLimitsV2(t *testing.T) {
	m := fakeV2(t)
	if err := m.Update(ct, runtime.Limits{RAM: 64 << 20, Swap: 32 << 20, MilliCPU: 1500}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"memory.max": "67108864", "memory.swap.max": "33554432", "cpu.weight": "100", "cpu.max": "150000 100000"}
	wantLimits(t, m, want)
	for _, at := range []string{"", "vz"} {
		b, err := os.ReadFile(filepath.Join(m.tree.root, at, "cgroup.subtree_control"))
		if err != nil || !strings.Contains(string(b), "+memory") {
			t.Errorf("controllers are not switched on in %q: %q, %v", at, b, err)
		}
	}
	// A directory in place of the file: memory.max cannot be written, after the CPU limits were.
	max := filepath.Join(m.tree.root, m.Path(ct), "memory.max")
	if err := errors.Join(os.Remove(max), os.Mkdir(max, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := m.Update(ct, runtime.Limits{RAM: 1 << 30, CPUUnits: 10}); err == nil {
		t.Fatal("a limit that cannot be written was taken")
	}
	delete(want, "memory.max")
	wantLimits(t, m, want)
}

func TestLimitsNeedControllers(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "vz/101"), 0o755); err != nil {
		t.Fatal(err)
	}
	m := &Manager{tree: Tree{root: root, v2: true, dirs: []string{root}}, parent: "vz", disk: t.TempDir(), control: v2{root: root}}
	for what, l := range map[string]runtime.Limits{
		"memory": {RAM: 1 << 20}, "CPU time": {MilliCPU: 100}, "the number of processes": {PIDs: 10},
		"which CPUs": {CPUMask: "0"}, "guaranteed": {Guarantee: 1 << 20}, "weight": {IOWeight: 10},
	} {
		if err := m.Update(ct, l); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%+v without controllers: %v", l, err)
		}
	}
	for _, l := range []runtime.Limits{{}, {CPUCount: 1}} { // how many CPUs it sees is a courtesy
		if err := m.Update(ct, l); err != nil {
			t.Error(err)
		}
	}
}

func TestNegativeLimits(t *testing.T) {
	if err := fakeV2(t).Update(ct, runtime.Limits{RAM: -1}); err == nil {
		t.Fatal("a negative limit was taken")
	}
}

// slowFreezer comes to rest after some looks at it.
type slowFreezer struct {
	control
	asked bool
	looks int
}

func (s *slowFreezer) frozen(string) (asked, still bool, err error) {
	s.looks--
	return s.asked, s.looks < 0, nil
}

// What CRIU has just let go of is about to stand still: that is not mistaken for a container that was thawed.
func TestFrozenWaitsForRest(t *testing.T) {
	for _, asked := range []bool{true, false} {
		m := &Manager{parent: "vz", control: &slowFreezer{asked: asked, looks: 3}}
		if is, err := m.Frozen(ct); err != nil || is != asked {
			t.Errorf("a freeze asked for: %v; frozen: %v, %v", asked, is, err)
		}
	}
}
