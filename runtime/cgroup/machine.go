package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// machine is what limits become on this host: which CPUs and memory nodes (lists, empty for all), and the disk
// ("8:0", empty if its I/O is neither limited nor could be).
type machine struct {
	cpus, nodes, disk string
	asked             bool // the user named the CPUs or nodes: a host that cannot have them is wrong
}

// optional is the value of cpuset.cpus that a host without that file does well enough.
func (on machine) optional(cpus string) string {
	if on.asked {
		return ""
	}
	return cpus
}

// machine chooses CPUs and finds the disk.
func (m *Manager) machine(id int, l runtime.Limits) (on machine, err error) {
	if l.CPUMask != "" || l.NUMANodes != "" || l.CPUCount > 0 {
		if on, err = m.place(id, l); err != nil {
			return on, err
		}
	}
	limited := l.ReadRate > 0 || l.WriteRate > 0 || l.ReadIOPS > 0 || l.WriteIOPS > 0
	if m.disk == "" && !limited {
		return on, nil
	}
	if on.disk, err = diskBelow(m.disk); err != nil && limited {
		return on, runtime.Unable("its I/O cannot be limited on this host: " + err.Error())
	}
	return on, nil
}

// place chooses the CPUs and memory nodes of a container.
func (m *Manager) place(id int, l runtime.Limits) (on machine, err error) {
	all, nodes := m.here()
	cpus := all
	on.asked = l.CPUMask != "" || l.NUMANodes != ""
	if l.NUMANodes != "" {
		if on.nodes = l.NUMANodes; !within(l.NUMANodes, nodes) {
			return on, runtime.Unable(fmt.Sprintf("this host has the memory nodes %s, not %s", list(nodes), l.NUMANodes))
		}
		cpus = slices.DeleteFunc(slices.Clone(all), func(c int) bool { return !slices.Contains(cpusOf(l.NUMANodes), c) })
	}
	switch {
	case l.CPUMask != "":
		if on.cpus = l.CPUMask; !within(l.CPUMask, all) {
			return on, runtime.Unable(fmt.Sprintf("this host has the CPUs %s, not %s", list(all), l.CPUMask))
		}
	case l.CPUCount > 0 && int(l.CPUCount) < len(cpus):
		on.cpus = list(choose(id, int(l.CPUCount), cpus))
	case l.NUMANodes != "":
		on.cpus = list(cpus)
	}
	return on, nil
}

// choose takes n of the CPUs for a container, others than its neighbours by number have.
func choose(id, n int, cpus []int) []int {
	var out []int
	for i := range n {
		out = append(out, cpus[(id*n+i)%len(cpus)])
	}
	slices.Sort(out)
	return out
}

// here lists the CPUs and memory nodes that containers may have on this host.
func (m *Manager) here() (cpus, nodes []int) {
	top := filepath.Join(m.tree.root, "cpuset", m.parent)
	if m.tree.v2 {
		top = filepath.Join(m.tree.root, m.parent)
	}
	read := func(files ...string) []int {
		for _, f := range files {
			b, err := os.ReadFile(f)
			if ns, bad := parseList(strings.TrimSpace(string(b))); err == nil && bad == nil && len(ns) > 0 {
				return ns
			}
		}
		return nil
	}
	cpus = read(filepath.Join(top, "cpuset.cpus.effective"), filepath.Join(top, "cpuset.cpus"), "/sys/devices/system/cpu/online")
	return cpus, read(filepath.Join(top, "cpuset.mems.effective"), filepath.Join(top, "cpuset.mems"), "/sys/devices/system/node/online")
}

// all are the CPUs and memory nodes of the cgroup above, as v1 wants them written.
func (machine) all(root, path string) (cpus, nodes string) {
	above := filepath.Join(root, "cpuset", filepath.Dir(path))
	c, _ := os.ReadFile(filepath.Join(above, "cpuset.cpus"))
	n, _ := os.ReadFile(filepath.Join(above, "cpuset.mems"))
	return strings.TrimSpace(string(c)), strings.TrimSpace(string(n))
}

func cpusOf(nodes string) (cpus []int) {
	ns, _ := parseList(nodes)
	for _, n := range ns {
		b, _ := os.ReadFile(fmt.Sprintf("/sys/devices/system/node/node%d/cpulist", n))
		cs, _ := parseList(strings.TrimSpace(string(b)))
		cpus = append(cpus, cs...)
	}
	return cpus
}

func within(text string, has []int) bool {
	ns, err := parseList(text)
	return err == nil && !slices.ContainsFunc(ns, func(n int) bool { return !slices.Contains(has, n) })
}

// maxList bounds the numbers of a list.
const maxList = 8192

// parseList reads a list as the kernel writes it: "0-3,8".
func parseList(text string) (ns []int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, err := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if errors.Join(err, err2) != nil || a < 0 || b < a || b >= maxList {
			return nil, fmt.Errorf("%q is no list of numbers", text)
		}
		for n := a; n <= b; n++ {
			ns = append(ns, n)
		}
	}
	slices.Sort(ns)
	return slices.Compact(ns), nil
}

// list writes numbers as the kernel does.
func list(ns []int) string {
	var parts []string
	for i := 0; i < len(ns); {
		j := i
		for j+1 < len(ns) && ns[j+1] == ns[j]+1 {
			j++
		}
		part := strconv.Itoa(ns[i])
		if j > i {
			part += "-" + strconv.Itoa(ns[j])
		}
		parts, i = append(parts, part), j+1
	}
	return strings.Join(parts, ",")
}

// diskBelow finds the block device that a folder is on, as a whole: the kernel limits no partitions.
func diskBelow(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("it is not known which disk the containers are on")
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", fmt.Errorf("look at %s: %w", dir, err)
	}
	dev := st.Dev
	if unix.Major(dev) == 0 { // btrfs and others have numbers of their own: the device is what is mounted
		source, err := mountSource(dir)
		if err != nil {
			return "", err
		}
		if err := unix.Stat(source, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return "", fmt.Errorf("%s is on %s, which is no disk", dir, source)
		}
		dev = st.Rdev
	}
	name := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	at, err := filepath.EvalSymlinks("/sys/dev/block/" + name)
	if err != nil {
		return "", fmt.Errorf("%s is on the device %s, which is no disk: %w", dir, name, err)
	}
	if exists(filepath.Join(at, "partition")) {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(at), "dev"))
		if err != nil {
			return "", fmt.Errorf("find the disk of %s: %w", name, err)
		}
		name = strings.TrimSpace(string(b))
	}
	return name, nil
}

func mountSource(dir string) (string, error) {
	ms, err := mountinfo.GetMounts(mountinfo.ParentsFilter(dir))
	if err != nil {
		return "", fmt.Errorf("find what %s is mounted from: %w", dir, err)
	}
	source, longest := "", -1
	for _, m := range ms {
		if len(m.Mountpoint) >= longest {
			source, longest = m.Source, len(m.Mountpoint)
		}
	}
	return source, nil
}
