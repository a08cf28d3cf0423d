package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// End kills every process in the cgroup and below it, frozen or not, and removes it in every hierarchy (idempotent).
// It is for a whole subtree with freezers of its own inside; containers are ended by Manager.KillAll.
func (t Tree) End(ctx context.Context, path string) error {
	var p pacer
	for {
		pids, err := t.allProcs(path)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return t.Remove(ctx, path)
		}
		for _, pid := range pids {
			if pid == os.Getpid() {
				return fmt.Errorf("cgroup %s cannot be ended: this process itself is in it", path)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("cannot kill process %d of cgroup %s: %w", pid, path, err)
			}
		}
		t.thawAll(path) // not earlier: what is frozen must not run again before it dies
		if err := p.pause(ctx); err != nil {
			return fmt.Errorf("the processes of cgroup %s did not end in time: %w", path, err)
		}
	}
}

// thawAll lets frozen processes die: on v1 a frozen one does not even take SIGKILL.
func (t Tree) thawAll(path string) {
	name, state := "freezer.state", "THAWED"
	if t.v2 {
		name, state = "cgroup.freeze", "0"
	}
	for _, dir := range subtree(filepath.Join(t.main(), path)) {
		_ = os.WriteFile(filepath.Join(dir, name), []byte(state), 0) // gone meanwhile is as good
	}
}

// allProcs asks every hierarchy: a half-made group has its processes in some of them only.
func (t Tree) allProcs(path string) ([]int, error) {
	seen := map[int]bool{}
	var pids []int
	for _, dir := range t.dirs {
		ps, err := procsBelow(filepath.Join(dir, path))
		if err != nil {
			return nil, err
		}
		for _, pid := range ps {
			if !seen[pid] {
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}
