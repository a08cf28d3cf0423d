package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// rawDir is where bare processes of the raw floor leave their pids and images: in memory, the best case for CRIU.
const rawDir = "/dev/shm/vzbench-raw"

// startRaw starts bare processes, without any container. "%d" in an argument becomes the number of the process, counted from 0.
func startRaw(_ context.Context, o order) error {
	for fd := 3; fd < 256; fd++ { // what this program was given is of another mount namespace, and CRIU would refuse it
		unix.CloseOnExec(fd)
	}
	for i := range o.Count {
		dir := filepath.Join(rawDir, strconv.Itoa(i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		args := make([]string, len(o.Args))
		for n, a := range o.Args {
			args[n] = strings.ReplaceAll(a, "%d", strconv.Itoa(i))
		}
		cmd := exec.Command(args[0], args[1:]...) // it outlives this program
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start a bare process: %w", err)
		}
		if err := os.WriteFile(dir+".pid", []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
			return errors.Join(err, cmd.Process.Kill())
		}
	}
	return nil
}

// moveRaw dumps each bare process and restores it at once, so many of them at the same time: what CRIU alone takes.
func moveRaw(ctx context.Context, o order) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(o.Width)
	for i := range o.Count {
		g.Go(func() error {
			dir := filepath.Join(rawDir, strconv.Itoa(i))
			pid, err := os.ReadFile(dir + ".pid")
			if err != nil {
				return err
			}
			if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
				return err
			}
			dump := []string{"dump", "-t", string(pid), "-D", dir, "-o", "dump.log", "--tcp-established", "--network-lock", "skip"}
			if out, err := exec.CommandContext(ctx, "criu", dump...).CombinedOutput(); err != nil {
				return criuError(fmt.Errorf("dump a bare process: %w: %s", err, out), filepath.Join(dir, "dump.log"))
			}
			restore := []string{"restore", "-d", "-D", dir, "-o", "restore.log", "--tcp-established", "--network-lock", "skip"}
			if out, err := exec.CommandContext(ctx, "criu", restore...).CombinedOutput(); err != nil {
				return criuError(fmt.Errorf("restore a bare process: %w: %s", err, out), filepath.Join(dir, "restore.log"))
			}
			return nil
		})
	}
	return g.Wait()
}

// stopRaw ends the bare processes and removes what they left. A pid that is somebody else's by now is left alone.
func stopRaw(context.Context, order) error {
	pids, err := filepath.Glob(filepath.Join(rawDir, "*.pid"))
	if err != nil {
		return err
	}
	for _, file := range pids {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(string(text))
		if err != nil {
			return err
		}
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.HasPrefix(filepath.Base(hostLoad), strings.TrimSpace(string(name))) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return os.RemoveAll(rawDir)
}

// hostLoad is the load program on a host, outside of all containers.
const hostLoad = "/run/vzbench-load"

// rawFloor are bare processes on a host.
type rawFloor struct {
	b     *bench
	host  string
	order order
}

// rawFloor starts bare processes on a host; width is how many are dumped and restored at once.
func (b *bench) rawFloor(ctx context.Context, host string, args []string, count, width int) (*rawFloor, error) {
	r := &rawFloor{b, host, order{Args: args, Count: count, Width: width}}
	program, err := b.buildProgram(ctx, "load")
	if err != nil {
		return r, err
	}
	if err := b.put(ctx, host, program, hostLoad); err != nil {
		return r, err
	}
	if _, err := r.do(ctx, "raw-start"); err != nil {
		return r, err
	}
	for i := range count {
		if err := b.answers(ctx, b.lab.Address(host)+":"+strings.ReplaceAll(args[2], "%d", strconv.Itoa(i))); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (r *rawFloor) do(ctx context.Context, verb string) (done, error) {
	o := r.order
	o.Do = verb
	return r.b.inside(ctx, r.host, o)
}

// move dumps and restores all of them and returns how many milliseconds it took.
func (r *rawFloor) move(ctx context.Context) (float64, error) {
	d, err := r.do(ctx, "raw")
	return float64(d.Ended-d.Began) / 1e6, err
}

func (r *rawFloor) stop(ctx context.Context) error {
	_, err := r.do(context.WithoutCancel(ctx), "raw-stop")
	return err
}
