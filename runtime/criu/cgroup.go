package criu

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// cgroupRoots tells CRIU where the container's cgroups are on this host: at the same path in every hierarchy.
// CRIU itself stays out of them, or it would freeze with what it restores.
func cgroupRoots(path string) ([]*rpc.CgroupRoot, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("read the names of the cgroup hierarchies: %w", err)
	}
	var roots []*rpc.CgroupRoot
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 {
			roots = append(roots, &rpc.CgroupRoot{Ctrl: ptr(f[1]), Path: ptr(path)})
		}
	}
	return roots, nil
}

// bindCgroups shows CRIU the cgroup v2 hierarchy where it looks for it, and returns the folder. Left to itself CRIU
// mounts the hierarchy once more, without options, which takes nsdelegate and memory_recursiveprot from the whole host.
// Empty on hosts with cgroup v1, whose hierarchies keep their options.
func bindCgroups(ct runtime.Checkpoint, images string) (string, error) {
	if !isUnified(ct) {
		return "", nil
	}
	top := strings.TrimSuffix(ct.Freezer, ct.Cgroup)
	at := cgroupsOf(images)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return "", fmt.Errorf("make the mount point of the cgroups: %w", err)
	}
	if err := unix.Mount(top, at, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("bind the cgroups: %w", err)
	}
	return yardOf(images), nil
}

// yardOf is CRIU's folder of hierarchies, one folder each.
func yardOf(images string) string { return images + ".cgroups" }

func cgroupsOf(images string) string { return filepath.Join(yardOf(images), "unified") }
