package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime/network"
)

// Exec runs a command on a machine, as its root, and returns its exit code; 128 and the signal when one ended it.
// Files are handed over as they are, so a terminal works. When the context ends the command is killed.
func (l *Lab) Exec(ctx context.Context, host string, args []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	_, m, err := l.find(host)
	if err != nil {
		return 0, err
	}
	if !m.Proc.alive() {
		return 0, l.errOff(host)
	}
	if len(args) == 0 {
		return 0, errors.New("no command was given")
	}
	spaces, err := openSpaces(m.Proc.PID)
	defer closeAll(spaces)
	if err != nil {
		return 0, err
	}
	groups, err := l.openGroups(host)
	defer closeAll(groups)
	if err != nil {
		return 0, err
	}
	var cmd *exec.Cmd
	err = network.OnThread(func() error {
		if err := enter(spaces); err != nil {
			return err
		}
		cmd = command(ctx, args)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
		return startIn(groups, cmd)
	})
	if err != nil {
		return 0, fmt.Errorf("cannot run %s on %s: %w", args[0], host, err)
	}
	return exitCode(cmd.Wait())
}

// startIn starts a command and moves it into cgroups before its first instruction: a traced process stops at exec.
func startIn(groups []*os.File, cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	var err error
	for {
		if _, err = unix.Wait4(pid, nil, unix.WALL, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	for _, g := range groups {
		if err == nil {
			_, err = g.WriteString(strconv.Itoa(pid))
		}
	}
	if err == nil {
		err = unix.PtraceDetach(pid)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	return err
}

// command finds its program in the file system of the thread that it runs on.
func command(ctx context.Context, args []string) *exec.Cmd {
	path := args[0]
	if filepath.Base(path) == path {
		for _, dir := range filepath.SplitList(searchPath) {
			if fi, err := os.Stat(filepath.Join(dir, path)); err == nil && fi.Mode()&0o111 != 0 && !fi.IsDir() {
				path = filepath.Join(dir, path)
				break
			}
		}
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Args, cmd.Dir = args, "/"
	cmd.Env = []string{"PATH=" + searchPath, "HOME=/root", "USER=root", "LANG=C.UTF-8", "VZCLUSTER_HOST=unix://" + runDir + "/agent.sock"}
	if term := os.Getenv("TERM"); term != "" {
		cmd.Env = append(cmd.Env, "TERM="+term)
	}
	return cmd
}

// openSpaces opens a machine's namespaces, the mounts last: behind them the outside's /proc is out of sight.
func openSpaces(pid int) ([]*os.File, error) {
	var files []*os.File
	for _, name := range []string{"cgroup", "net", "uts", "ipc", "pid", "mnt"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err != nil {
			return files, fmt.Errorf("cannot enter the machine: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// openGroups opens the list of processes of a machine's cgroup in every hierarchy, for a process to be added.
func (l *Lab) openGroups(host string) ([]*os.File, error) {
	group := l.group(host)
	if l.tree.V2() {
		group = filepath.Join(group, "init") // the root has none
	}
	var files []*os.File
	for _, dir := range l.tree.Dirs() {
		f, err := os.OpenFile(filepath.Join(dir, group, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			return files, fmt.Errorf("cannot enter the machine: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// enter moves this thread into namespaces, for the process that it starts next.
func enter(spaces []*os.File) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	for _, f := range spaces {
		if err := unix.Setns(int(f.Fd()), 0); err != nil {
			return fmt.Errorf("cannot enter the machine: %w", err)
		}
	}
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0, err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// waitEnd waits until the process of a pidfd has ended.
func waitEnd(ctx context.Context, pidfd int) error {
	p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, 50)
		if n == 1 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
