package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"

	"github.com/vzcluster/vzcluster/runtime"
)

// period is the CPU quota's, in microseconds.
const period = 100000

// unlimited is what both versions read as no limit at all.
const unlimited = math.MaxInt64

// v1 controls the hierarchies that are mounted one by one. Of those only the ones with a limit or a counter matter
// here; the others get their cgroup by Tree.Make.
type v1 struct {
	root string
	swap bool // the kernel accounts swap
}

func newV1(root string) (v1, error) {
	for _, need := range []string{"freezer", "memory", "cpu", "cpuacct", "pids"} {
		if !exists(filepath.Join(root, need, "cgroup.procs")) {
			return v1{}, fmt.Errorf("the cgroup controller %s is not mounted below %s; mount it, or boot with cgroup v2", need, root)
		}
	}
	return v1{root, exists(filepath.Join(root, "memory", "memory.memsw.limit_in_bytes"))}, nil
}

func (c v1) load(path string) (cgroup1.Cgroup, error) {
	return cgroup1.Load(cgroup1.StaticPath(path), cgroup1.WithHierarchy(func() ([]cgroup1.Subsystem, error) {
		return []cgroup1.Subsystem{
			cgroup1.NewMemory(c.root, cgroup1.OptionalSwap()), cgroup1.NewCpu(c.root), cgroup1.NewCpuacct(c.root), cgroup1.NewPids(c.root),
		}, nil
	}))
}

func (c v1) prepare(string) error { return nil }
func (c v1) settled(string) error { return nil }

func (c v1) settings(path string, l runtime.Limits, on machine) ([]setting, error) {
	at := func(controller, file string) string { return filepath.Join(c.root, controller, path, file) }
	quota := int64(-1)
	if l.MilliCPU > 0 {
		quota = microQuota(l)
	}
	ss := append(c.memory(path, l),
		setting{file: at("cpu", "cpu.shares"), value: number(weight(l))},
		setting{file: at("cpu", "cpu.cfs_period_us"), value: number(period)},
		setting{file: at("cpu", "cpu.cfs_quota_us"), value: number(quota)},
		setting{file: at("pids", "pids.max"), value: orMax(l.PIDs), none: "max"},
	)
	cpus, nodes := on.all(c.root, path)
	if on.cpus != "" {
		cpus = on.cpus
	}
	if on.nodes != "" {
		nodes = on.nodes
		ss = append(ss, setting{file: at("cpuset", "cpuset.memory_migrate"), value: "1"})
	}
	ss = append(ss,
		setting{file: at("cpuset", "cpuset.cpus"), value: cpus, none: on.optional(cpus), what: "which CPUs it may use"},
		setting{file: at("cpuset", "cpuset.mems"), value: nodes, none: nodes, what: "which memory nodes it may use"},
	)
	return append(ss, c.io(path, l, on)...), nil
}

// memory are the limits of memory. Memory may never exceed memory+swap, so the order of the two depends on the
// direction. The soft limit is what the kernel leaves to a cgroup when memory is short: the guarantee, if there is one.
func (c v1) memory(path string, l runtime.Limits) []setting {
	at := func(file string) string { return filepath.Join(c.root, "memory", path, file) }
	ram, both, soft := int64(unlimited), int64(unlimited), int64(unlimited)
	if l.RAM > 0 {
		ram, both = l.RAM, l.RAM+l.Swap
	}
	if l.SoftRAM > 0 {
		soft = l.SoftRAM
	}
	if l.Guarantee > 0 {
		soft = l.Guarantee
	}
	ss := []setting{{file: at("memory.limit_in_bytes"), value: number(ram)}}
	if c.swap {
		ss = append(ss, setting{file: at("memory.memsw.limit_in_bytes"), value: number(both)})
	}
	if now, err := readNumber(ss[0].file); err == nil && ram > now {
		slices.Reverse(ss)
	}
	return append(ss, setting{file: at("memory.soft_limit_in_bytes"), value: number(soft), none: number(unlimited), what: "memory that is guaranteed"})
}

// io are the limits of the disk. What a file's own cache writes later counts for nobody on v1.
func (c v1) io(path string, l runtime.Limits, on machine) []setting {
	at := func(file string) string { return filepath.Join(c.root, "blkio", path, file) }
	ss := []setting{{file: at("blkio.bfq.weight"), value: number(ioWeight(l)), none: "100", what: "the weight of its I/O"}}
	if exists(at("blkio.weight")) {
		ss[0].file, ss[0].value = at("blkio.weight"), number(max(ioWeight(l), 10))
	}
	if on.disk == "" {
		return ss
	}
	for _, t := range []struct {
		of string
		n  int64
	}{{"read_bps", l.ReadRate}, {"write_bps", l.WriteRate}, {"read_iops", l.ReadIOPS}, {"write_iops", l.WriteIOPS}} {
		ss = append(ss, setting{
			file: at("blkio.throttle." + t.of + "_device"), key: on.disk, value: number(t.n), none: "0", what: "its I/O",
		})
	}
	return ss
}

// skipAbsent lets a stat pass over what the kernel does not account: kernels without kmem or swap lack files.
func skipAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// weight is the CPU weight, 1024 being normal.
func weight(l runtime.Limits) int64 {
	if l.CPUUnits == 0 {
		return 1024
	}
	return l.CPUUnits
}

// microQuota is the CPU time per period in microseconds; the kernel refuses less than 1 ms.
func microQuota(l runtime.Limits) int64 { return max(l.MilliCPU*period/1000, 1000) }

func (c v1) usage(path string) (runtime.Usage, error) {
	cg, err := c.load(path)
	if err != nil {
		return runtime.Usage{}, err
	}
	st, err := cg.Stat(skipAbsent)
	if err != nil {
		return runtime.Usage{}, err
	}
	var u runtime.Usage
	if st.Memory != nil && st.Memory.Usage != nil {
		u.RAM = max(int64(st.Memory.Usage.Usage)-int64(st.Memory.TotalInactiveFile), 0)
	}
	if st.MemoryOomControl != nil {
		u.OOMKills = int64(st.MemoryOomControl.OomKill)
	}
	if st.CPU != nil && st.CPU.Usage != nil {
		u.CPUUsec = int64(st.CPU.Usage.Total / 1000)
	}
	if st.Pids != nil {
		u.PIDs = int64(st.Pids.Current)
	}
	return u, nil
}

func (c v1) freezer(path string) string {
	return filepath.Join(c.root, "freezer", path, "freezer.state")
}

func (c v1) setFrozen(path string, on bool) error {
	state := "THAWED"
	if on {
		state = "FROZEN"
	}
	return os.WriteFile(c.freezer(path), []byte(state), 0)
}

func (c v1) frozen(path string) (asked, still bool, err error) {
	b, err := os.ReadFile(c.freezer(path))
	if err != nil {
		return false, false, err
	}
	state := strings.TrimSpace(string(b))
	return state != "THAWED", state == "FROZEN", nil // FREEZING is in between; a thaw is done at once
}
