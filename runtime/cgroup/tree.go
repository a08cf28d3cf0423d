package cgroup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// DefaultRoot is where cgroups are mounted.
const DefaultRoot = "/sys/fs/cgroup"

// Tree is the set of hierarchies mounted below one directory. Its methods do the same thing in each of them.
type Tree struct {
	root string
	v2   bool     // one unified hierarchy with all controllers
	dirs []string // where each hierarchy is mounted
}

// OpenTree finds the hierarchies below root; empty means DefaultRoot.
func OpenTree(root string) (Tree, error) {
	if root == "" {
		root = DefaultRoot
	}
	if exists(filepath.Join(root, "cgroup.controllers")) {
		return Tree{root: root, v2: true, dirs: []string{root}}, nil
	}
	t := Tree{root: root}
	entries, err := os.ReadDir(root)
	if err != nil {
		return Tree{}, fmt.Errorf("cannot find the cgroup hierarchies: %w", err)
	}
	for _, e := range entries { // links (cpu -> cpu,cpuacct) name a hierarchy twice and are left out
		if dir := filepath.Join(root, e.Name()); e.IsDir() && exists(filepath.Join(dir, "cgroup.procs")) {
			t.dirs = append(t.dirs, dir)
		}
	}
	if len(t.dirs) == 0 {
		return Tree{}, fmt.Errorf("no cgroup hierarchy is mounted below %s; mount cgroup2 there", root)
	}
	return t, nil
}

// V2 reports whether there is one unified hierarchy with all controllers.
func (t Tree) V2() bool { return t.v2 }

// Dirs returns where each hierarchy is mounted.
func (t Tree) Dirs() []string { return slices.Clone(t.dirs) }

// main is the hierarchy that is asked which processes a cgroup has: on v1 the freezer's, where nobody makes cgroups
// inside a container's.
func (t Tree) main() string {
	if t.v2 {
		return t.root
	}
	return filepath.Join(t.root, "freezer")
}

// delegable are the hierarchies that systemd inside a container manages a part of.
func (t Tree) delegable() []string {
	if t.v2 {
		return t.dirs
	}
	var ds []string
	for _, name := range []string{"systemd", "unified"} {
		if d := filepath.Join(t.root, name); slices.Contains(t.dirs, d) {
			ds = append(ds, d)
		}
	}
	return ds
}

// Exists reports whether there is a cgroup of this path in the main hierarchy.
func (t Tree) Exists(path string) bool { return exists(filepath.Join(t.main(), path)) }

// Make makes the cgroup in every hierarchy, parents included (idempotent).
func (t Tree) Make(path string) error {
	for _, dir := range t.dirs {
		at := dir
		for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
			above := at
			at = filepath.Join(at, part)
			if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("cannot make cgroup %s: %w", at, err)
			}
			if err := fillCpuset(above, at); err != nil {
				return fmt.Errorf("cannot make cgroup %s: %w", at, err)
			}
		}
	}
	return nil
}

// fillCpuset gives a new cgroup of the v1 cpuset hierarchy its parent's CPUs and memory nodes: it starts with none and
// takes no process then.
func fillCpuset(above, at string) error {
	if exists(filepath.Join(at, "cgroup.controllers")) { // on v2 empty means the parent's
		return nil
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(at, name))
		if err != nil || len(bytes.TrimSpace(have)) > 0 {
			continue // another hierarchy, or filled
		}
		b, err := os.ReadFile(filepath.Join(above, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(at, name), b, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Add moves a process into the cgroup in every hierarchy.
func (t Tree) Add(path string, pid int) error {
	for _, dir := range t.dirs {
		if err := os.WriteFile(filepath.Join(dir, path, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("cannot move process %d to its cgroup: %w", pid, err)
		}
	}
	return nil
}

// Procs lists the processes in the cgroup and below it, in the pid namespace of the caller.
func (t Tree) Procs(path string) ([]int, error) { return procsBelow(filepath.Join(t.main(), path)) }

func procsBelow(top string) ([]int, error) {
	var pids []int
	for _, dir := range subtree(top) {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if gone(err) || errors.Is(err, syscall.EOPNOTSUPP) { // a threaded cgroup: its processes are listed above it
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list processes: %w", err)
		}
		for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
			if pid, err := strconv.Atoi(s.Text()); err == nil && pid > 0 { // 0: not of this pid namespace
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// Remove deletes the cgroup and those below it in every hierarchy (idempotent). Processes that are just ending keep a
// cgroup busy for a moment, hence a few retries.
func (t Tree) Remove(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var errs []error
	for _, dir := range t.dirs {
		dirs := subtree(filepath.Join(dir, path))
		slices.Reverse(dirs)
		for _, d := range dirs {
			if err := removeDir(ctx, d); err != nil {
				errs = append(errs, fmt.Errorf("cannot remove cgroup %s: %w", d, err))
				break
			}
		}
	}
	return errors.Join(errs...)
}

func removeDir(ctx context.Context, dir string) error {
	var p pacer
	for {
		err := syscall.Rmdir(dir)
		if err == nil || gone(err) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) || p.pause(ctx) != nil {
			return err
		}
	}
}

// subtree lists a directory and those below it, parents first; none if it does not exist.
func subtree(top string) []string {
	var dirs []string
	_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // removed meanwhile
		}
		if d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	return dirs
}

// gone reports whether the error says that a cgroup was removed.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) }

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// pacer spaces the polls of something that the kernel does not report: 200 microseconds at first, then 1 ms.
type pacer struct{ n int }

func (p *pacer) pause(ctx context.Context) error {
	d := time.Millisecond
	if p.n++; p.n <= 10 {
		d = 200 * time.Microsecond
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
