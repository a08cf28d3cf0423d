package lxcfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// serveAgain binds the files over those of a dead process, in every container that has them. One that has ended
// meanwhile needs nothing.
func (l *LXCFS) serveAgain() error {
	if l.Inits == nil {
		return nil
	}
	pids, err := l.Inits()
	if err != nil {
		return fmt.Errorf("list the containers that lxcfs serves: %w", err)
	}
	var errs []error
	for _, pid := range pids {
		if err := l.rebind(pid); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("bind the files of lxcfs in the container of process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// rebind replaces the files that a container has of lxcfs. Containers that began without it have none.
func (l *LXCFS) rebind(pid int) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return err
	}
	defer f.Close()
	has, err := mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) {
		return !slices.Contains(Files(), m.Mountpoint), false
	})
	if err != nil || len(has) == 0 {
		return err
	}
	var paths []string
	for _, m := range has {
		if !slices.Contains(paths, m.Mountpoint) {
			paths = append(paths, m.Mountpoint)
		}
	}
	return l.mountIn(pid, paths)
}

// mountIn mounts files inside the mount namespace of a process. Paths are looked up there, so that whatever the container
// has made of them leads nowhere else.
func (l *LXCFS) mountIn(pid int, paths []string) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // and never unlocked: the thread ends with its namespace
		done <- l.enterAndMount(pid, paths)
	}()
	return <-done
}

func (l *LXCFS) enterAndMount(pid int, paths []string) error {
	var trees []int
	defer func() {
		for _, fd := range trees {
			unix.Close(fd)
		}
	}()
	for _, p := range paths {
		fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(l.Dir, p), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("open %s: %w", p, err)
		}
		trees = append(trees, fd)
	}
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // a namespace of mounts can only be entered alone
		return fmt.Errorf("leave the shared working directory: %w", err)
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the mounts of process %d: %w", pid, err)
	}
	for i, p := range paths {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
		if err := unix.MoveMount(trees[i], "", unix.AT_FDCWD, p, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount %s: %w", p, err)
		}
	}
	return nil
}
