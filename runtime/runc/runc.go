// Package runc runs containers with the runc command: create, start, exec, and the adoption of a container that CRIU
// restored without it. It owns the OCI specification and runc's state directory; roots, cgroups' limits and the
// network are made by others before and between its calls.
//
// The one rule for callers: Forget is called only when the container's processes are gone.
package runc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcluster/vzcluster/runtime"
)

// Config says where runc is and where it may write.
type Config struct {
	Binary  string // path of runc
	State   string // runc's own state, on a file system that a reboot empties
	Bundles string // one folder per container: Bundles/<id>/bundle
	Unified bool   // the host has cgroup v2 only
	Figures Figures
}

// Figures are files that a container has in place of its own, to see its own limits.
type Figures struct {
	Dir   string   // where they are mounted on this host; empty: there are none
	Files []string // below it, and inside
}

// Runc implements runtime.OCI.
type Runc struct{ cfg Config }

// New returns a driver; nothing is touched before the first call.
func New(cfg Config) *Runc { return &Runc{cfg} }

func (r *Runc) bundle(id int) string {
	return filepath.Join(r.cfg.Bundles, strconv.Itoa(id), "bundle")
}

func (r *Runc) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.cfg.Binary, append([]string{"--root", r.cfg.State}, args...)...)
	// Where systemd runs the agent, runc would take its socket for the container's, and wait for the container's word.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
	return cmd
}

// run executes runc for a container. Its standard streams are no pipes: the container's init inherits them.
func (r *Runc) run(ctx context.Context, id int, verb string, args ...string) error {
	log := filepath.Join(r.bundle(id), "runc.log")
	if err := os.Remove(log); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the old log of runc: %w", err)
	}
	cmd := r.command(ctx, append([]string{"--log", log, verb}, args...)...)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("runc %s of container %d: %w: %s", verb, id, err, lastError(log))
	}
	return nil
}

// lastError returns the message of the last error line that runc logged.
func lastError(log string) string {
	b, err := os.ReadFile(log)
	if err != nil {
		return "no log was written"
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	last := lines[len(lines)-1]
	if _, msg, ok := strings.Cut(last, "msg="); ok {
		if text, err := strconv.Unquote(msg); err == nil {
			return text
		}
		return msg
	}
	return last
}

// Create implements runtime.OCI.
func (r *Runc) Create(ctx context.Context, s runtime.Spec, root, cgroup string) (int, error) {
	spec, err := r.spec(s, root, cgroup)
	if err != nil {
		return 0, err
	}
	if err := r.mountCgroupTop(); err != nil {
		return 0, err
	}
	dir := r.bundle(s.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, fmt.Errorf("make the bundle of container %d: %w", s.ID, err)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return 0, fmt.Errorf("write the specification of container %d: %w", s.ID, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		return 0, fmt.Errorf("write the specification of container %d: %w", s.ID, err)
	}
	pidFile := filepath.Join(dir, "pid")
	if err := r.run(ctx, s.ID, "create", "--bundle", dir, "--pid-file", pidFile, strconv.Itoa(s.ID)); err != nil {
		return 0, err
	}
	return readPID(pidFile)
}

func readPID(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read the pid that runc wrote: %w", err)
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(b)))
	if err != nil {
		return 0, fmt.Errorf("read the pid that runc wrote: %w", err)
	}
	return pid, nil
}

// Start implements runtime.OCI.
func (r *Runc) Start(ctx context.Context, id int) error {
	return r.run(ctx, id, "start", strconv.Itoa(id))
}

// state is the part of runc's state.json that is read back.
type state struct {
	PID   int    `json:"init_process_pid"`
	Start uint64 `json:"init_process_start"`
}

// Status implements runtime.OCI. It reads runc's record and the kernel instead of starting runc.
func (r *Runc) Status(id int) (runtime.Status, error) {
	b, err := os.ReadFile(filepath.Join(r.cfg.State, strconv.Itoa(id), "state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return runtime.Status{}, nil
	}
	if err != nil {
		return runtime.Status{}, fmt.Errorf("read runc's record of container %d: %w", id, err)
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return runtime.Status{}, fmt.Errorf("read runc's record of container %d: %w", id, err)
	}
	start, alive := startTime(s.PID)
	if !alive || start != s.Start {
		return runtime.Status{}, nil
	}
	if _, err := os.Lstat(r.fifo(id)); err == nil {
		return runtime.Status{}, nil // its init waits for a start that did not come
	}
	return runtime.Status{Running: true, PID: s.PID}, nil
}

// fifo is where a created container waits to be started; runc removes it then.
func (r *Runc) fifo(id int) string {
	return filepath.Join(r.cfg.State, strconv.Itoa(id), "exec.fifo")
}

// startTime returns when a process started, in clock ticks since boot, and whether it lives (a zombie does not).
func startTime(pid int) (uint64, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	_, rest, ok := strings.Cut(string(b[bytes.LastIndexByte(b, ')')+1:]), " ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0, false
	}
	n, err := strconv.ParseUint(f[19], 10, 64)
	return n, err == nil
}

// Forget implements runtime.OCI.
func (r *Runc) Forget(id int) error {
	if err := os.RemoveAll(filepath.Join(r.cfg.State, strconv.Itoa(id))); err != nil {
		return fmt.Errorf("remove runc's record of container %d: %w", id, err)
	}
	return nil
}
