package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2"

	"github.com/vzcluster/vzcluster/runtime"
)

// v2 controls the unified hierarchy.
type v2 struct {
	root        string
	controllers []string
}

func newV2(root string) (v2, error) {
	m, err := cgroup2.Load("/", cgroup2.WithMountpoint(root))
	if err != nil {
		return v2{}, fmt.Errorf("cannot open the cgroup hierarchy: %w", err)
	}
	cs, err := m.RootControllers()
	if err != nil {
		return v2{}, fmt.Errorf("cannot list the cgroup controllers: %w", err)
	}
	return v2{root, cs}, nil
}

func (c v2) has(controller string) bool { return slices.Contains(c.controllers, controller) }

// apply also switches the controllers on that the container's own systemd may want to use.
func (c v2) apply(path string, l runtime.Limits) error {
	r, err := c.resources(path, l)
	if err != nil {
		return err
	}
	m, err := cgroup2.Load(path, cgroup2.WithMountpoint(c.root))
	if err != nil {
		return err
	}
	var enable []string
	for _, name := range []string{"cpu", "cpuset", "io", "memory", "pids"} {
		if c.has(name) {
			enable = append(enable, name)
		}
	}
	if len(enable) > 0 {
		if err := m.ToggleControllers(enable, cgroup2.Enable); err != nil {
			return err
		}
		// Only now the files exist, and with them the answer whether swap is accounted.
		if r, err = c.resources(path, l); err != nil {
			return err
		}
	}
	return m.Update(r)
}

// resources translates limits. A limit that is asked for and cannot be set is an error.
func (c v2) resources(path string, l runtime.Limits) (*cgroup2.Resources, error) {
	r := &cgroup2.Resources{}
	switch {
	case c.has("memory"):
		ram, swap := int64(unlimited), int64(unlimited)
		if l.RAM > 0 {
			ram, swap = l.RAM, l.Swap
		}
		r.Memory = &cgroup2.Memory{Max: &ram}
		if exists(filepath.Join(c.root, path, "memory.swap.max")) {
			r.Memory.Swap = &swap
		}
	case l.RAM > 0:
		return nil, errors.New("memory cannot be limited: the memory controller is not available; enable it in cgroup.subtree_control above")
	}
	switch {
	case c.has("cpu"):
		w := cgroup2.ConvertCPUSharesToCgroupV2Value(uint64(weight(l)))
		r.CPU = &cgroup2.CPU{Weight: &w, Max: cgroup2.NewCPUMax(nil, nil)}
		if l.MilliCPU > 0 {
			q := microQuota(l)
			r.CPU.Max = cgroup2.NewCPUMax(&q, nil)
		}
	case l.MilliCPU > 0:
		return nil, errors.New("CPU time cannot be limited: the cpu controller is not available; enable it in cgroup.subtree_control above")
	}
	return r, nil
}

func (c v2) limitFiles(path string) []string {
	var fs []string
	for _, name := range []string{"memory.max", "memory.swap.max", "cpu.weight", "cpu.max"} {
		fs = append(fs, filepath.Join(c.root, path, name))
	}
	return fs
}

func (c v2) usage(path string) (runtime.Usage, error) {
	m, err := cgroup2.Load(path, cgroup2.WithMountpoint(c.root))
	if err != nil {
		return runtime.Usage{}, err
	}
	st, err := m.StatFiltered(cgroup2.StatCPU | cgroup2.StatMemory | cgroup2.StatMemoryEvents | cgroup2.StatPids)
	if err != nil {
		return runtime.Usage{}, err
	}
	var u runtime.Usage // a nil part is not available
	if st.Memory != nil {
		u.RAM = max(int64(st.Memory.Usage)-int64(st.Memory.InactiveFile), 0)
	}
	if st.MemoryEvents != nil {
		u.OOMKills = int64(st.MemoryEvents.OomKill)
	}
	if st.CPU != nil {
		u.CPUUsec = int64(st.CPU.UsageUsec)
	}
	if st.Pids != nil {
		u.PIDs = int64(st.Pids.Current)
	}
	return u, nil
}

func (c v2) setFrozen(path string, on bool) error {
	state := "0"
	if on {
		state = "1"
	}
	return os.WriteFile(filepath.Join(c.root, path, "cgroup.freeze"), []byte(state), 0)
}

func (c v2) frozen(path string) (asked, still bool, err error) {
	b, err := os.ReadFile(filepath.Join(c.root, path, "cgroup.freeze"))
	if err != nil {
		return false, false, err
	}
	n, err := readKey(filepath.Join(c.root, path, "cgroup.events"), "frozen")
	return strings.TrimSpace(string(b)) == "1", n == 1, err
}

// readKey reads one number from a file of "key number" lines.
func readKey(name, key string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), key+" "); ok {
			return strconv.ParseInt(v, 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %q", name, key)
}
