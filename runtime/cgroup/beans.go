package cgroup

import (
	"fmt"
	"path/filepath"

	"github.com/vzcluster/vzcluster/runtime"
)

// pageSize is what memory is counted in by user beancounters.
const pageSize = 4096

// Beans implements runtime.Cgroups. What a kernel does not count is left out.
func (m *Manager) Beans(id int) ([]runtime.Bean, error) {
	path := m.Path(id)
	if !m.tree.Exists(path) {
		return nil, fmt.Errorf("cgroup %s: %w", path, runtime.ErrNotFound)
	}
	var out []runtime.Bean
	for _, b := range m.beans(path) {
		if b.Held >= 0 {
			out = append(out, b)
		}
	}
	return out, nil
}

// tally reads a number, divided by a unit; absent is what stands for one that is not there, -1 for one without bounds.
func tally(dir, file string, unit, absent int64) int64 {
	n, err := readNumber(filepath.Join(dir, file))
	switch {
	case err != nil:
		return absent
	case n >= unlimited-pageSize:
		return -1
	}
	return n / unit
}

func keyed(dir, file, key string) int64 {
	n, err := readKey(filepath.Join(dir, file), key)
	if err != nil {
		return 0
	}
	return n
}

// bean makes one with what v1 and v2 call its parts. The barrier is the limit where there is no softer one.
func bean(name, dir, held, most, limit string, unit, failures int64) runtime.Bean {
	b := runtime.Bean{Name: name, Held: tally(dir, held, unit, -1), Limit: tally(dir, limit, unit, -1), Failures: failures}
	b.MaxHeld, b.Barrier = max(tally(dir, most, unit, b.Held), b.Held), b.Limit
	return b
}

func processes(dir string) runtime.Bean {
	return bean("numproc", dir, "pids.current", "pids.peak", "pids.max", 1, keyed(dir, "pids.events", "max"))
}

// throttled counts the periods in which there was work, and those in which the CPU limit ended it.
func throttled(dir string) runtime.Bean {
	n := keyed(dir, "cpu.stat", "nr_periods")
	return runtime.Bean{Name: runtime.BeanCPU, Held: n, MaxHeld: n, Barrier: -1, Limit: -1, Failures: keyed(dir, "cpu.stat", "nr_throttled")}
}

// guaranteed is memory with its guarantee as barrier; it fails when a process is killed for want of memory.
func guaranteed(memory runtime.Bean, barrier, kills int64) runtime.Bean {
	memory.Name, memory.Barrier, memory.Limit, memory.Failures = runtime.BeanOOM, barrier, -1, kills
	return memory
}

func (c v1) beans(path string) []runtime.Bean {
	mem := filepath.Join(c.root, "memory", path)
	count := func(file string) int64 { return tally(mem, file, 1, 0) }
	phys := bean("physpages", mem, "memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes", pageSize, count("memory.failcnt"))
	return []runtime.Bean{
		bean("kmemsize", mem, "memory.kmem.usage_in_bytes", "memory.kmem.max_usage_in_bytes", "memory.kmem.limit_in_bytes", 1, count("memory.kmem.failcnt")),
		bean("privvmpages", mem, "memory.memsw.usage_in_bytes", "memory.memsw.max_usage_in_bytes", "memory.memsw.limit_in_bytes", pageSize, count("memory.memsw.failcnt")),
		phys,
		guaranteed(phys, tally(mem, "memory.soft_limit_in_bytes", pageSize, -1), keyed(mem, "memory.oom_control", "oom_kill")),
		processes(filepath.Join(c.root, "pids", path)),
		throttled(filepath.Join(c.root, "cpu", path)),
	}
}

func (c v2) beans(path string) []runtime.Bean {
	dir := filepath.Join(c.root, path)
	phys := bean("physpages", dir, "memory.current", "memory.peak", "memory.max", pageSize, keyed(dir, "memory.events", "max"))
	kernel := keyed(dir, "memory.stat", "kernel")
	return []runtime.Bean{
		{Name: "kmemsize", Held: kernel, MaxHeld: kernel, Barrier: -1, Limit: -1},
		bean("swappages", dir, "memory.swap.current", "memory.swap.peak", "memory.swap.max", pageSize, keyed(dir, "memory.swap.events", "fail")),
		phys,
		guaranteed(phys, tally(dir, "memory.min", pageSize, -1), keyed(dir, "memory.events", "oom_kill")),
		processes(dir),
		throttled(dir),
	}
}
