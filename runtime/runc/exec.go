package runc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	goruntime "runtime"
	"strconv"
	"strings"
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
	cmd, err := r.execCommand(ctx, id, st.PID, dir, o)
	if err != nil {
		return 0, fmt.Errorf("run a command in container %d: %w", id, err)
	}
	// The signal at this process's death is bound to the thread that starts the command, which must live as long.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	own := &ownWords{to: cmd.Stderr}
	if o.TTY == nil && same(cmd.Stdout, cmd.Stderr) {
		cmd.Stdout = own // who gave one writer for both is not to get two at once
	}
	cmd.Stderr = own
	if err = cmd.Start(); err == nil {
		ended := make(chan struct{})
		go passSignals(o.Signal, cmd.Process, ended)
		err = cmd.Wait()
		close(ended)
	}
	if ctx.Err() != nil {
		killInside(st.PID, filepath.Join(dir, execPID))
	}
	if ctx.Err() == nil && notStarted(dir) && cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == runcFailed {
		code, said := explain(o.Args[0], lastError(filepath.Join(dir, execLog)))
		if code == 0 {
			return 0, fmt.Errorf("run a command in container %d: %s", id, said)
		}
		end := "\n"
		if o.TTY != nil {
			end = "\r\n" // the terminal is raw as long as nothing has begun
		}
		_, err := io.WriteString(own.to, said+end)
		return code, err
	}
	own.flush()
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

// passSignals hands signals to runc, which hands them to the command.
func passSignals(signals <-chan os.Signal, to *os.Process, ended <-chan struct{}) {
	for {
		select {
		case s, ok := <-signals:
			if !ok {
				return
			}
			_ = to.Signal(s) // it may just have ended
		case <-ended:
			return
		}
	}
}

// whoRuns are the options for the user that a command runs as, and for where.
func whoRuns(init int, o runtime.ExecOptions) ([]string, error) {
	u := user{home: "/root"}
	if o.User != "" {
		var err error
		if u, err = lookUp(fmt.Sprintf("/proc/%d/root", init), o.User); err != nil {
			return nil, err
		}
	}
	dir := u.home
	if o.Dir != "" {
		dir = o.Dir
	}
	args := []string{"--cwd", dir, "--env", "HOME=" + u.home}
	if o.User != "" {
		args = append(args, "--user", fmt.Sprintf("%d:%d", u.uid, u.gid))
	}
	for _, g := range u.groups {
		args = append(args, "--additional-gids", g)
	}
	return args, nil
}

// Files of one exec.
const (
	execPID = "pid" // written when the command has begun
	execLog = "log"
)

// execCommand keeps its files in dir.
func (r *Runc) execCommand(ctx context.Context, id, init int, dir string, o runtime.ExecOptions) (*exec.Cmd, error) {
	args := []string{"--log", filepath.Join(dir, execLog), "exec", "--pid-file", filepath.Join(dir, execPID)}
	who, err := whoRuns(init, o)
	if err != nil {
		return nil, err
	}
	args = append(args, who...)
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
	if cmd.Stderr == nil {
		cmd.Stderr = io.Discard
	}
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

// runcFailed is what runc exec returns when it could not run the command.
const runcFailed = 255

func notStarted(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, execPID))
	return errors.Is(err, fs.ErrNotExist)
}

// explain turns runc's reason for not having begun a command into a sentence and the exit code that shells use for it;
// code 0: the command is not to blame.
func explain(program, reason string) (code int, said string) {
	about := strings.Contains(reason, "exec: \"") || strings.Contains(reason, "exec "+program+":")
	switch {
	case !about:
		return 0, reason
	case strings.Contains(reason, "executable file not found"), strings.Contains(reason, "stat "+program+": no such file"):
		return 127, "there is no program " + program + " in the container"
	case strings.Contains(reason, "no such file"):
		return 127, program + " cannot be run: what is to interpret it is not in the container"
	case strings.Contains(reason, "permission denied"), strings.Contains(reason, "is a directory"):
		return 126, program + " cannot be run: it is no program, or may not be executed"
	case strings.Contains(reason, "exec format error"):
		return 126, program + " cannot be run: it is for another machine, or no program"
	}
	return 0, reason
}

// same compares two writers; those that cannot be compared differ.
func same(a, b io.Writer) bool {
	return a != nil && reflect.TypeOf(a).Comparable() && a == b
}

// ownWords passes on what is written to the standard error of a command, and holds back what may be runc's own words
// instead: it says there what it logs.
type ownWords struct {
	to   io.Writer
	held []byte
}

func (w *ownWords) Write(p []byte) (int, error) {
	if len(w.held) == 0 && bytes.HasPrefix(p, []byte("exec failed: ")) {
		w.held = bytes.Clone(p)
		return len(p), nil
	}
	w.flush()
	return w.to.Write(p)
}

func (w *ownWords) flush() {
	_, _ = w.to.Write(w.held) // who listened is gone
	w.held = nil
}
