package runc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// execPatience is how long a command whose session was ended may take, and how long output may still come when a
// command has ended but its children keep the pipe.
const execPatience = 2 * time.Second

// Exec implements runtime.OCI. The command does not outlive its session: when ctx ends or this process dies it is
// hung up, as on a terminal that is lost, because what exec has left behind could never be moved live.
func (r *Runc) Exec(ctx context.Context, id int, o runtime.ExecOptions) (int, error) {
	st, err := r.Status(id)
	if err != nil {
		return 0, err
	}
	if !st.Running {
		return 0, fmt.Errorf("container %d: %w", id, runtime.ErrNotRunning)
	}
	dir, err := os.MkdirTemp(r.bundle(id), "exec-")
	if err != nil {
		return 0, fmt.Errorf("run a command in container %d: %w", id, err)
	}
	defer os.RemoveAll(dir)
	pidFile := filepath.Join(dir, "pid")
	cmd, err := r.execCommand(ctx, id, pidFile, o)
	if err != nil {
		return 0, fmt.Errorf("run a command in container %d: %w", id, err)
	}
	// The signal at this process's death is bound to the thread that starts the command, which must live as long.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	err = cmd.Run()
	if ctx.Err() != nil {
		killInside(st.PID, pidFile)
	}
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return cmd.ProcessState.ExitCode(), nil
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), nil
	case errors.As(err, &exit):
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal()), nil
	}
	return 0, fmt.Errorf("run a command in container %d: %w", id, err)
}

func (r *Runc) execCommand(ctx context.Context, id int, pidFile string, o runtime.ExecOptions) (*exec.Cmd, error) {
	args := []string{"exec", "--pid-file", pidFile, "--cwd", "/root", "--env", "HOME=/root"}
	for _, e := range o.Env {
		args = append(args, "--env", e)
	}
	if o.TTY != nil {
		args = append(args, "--tty")
	}
	cmd := r.command(ctx, append(append(args, strconv.Itoa(id)), o.Args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGHUP) } // runc passes it on
	cmd.WaitDelay = execPatience
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGHUP}
	if o.TTY != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = o.TTY, o.TTY, o.TTY
		cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true // so that a resize reaches runc
		return cmd, nil
	}
	cmd.Stdout, cmd.Stderr = o.Stdout, o.Stderr
	if o.Stdin == nil {
		return cmd, nil
	}
	// A copier of our own: Wait would not return before the input ends, which the command may not care for.
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	go func() {
		_, _ = io.Copy(in, o.Stdin) // a command need not read its input
		in.Close()
	}()
	return cmd, nil
}

// killInside ends a command that did not heed its hang-up. It must still be in the pid namespace of the container's
// init: the number may be another process's by now.
func killInside(init int, pidFile string) {
	pid, err := readPID(pidFile)
	if err != nil {
		return // it was never started
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it is gone
	}
	defer unix.Close(fd)
	own, err1 := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	inits, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", init))
	if err1 == nil && err2 == nil && own == inits {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}
