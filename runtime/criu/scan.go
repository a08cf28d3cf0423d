package criu

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/vzcluster/vzcluster/runtime"
)

// namespaceKinds are the namespaces that a scan tells apart.
var namespaceKinds = []string{"ipc", "net", "pid", "time", "user", "uts"}

// Scan implements runtime.Checkpointer. Processes that end meanwhile are left out.
func (Criu) Scan(init int, pids []int) (runtime.Scan, error) {
	scan := runtime.Scan{Init: init}
	for _, pid := range pids {
		p, err := process(pid)
		if err != nil {
			continue // it has ended
		}
		ppid, err := parent(pid)
		p.Foreign = err == nil && pid != init && !slices.Contains(pids, ppid)
		scan.Processes = append(scan.Processes, p)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", init))
	if err != nil {
		return scan, fmt.Errorf("read the mounts of process %d: %w", init, err)
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return scan, fmt.Errorf("read the mounts of process %d: %w", init, err)
	}
	for _, m := range mounts {
		scan.Mounts = append(scan.Mounts, runtime.Mount{Path: m.Mountpoint, Type: m.FSType})
	}
	return scan, nil
}

func process(pid int) (runtime.Process, error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	name, err := os.ReadFile(dir + "/comm")
	if err != nil {
		return runtime.Process{}, err
	}
	p := runtime.Process{PID: pid, Name: strings.TrimSpace(string(name)), Namespaces: map[string]string{}, Unit: unit(dir)}
	for _, kind := range namespaceKinds {
		if id, err := os.Readlink(dir + "/ns/" + kind); err == nil {
			p.Namespaces[kind] = id
		}
	}
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return p, err
	}
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(dir, "fd", fd.Name())); err == nil {
			p.Files = append(p.Files, target)
		}
	}
	return p, nil
}

func parent(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "PPid:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, fmt.Errorf("process %d has no parent", pid)
}

// unit is the systemd unit that a process belongs to: the last part of its cgroup path that looks like one.
func unit(dir string) string {
	b, err := os.ReadFile(dir + "/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || f[1] != "" && f[1] != "name=systemd" {
			continue
		}
		for _, part := range slices.Backward(strings.Split(f[2], "/")) {
			if strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope") {
				return part
			}
		}
	}
	return ""
}

// parasite is the name of the memory in which CRIU runs code inside a process that it dumps.
const parasite = "/memfd:CRIUMFD"

// hurt says whether a dump that was cut off has ended or infected one of the processes that there were before. What can
// be mended is mended.
func (c Criu) hurt(before []int, pids func() ([]int, error)) bool {
	now, err := pids()
	if err != nil || c.Infected(now) {
		return true
	}
	mend(now)
	return slices.ContainsFunc(before, func(pid int) bool { return !slices.Contains(now, pid) })
}

// aftermath is how long a process may take to die of what a killed CRIU has left in its registers.
const aftermath = 500 * time.Millisecond

// hurtSoon watches for a while: CRIU thaws what it dumps, so a process that it was inside of runs into its end.
func (c Criu) hurtSoon(before []int, pids func() ([]int, error)) bool {
	for end := time.Now().Add(aftermath); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c.hurt(before, pids) {
			return true
		}
	}
	return false
}

// Infected implements runtime.Checkpointer.
func (Criu) Infected(pids []int) bool {
	for _, pid := range pids {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if err == nil && bytes.Contains(maps, []byte(parasite)) {
			return true
		}
	}
	return false
}
