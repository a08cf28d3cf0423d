package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// Facts says what this host is like, for a container that comes from or goes to another one.
func (e *Engine) Facts() (runtime.Facts, error) {
	var f runtime.Facts
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return f, fmt.Errorf("read what the CPU can do: %w", err)
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return f, fmt.Errorf("read the cgroup hierarchies: %w", err)
	}
	f.CPU, f.Cgroups = cpuFlags(string(cpu)), hierarchies(string(groups))
	_, err = os.Stat("/proc/self/ns/time")
	f.Time = err == nil
	allowed, err := os.ReadFile("/proc/sys/vm/unprivileged_userfaultfd")
	f.Userfault = err == nil && strings.TrimSpace(string(allowed)) == "1"
	f.Devices, f.FileSystems = drivers("/proc", modulesDir())
	if f.CRIU, err = e.Checkpoints.Version(); err != nil {
		f.CRIU, f.Fault = 0, err.Error()
	}
	return f, nil
}

// cpuFlags are those of the first processor: "flags" on x86, "Features" on ARM.
func cpuFlags(cpuinfo string) []string {
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		if key = strings.TrimSpace(key); key == "flags" || key == "Features" {
			return strings.Fields(value)
		}
	}
	return nil
}

// hierarchies are the cgroup hierarchies that a process is in, by their controllers.
func hierarchies(groups string) []string {
	var out []string
	for line := range strings.Lines(groups) {
		if f := strings.SplitN(line, ":", 3); len(f) == 3 {
			controllers := strings.Split(f[1], ",")
			slices.Sort(controllers)
			out = append(out, strings.Join(controllers, ","))
		}
	}
	slices.Sort(out)
	return out
}

// Room is what this host has left for a container that comes.
func (e *Engine) Room() (r runtime.Room, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(e.Dir, &st); err != nil {
		return r, fmt.Errorf("read the room on the disk: %w", err)
	}
	r.Disk = int64(st.Bavail) * st.Bsize
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return r, fmt.Errorf("read the free memory: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			r.RAM = kib << 10
			return r, err
		}
	}
	return r, errors.New("the kernel does not say how much memory is free")
}

// Ready says what of this host's network is in the way of a container that comes; "" when nothing is.
func (e *Engine) Ready(ctx context.Context, nics []runtime.NIC) (string, error) {
	return e.Network.Ready(ctx, nics)
}
