package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/vzcluster/vzcluster/cluster"
)

// init1 returns the pid of a host's PID 1, 0 when it is switched off.
func (k *kit) init1(host string) int {
	k.t.Helper()
	pid, err := k.lab.InitPID(host)
	if err != nil {
		k.t.Fatal(err)
	}
	return pid
}

// under is a path of a host as it is seen from here.
func (k *kit) under(host, path string) string {
	return fmt.Sprintf("/proc/%d/root%s", k.init1(host), path)
}

// cgroups returns what a host has of a container's cgroups, one folder for each hierarchy.
func (k *kit) cgroups(host string, id int) []string {
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/vz/%d", "/sys/fs/cgroup/*/vz/%d"} {
		dirs, err := filepath.Glob(k.under(host, fmt.Sprintf(pattern, id)))
		if err != nil {
			k.t.Fatal(err)
		}
		found = append(found, dirs...)
	}
	return found
}

// inits returns the pids, as seen from here, of the processes on a host that are PID 1 of a copy of a container.
func (k *kit) inits(host string, id int) []int {
	k.t.Helper()
	pids := map[int]bool{}
	for _, dir := range k.cgroups(host, id) {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return ignoreGone(err)
			}
			b, err := os.ReadFile(path)
			for _, text := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(text); err == nil && isInit(pid) {
					pids[pid] = true
				}
			}
			return ignoreGone(err)
		})
		if err != nil {
			k.t.Fatal(err)
		}
	}
	var out []int
	for pid := range pids {
		out = append(out, pid)
	}
	return out
}

// ignoreGone takes what is removed while it is looked at for absent.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}

func isInit(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || strings.Contains(string(b), "State:\tZ") {
		return false
	}
	_, line, _ := strings.Cut(string(b), "NSpid:")
	line, _, _ = strings.Cut(line, "\n")
	all := strings.Fields(line)
	return len(all) > 0 && all[len(all)-1] == "1"
}

// copies returns the hosts on which a container runs, each once for every copy.
func (k *kit) copies(id int) []string {
	k.t.Helper()
	var hosts []string
	for _, h := range k.lab.Hosts() {
		if k.init1(h) == 0 {
			continue
		}
		for range k.inits(h, id) {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// traces lists everything that a host still has of a container.
func (k *kit) traces(host string, id int) []string {
	k.t.Helper()
	found := k.cgroups(host, id)
	for _, path := range []string{
		fmt.Sprintf("/sys/class/net/vz%d", id), fmt.Sprintf("/run/vzcluster/runc/%d", id), fmt.Sprintf("/run/vzcluster/containers/%d.json", id),
		fmt.Sprintf("/var/lib/vzcluster/containers/%d", id),
	} {
		if _, err := os.Lstat(k.under(host, path)); err == nil {
			found = append(found, path)
		}
	}
	found = append(found, k.leftMigrations(host)...)
	return append(found, k.mounts(host, fmt.Sprintf("/containers/%d/", id))...)
}

// mounts lists a host's mount points whose path has a part.
func (k *kit) mounts(host, part string) (found []string) {
	k.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", k.init1(host)))
	if err != nil {
		k.t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 4 && strings.Contains(f[4], part) {
			found = append(found, "mount "+f[4])
		}
	}
	return found
}

// leftMigrations lists the checkpoints, journals and mounts that migrations have left on a host.
func (k *kit) leftMigrations(host string) (found []string) {
	k.t.Helper()
	left, err := os.ReadDir(k.under(host, "/var/lib/vzcluster/migrations"))
	if err != nil {
		k.t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasSuffix(e.Name(), ".log") {
			continue // of a CRIU that failed: it is kept as long as its operation is remembered
		}
		found = append(found, "migrations/"+e.Name())
	}
	return append(found, k.mounts(host, "/migrations/")...)
}

// noTraces waits until a host has nothing of a container any more.
func (k *kit) noTraces(host string, id int) {
	k.t.Helper()
	k.until(fmt.Sprintf("nothing of container %d is left on %s", id, host), recovery, func() error {
		if found := k.traces(host, id); len(found) > 0 {
			return fmt.Errorf("there is still %s", strings.Join(found, ", "))
		}
		return nil
	})
}

// reservationsAddUp checks that what is reserved on each host is what its containers need.
func (k *kit) reservationsAddUp() error {
	st := k.status()
	need := map[string]cluster.Resources{}
	for _, c := range st.Containers {
		need[c.Host] = need[c.Host].Add(c.Limits.Resources())
	}
	for _, h := range st.Hosts {
		if h.Reserved != need[h.Name] {
			return fmt.Errorf("%s has %v reserved, its containers need %v", h.Name, h.Reserved, need[h.Name])
		}
	}
	return nil
}
