// Package lxcfs keeps one lxcfs process per host: a file system whose files say of a container what the host's /proc says
// of the host. They are bound over a container's own, so that free, top and uptime show its limits. It owns that
// process and its mount point, and knows nothing of the containers but the pids of their inits.
//
// The one rule for callers: containers run without it too; a failure here is a warning.
package lxcfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Files are what a container has of it, below the mount point and in the container alike.
func Files() []string {
	return []string{
		"/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime",
		"/sys/devices/system/cpu/online",
	}
}

// LXCFS is the process of one host. It outlives the agent.
type LXCFS struct {
	Binary string
	Dir    string                // mount point
	Adopt  func(pid int) error   // called with the new process, before it serves: it goes to a cgroup of its own
	Inits  func() ([]int, error) // of the running containers, to be served by a process that replaces a dead one
	Log    *slog.Logger
}

// How often it is looked whether the process serves, and how long it may take to begin.
const (
	lookEvery = time.Second
	startTime = 10 * time.Second
)

// Ensure returns when it serves; one that serves already is left alone.
func (l *LXCFS) Ensure(ctx context.Context) error {
	if l.Serves() {
		return nil
	}
	if err := l.clear(); err != nil {
		return err
	}
	if err := l.start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for !l.Serves() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("lxcfs does not serve %s; see %s", l.Dir, l.log())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return l.serveAgain()
}

// Run keeps it serving until ctx ends; it goes on after that.
func (l *LXCFS) Run(ctx context.Context) error {
	said, pause := "", lookEvery
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		dead := !l.Serves()
		err := l.Ensure(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			if pause = min(2*pause, time.Minute); err.Error() != said {
				l.Log.Warn("containers see the host's figures in /proc", "error", err)
			}
			said = err.Error()
		case dead && err == nil:
			l.Log.Info("lxcfs had ended and serves again")
			said, pause = "", lookEvery
		}
	}
}

// Serves reports whether the files are there.
func (l *LXCFS) Serves() bool {
	var st unix.Statfs_t
	if err := unix.Statfs(l.Dir, &st); err != nil || st.Type != unix.FUSE_SUPER_MAGIC {
		return false
	}
	_, err := os.Stat(filepath.Join(l.Dir, "proc/uptime"))
	return err == nil
}

func (l *LXCFS) log() string { return l.Dir + ".log" }
func (l *LXCFS) pid() string { return l.Dir + ".pid" }

// clear takes away what a process that has ended, or serves no more, has left.
func (l *LXCFS) clear() error {
	if b, err := os.ReadFile(l.pid()); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && l.is(pid) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	for {
		err := unix.Unmount(l.Dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // nothing is mounted any more
		}
		if err != nil {
			return fmt.Errorf("unmount the old lxcfs: %w", err)
		}
	}
}

// is reports whether a process is an lxcfs for our directory: pids are used again.
func (l *LXCFS) is(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(b), "\x00"+l.Dir+"\x00")
}

// start runs lxcfs in a session of its own, for it is not to end with the agent.
func (l *LXCFS) start() error {
	if err := os.MkdirAll(l.Dir, 0o755); err != nil {
		return fmt.Errorf("make the mount point of lxcfs: %w", err)
	}
	out, err := os.OpenFile(l.log(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make the log of lxcfs: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(l.Binary, "--foreground", "--enable-loadavg", "--pidfile="+l.pid(), l.Dir)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = l.environ()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start lxcfs: %w", err)
	}
	go func() { _ = cmd.Wait() }() // nobody else takes it away when it has ended
	if l.Adopt != nil {
		if err := l.Adopt(cmd.Process.Pid); err != nil {
			return errors.Join(fmt.Errorf("put lxcfs into its cgroup: %w", err), cmd.Process.Kill())
		}
	}
	return nil
}

// environ lets a copy in a folder of its own find the libraries that came with it.
func (l *LXCFS) environ() []string {
	real, err := filepath.EvalSymlinks(l.Binary)
	libs := filepath.Join(filepath.Dir(real), "lib")
	if _, gone := os.Stat(filepath.Join(libs, "liblxcfs.so")); err != nil || gone != nil {
		return os.Environ()
	}
	return append(os.Environ(), "LD_LIBRARY_PATH="+libs)
}
