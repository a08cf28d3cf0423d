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
	"github.com/opencontainers/runtime-spec/specs-go"

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

func (c v1) apply(path string, l runtime.Limits) error {
	cg, err := c.load(path)
	if err != nil {
		return err
	}
	ram, both := int64(unlimited), int64(unlimited)
	if l.RAM > 0 {
		ram, both = l.RAM, l.RAM+l.Swap
	}
	shares, quota, per := uint64(weight(l)), int64(-1), uint64(period)
	if l.MilliCPU > 0 {
		quota = microQuota(l)
	}
	// Memory may never exceed memory+swap, so the order of the two depends on the direction; the library's own
	// ordering confuses the latter with the soft limit.
	steps := []*specs.LinuxMemory{{Limit: &ram}}
	if c.swap {
		steps = append(steps, &specs.LinuxMemory{Swap: &both})
	}
	st, err := cg.Stat(skipAbsent)
	if err != nil {
		return err
	}
	if st.Memory != nil && st.Memory.Usage != nil && uint64(ram) > st.Memory.Usage.Limit {
		slices.Reverse(steps)
	}
	for _, s := range steps {
		if err := cg.Update(&specs.LinuxResources{Memory: s}); err != nil {
			return err
		}
	}
	return cg.Update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &per}})
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

func (c v1) limitFiles(path string) []string {
	mem, cpu := filepath.Join(c.root, "memory", path), filepath.Join(c.root, "cpu", path)
	return []string{
		filepath.Join(mem, "memory.limit_in_bytes"), filepath.Join(mem, "memory.memsw.limit_in_bytes"),
		filepath.Join(cpu, "cpu.shares"), filepath.Join(cpu, "cpu.cfs_period_us"), filepath.Join(cpu, "cpu.cfs_quota_us"),
	}
}

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
