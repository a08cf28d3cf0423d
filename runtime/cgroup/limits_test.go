package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vzcluster/vzcluster/runtime"
)

// plant makes files below root.
func plant(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// fakeHybrid looks like the hierarchies of cgroup v1, with one container, or like the hybrid kind.
func fakeHybrid(t *testing.T, hybrid bool) *Manager {
	t.Helper()
	root := t.TempDir()
	files := map[string]string{
		"memory/vz/101/memory.limit_in_bytes": "9223372036854771712", "memory/vz/101/memory.memsw.limit_in_bytes": "9223372036854771712",
		"memory/memory.memsw.limit_in_bytes": "9223372036854771712", "memory/vz/101/memory.soft_limit_in_bytes": "9223372036854771712",
		"cpu/vz/101/cpu.shares": "1024", "cpu/vz/101/cpu.cfs_period_us": "100000", "cpu/vz/101/cpu.cfs_quota_us": "-1",
		"pids/vz/101/pids.max": "max", "cpuset/vz/cpuset.cpus": "0-7", "cpuset/vz/cpuset.mems": "0-1",
		"cpuset/vz/101/cpuset.cpus": "0-7", "cpuset/vz/101/cpuset.mems": "0-1", "cpuset/vz/101/cpuset.memory_migrate": "0",
		"blkio/vz/101/blkio.bfq.weight": "100", "freezer/vz/101/freezer.state": "THAWED",
	}
	for _, f := range []string{"read_bps", "write_bps", "read_iops", "write_iops"} {
		files["blkio/vz/101/blkio.throttle."+f+"_device"] = ""
	}
	for _, c := range []string{"freezer", "memory", "cpu", "cpuacct", "pids", "cpuset", "blkio", "systemd"} {
		files[c+"/cgroup.procs"] = ""
	}
	if hybrid {
		files["unified/cgroup.procs"], files["unified/vz/101/cgroup.procs"] = "", ""
	}
	plant(t, root, files)
	m, err := New(Config{Root: root, Disk: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func fullV2(t *testing.T) *Manager {
	t.Helper()
	m := fakeV2(t)
	plant(t, m.tree.root, map[string]string{
		"vz/memory.min": "0", "vz/101/memory.min": "0", "vz/102/memory.min": "1000", "vz/101/memory.high": "max",
		"vz/101/pids.max": "max", "vz/101/io.weight": "default 100", "vz/101/io.max": "", "vz/101/cpuset.cpus": "\n", "vz/101/cpuset.mems": "\n",
		"vz/cpuset.cpus.effective": "0-7", "vz/cpuset.mems.effective": "0-1",
	})
	m.disk = t.TempDir()
	return m
}

// everything is a container with every limit.
func everything() runtime.Limits {
	return runtime.Limits{
		RAM: 64 << 20, Swap: 32 << 20, Guarantee: 16 << 20, SoftRAM: 48 << 20, MilliCPU: 1500, CPUUnits: 2048, CPUMask: "1,4-5", NUMANodes: "1",
		PIDs: 77, IOWeight: 300, ReadRate: 1 << 20, WriteRate: 2 << 20, ReadIOPS: 100, WriteIOPS: 200,
	}
}

// The same limits on v1, hybrid and v2, file by file; docs/resources.md has the table.
func TestEveryLimit(t *testing.T) {
	disk, err := diskBelow(t.TempDir())
	if err != nil {
		t.Skip(err)
	}
	one := map[string]string{
		"memory.limit_in_bytes": "67108864", "memory.memsw.limit_in_bytes": "100663296", "memory.soft_limit_in_bytes": "16777216",
		"cpu.shares": "2048", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000", "pids.max": "77",
		"cpuset.cpus": "1,4-5", "cpuset.mems": "1", "cpuset.memory_migrate": "1", "blkio.bfq.weight": "300",
		"blkio.throttle.read_bps_device": disk + " 1048576", "blkio.throttle.write_bps_device": disk + " 2097152",
		"blkio.throttle.read_iops_device": disk + " 100", "blkio.throttle.write_iops_device": disk + " 200",
	}
	two := map[string]string{
		"memory.max": "67108864", "memory.swap.max": "33554432", "memory.min": "16777216", "memory.high": "50331648",
		"cpu.weight": "200", "cpu.max": "150000 100000", "pids.max": "77", "cpuset.cpus": "1,4-5", "cpuset.mems": "1",
		"io.weight": "default 300", "io.max": disk + " rbps=1048576 wbps=2097152 riops=100 wiops=200",
	}
	for name, c := range map[string]struct {
		m    *Manager
		want map[string]string
	}{"v1": {fakeHybrid(t, false), one}, "hybrid": {fakeHybrid(t, true), one}, "v2": {fullV2(t), two}} {
		t.Run(name, func(t *testing.T) {
			if err := c.m.Update(ct, everything()); err != nil {
				t.Fatal(err)
			}
			got := files(t, c.m)
			for f, want := range c.want {
				if f == "cpu.weight" {
					continue // the kernel's own curve
				}
				if got[f] != want {
					t.Errorf("%s = %q, want %q", f, got[f], want)
				}
			}
		})
	}
	if b, err := os.ReadFile(filepath.Join(fullV2After(t), "vz/memory.min")); err != nil || string(b) != "16778216" {
		t.Errorf("the cgroup above guarantees %s, %v; want what its containers do together", b, err)
	}
}

func fullV2After(t *testing.T) string {
	t.Helper()
	m := fullV2(t)
	if err := m.Update(ct, everything()); err != nil {
		t.Fatal(err)
	}
	return m.tree.root
}

// files reads what is in the limit files of the container, by name.
func files(t *testing.T, m *Manager) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, dir := range append(m.tree.Dirs(), m.tree.root) {
		names, err := filepath.Glob(filepath.Join(dir, m.Path(ct), "*.*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if b, err := os.ReadFile(n); err == nil {
				got[filepath.Base(n)] = strings.TrimSpace(string(b))
			}
		}
	}
	return got
}

// Whichever setting is refused, all those before it are put back.
func TestLimitsAreAllOrNothing(t *testing.T) {
	for name, open := range map[string]func(*testing.T) *Manager{
		"v1": func(t *testing.T) *Manager { return fakeHybrid(t, true) }, "v2": fullV2,
	} {
		t.Run(name, func(t *testing.T) {
			for i := range 40 {
				m := open(t)
				before := files(t, m)
				on, err := m.machine(ct, everything())
				if err != nil {
					t.Skip(err)
				}
				ss, err := m.settings(m.Path(ct), everything(), on)
				if err != nil {
					t.Fatal(err)
				}
				if i >= len(ss) {
					return
				}
				if err := errors.Join(os.Remove(ss[i].file), os.Mkdir(ss[i].file, 0o755)); err != nil {
					t.Fatal(err)
				}
				if err := m.Update(ct, everything()); err == nil {
					t.Fatalf("%s cannot be written, and the limits were taken", ss[i].file)
				}
				after := files(t, m)
				spoilt := filepath.Base(ss[i].file)
				for f, v := range before {
					zero := strings.HasSuffix(after[f], " 0") || strings.HasSuffix(after[f], "wiops=max")
					if f != spoilt && after[f] != v && !(v == "" && zero) && !strings.HasPrefix(f, "cgroup.") {
						t.Errorf("after %s was refused %s = %q, was %q", spoilt, f, after[f], v)
					}
				}
			}
		})
	}
}

func TestCPUsAreChosen(t *testing.T) {
	m := fakeHybrid(t, false)
	for _, c := range []struct {
		id   int
		l    runtime.Limits
		want string
	}{
		{101, runtime.Limits{CPUCount: 2}, "2-3"},
		{102, runtime.Limits{CPUCount: 2}, "4-5"},
		{103, runtime.Limits{CPUCount: 3}, "5-7"},
		{104, runtime.Limits{CPUCount: 3}, "0-2"},
		{101, runtime.Limits{CPUCount: 3}, "0-1,7"},
		{101, runtime.Limits{CPUCount: 8}, ""}, // all there are
		{101, runtime.Limits{CPUCount: 99}, ""},
		{101, runtime.Limits{CPUMask: "0,2"}, "0,2"},
	} {
		on, err := m.place(c.id, c.l)
		if err != nil || on.cpus != c.want {
			t.Errorf("%d with %+v: %q, %v, want %q", c.id, c.l, on.cpus, err, c.want)
		}
	}
	for _, l := range []runtime.Limits{{CPUMask: "8"}, {CPUMask: "0-8"}, {CPUMask: "x"}, {NUMANodes: "2"}} {
		if on, err := m.place(101, l); err == nil {
			t.Errorf("%+v was taken: %+v", l, on)
		}
	}
}

func TestLists(t *testing.T) {
	for in, want := range map[string]string{"0": "0", "3,1,2": "1-3", "0-3,8": "0-3,8", "1,1": "1"} {
		ns, err := parseList(in)
		if err != nil || list(ns) != want {
			t.Errorf("%q is %v (%s), %v; want %s", in, ns, list(ns), err, want)
		}
	}
	for _, in := range []string{"", "-1", "2-1", "a", "0-99999999", "1,", "0x1"} {
		if ns, err := parseList(in); err == nil {
			t.Errorf("%q is %v", in, ns)
		}
	}
}

// A limit below what is in use is refused on v2 as on v1: the kernel itself would kill.
func TestMemoryInUseIsNotTaken(t *testing.T) {
	m := fullV2(t)
	plant(t, m.tree.root, map[string]string{"vz/101/memory.current": fmt.Sprint(80 << 20)})
	before := maps.Clone(files(t, m))
	if err := m.Update(ct, runtime.Limits{RAM: 64 << 20}); !errors.Is(err, syscall.EBUSY) {
		t.Fatalf("Update = %v, want EBUSY", err)
	}
	if got := files(t, m)["memory.max"]; got != before["memory.max"] {
		t.Errorf("memory.max = %s", got)
	}
}

// The kernel of this machine takes every limit that it has.
func TestEveryLimitOnThisMachine(t *testing.T) {
	m := open(t, "")
	m.disk = "/var/lib"
	if err := m.Create(ct, runtime.Limits{}, 0); err != nil {
		t.Fatal(err)
	}
	for _, l := range []runtime.Limits{
		{RAM: 64 << 20, Swap: 32 << 20, Guarantee: 16 << 20, SoftRAM: 48 << 20},
		{PIDs: 20},
		{CPUMask: "0"},
		{CPUCount: 1},
		{NUMANodes: "0"},
		{IOWeight: 300},
		{ReadRate: 1 << 20, WriteRate: 2 << 20, ReadIOPS: 100, WriteIOPS: 200},
		{MilliCPU: 100, CPUUnits: 10},
		{},
	} {
		if err := m.Update(ct, l); err != nil && !strings.Contains(err.Error(), "on this host") {
			t.Errorf("%+v: %v", l, err)
		} else if err != nil {
			t.Log(err)
		}
	}
}

func TestBeans(t *testing.T) {
	one := fakeHybrid(t, true)
	plant(t, one.tree.root, map[string]string{
		"memory/vz/101/memory.usage_in_bytes": "40960", "memory/vz/101/memory.max_usage_in_bytes": "81920", "memory/vz/101/memory.failcnt": "3",
		"memory/vz/101/memory.limit_in_bytes": "409600", "memory/vz/101/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		"pids/vz/101/pids.current": "5", "pids/vz/101/pids.max": "40", "pids/vz/101/pids.events": "max 7\n",
		"cpu/vz/101/cpu.stat": "nr_periods 100\nnr_throttled 60\n",
	})
	two := fullV2(t)
	plant(t, two.tree.root, map[string]string{
		"vz/101/memory.current": "40960", "vz/101/memory.peak": "81920", "vz/101/memory.max": "409600",
		"vz/101/memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\n", "vz/101/pids.current": "5", "vz/101/pids.max": "40",
		"vz/101/pids.events": "max 7\n", "vz/101/cpu.stat": "nr_periods 100\nnr_throttled 60\n",
	})
	want := map[string]runtime.Bean{
		"physpages":     {Name: "physpages", Held: 10, MaxHeld: 20, Barrier: 100, Limit: 100, Failures: 3},
		"numproc":       {Name: "numproc", Held: 5, MaxHeld: 5, Barrier: 40, Limit: 40, Failures: 7},
		runtime.BeanOOM: {Name: runtime.BeanOOM, Held: 10, MaxHeld: 20, Limit: -1, Failures: 2},
		runtime.BeanCPU: {Name: runtime.BeanCPU, Held: 100, MaxHeld: 100, Barrier: -1, Limit: -1, Failures: 60},
	}
	for name, m := range map[string]*Manager{"v1": one, "v2": two} {
		beans, err := m.Beans(ct)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, b := range beans {
			w, ok := want[b.Name]
			if !ok {
				continue
			}
			seen++
			if b.Name == runtime.BeanOOM {
				b.Barrier = 0 // v1 and v2 say no guarantee each in its way
			}
			if b != w {
				t.Errorf("%s: %+v, want %+v", name, b, w)
			}
		}
		if seen != len(want) {
			t.Errorf("%s has only %+v", name, beans)
		}
	}
	if _, err := one.Beans(102); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("of nothing: %v", err)
	}
}
