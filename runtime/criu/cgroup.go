package criu

import (
	"fmt"
	"os"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
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
