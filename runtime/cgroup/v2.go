package cgroup

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

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

// prepare switches the controllers on, also for what the container's own systemd may want to use.
func (c v2) prepare(path string) error {
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
	if len(enable) == 0 {
		return nil
	}
	return m.ToggleControllers(enable, cgroup2.Enable)
}

func (c v2) settings(path string, l runtime.Limits, on machine) ([]setting, error) {
	at := func(file string) string { return filepath.Join(c.root, path, file) }
	swap, quota := "max", "max"
	if l.RAM > 0 {
		swap = number(l.Swap)
	}
	if l.MilliCPU > 0 {
		quota = number(microQuota(l))
	}
	if err := c.makeRoom(path, l.RAM); err != nil {
		return nil, err
	}
	shares := number(int64(cgroup2.ConvertCPUSharesToCgroupV2Value(uint64(weight(l)))))
	ss := []setting{
		{file: at("memory.max"), value: orMax(l.RAM), none: "max", what: "memory"},
		{file: at("memory.swap.max"), value: swap, none: swap},
		{file: at("memory.min"), value: number(l.Guarantee), none: "0", what: "memory that is guaranteed"},
		{file: at("memory.high"), value: orMax(l.SoftRAM), none: "max", what: "memory"},
		{file: at("cpu.weight"), value: shares, none: shares},
		{file: at("cpu.max"), value: quota + " " + number(period), none: "max " + number(period), what: "CPU time"},
		{file: at("cpuset.cpus"), value: on.cpus, none: on.optional(on.cpus), what: "which CPUs it may use"},
		{file: at("cpuset.mems"), value: on.nodes, none: "", what: "which memory nodes it may use"},
		{file: at("pids.max"), value: orMax(l.PIDs), none: "max", what: "the number of processes"},
	}
	weight := setting{file: at("io.weight"), key: "default", value: number(ioWeight(l)), none: "100", what: "the weight of its I/O"}
	if bfq := at("io.bfq.weight"); exists(bfq) && !exists(weight.file) {
		weight.file = bfq
	}
	ss = append(ss, weight)
	if on.disk != "" {
		ss = append(ss, setting{
			file: at("io.max"), key: on.disk, none: "rbps=max wbps=max riops=max wiops=max", what: "its I/O",
			value: fmt.Sprintf("rbps=%s wbps=%s riops=%s wiops=%s", orMax(l.ReadRate), orMax(l.WriteRate), orMax(l.ReadIOPS), orMax(l.WriteIOPS)),
		})
	}
	return ss, nil
}

// makeRoom refuses a limit below what cannot be taken back, as v1 does: v2 would kill processes.
func (c v2) makeRoom(path string, ram int64) error {
	usage := filepath.Join(c.root, path, "memory.current")
	now, err := readNumber(usage)
	if err != nil || ram == 0 || now <= ram {
		return nil
	}
	// It takes back what it can and fails if that is less.
	_ = os.WriteFile(filepath.Join(c.root, path, "memory.reclaim"), []byte(number(now-ram)), 0)
	if now, err = readNumber(usage); err == nil && now > ram {
		return fmt.Errorf("%d bytes of memory are in use: %w", now, syscall.EBUSY)
	}
	return nil
}

// settled makes the cgroup above guarantee what those below it do together: less would be shared out among them.
func (c v2) settled(path string) error {
	above := filepath.Dir(filepath.Join(c.root, path))
	total := filepath.Join(above, "memory.min")
	if !exists(total) {
		return nil
	}
	entries, err := os.ReadDir(above)
	if err != nil {
		return err
	}
	var sum int64
	for _, e := range entries {
		if n, err := readNumber(filepath.Join(above, e.Name(), "memory.min")); err == nil {
			sum += n
		}
	}
	return os.WriteFile(total, []byte(number(sum)), 0)
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
