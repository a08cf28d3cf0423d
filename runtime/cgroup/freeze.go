package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// Freeze freezes and returns when every process stands still. When the context ends before that, what was frozen is
// thawed again.
func (m *Manager) Freeze(ctx context.Context, id int) error {
	var still []int
	if pids, err := m.PIDs(id); err == nil && !m.tree.v2 {
		still = stopped(pids)
	}
	if err := m.reach(ctx, id, true); err != nil {
		if !errors.Is(err, runtime.ErrNotFound) {
			_ = m.setFrozen(m.Path(id), false)
		}
		return err
	}
	stopAgain(still)
	return nil
}

// Hold asks for a freeze without waiting for it.
func (m *Manager) Hold(id int) error {
	if err := m.setFrozen(m.Path(id), true); err != nil {
		return fmt.Errorf("cannot hold container %d: %w", id, notFound(err))
	}
	return nil
}

// Thaw lets the processes run again and returns when they do.
func (m *Manager) Thaw(ctx context.Context, id int) error { return m.reach(ctx, id, false) }

// reach writes the state again at every poll: on v1 a fork at the wrong moment can undo a freeze that has begun.
func (m *Manager) reach(ctx context.Context, id int, on bool) error {
	var p pacer
	verb := map[bool]string{true: "freeze", false: "thaw"}[on]
	for {
		err := m.setFrozen(m.Path(id), on)
		if err != nil {
			return fmt.Errorf("cannot %s container %d: %w", verb, id, notFound(err))
		}
		_, still, err := m.frozen(m.Path(id))
		if err != nil {
			return unreadable(id, err)
		}
		if still == on {
			return nil
		}
		if err := p.pause(ctx); err != nil {
			return fmt.Errorf("container %d did not %s in time: %w", id, verb, err)
		}
	}
}

// Freezer implements runtime.Cgroups.
func (m *Manager) Freezer(id int) string { return filepath.Join(m.tree.main(), m.Path(id)) }

// settling is how long processes that were told to freeze may take to stand still.
const settling = time.Second

// Frozen reads the state back; CRIU may have thawed behind our back. Processes that it has just let go of come to rest
// one after the other, without having run in between: that is waited for.
func (m *Manager) Frozen(id int) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), settling)
	defer cancel()
	var p pacer
	for {
		asked, still, err := m.frozen(m.Path(id))
		if err != nil {
			return false, unreadable(id, err)
		}
		if !asked || still || p.pause(ctx) != nil {
			return asked && still, nil
		}
	}
}

func unreadable(id int, err error) error {
	return fmt.Errorf("cannot read the freezer of container %d: %w", id, notFound(err))
}

func notFound(err error) error {
	if gone(err) {
		return runtime.ErrNotFound
	}
	return err
}

// KillAll kills every process of the container with SIGKILL and returns when they are gone, their memory, files and
// namespaces released. Frozen containers are thawed by it.
func (m *Manager) KillAll(ctx context.Context, id int) error {
	if !m.tree.Exists(m.Path(id)) {
		return nil
	}
	if m.tree.v2 {
		return m.killV2(ctx, id)
	}
	for {
		pids, err := m.killRound(ctx, id)
		if err != nil {
			return fmt.Errorf("cannot kill the processes of container %d: %w", id, err)
		}
		if pids == 0 {
			return nil
		}
	}
}

// killV2 lets the kernel kill the whole subtree at once and waits until it has become empty.
func (m *Manager) killV2(ctx context.Context, id int) error {
	dir := filepath.Join(m.tree.root, m.Path(id))
	var p pacer
	for {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil && !gone(err) {
			return fmt.Errorf("cannot kill the processes of container %d: %w", id, err)
		}
		populated, err := readKey(filepath.Join(dir, "cgroup.events"), "populated")
		if err == nil && populated == 0 {
			return nil
		}
		if err != nil {
			if gone(err) {
				return nil
			}
			return fmt.Errorf("cannot wait for the processes of container %d: %w", id, err)
		}
		if err := p.pause(ctx); err != nil {
			return fmt.Errorf("the processes of container %d did not end in time: %w", id, err)
		}
	}
}

// killRound kills the processes that v1 lists now and waits for their ends; it returns how many there were. While they
// are frozen nobody can fork away and no pid can be reused; a killed process dies when it is thawed.
func (m *Manager) killRound(ctx context.Context, id int) (int, error) {
	freezing, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	_ = m.reach(freezing, id, true) // unfrozen it takes more rounds at worst
	cancel()
	pids, err := m.PIDs(id)
	if err == nil {
		pids = pids[:min(len(pids), 512)] // an open file each
	}
	var fds []int
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // gone
		}
		defer unix.Close(fd)
		if unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
			fds = append(fds, fd)
		}
	}
	if terr := m.setFrozen(m.Path(id), false); err == nil && terr != nil && !gone(terr) {
		err = terr
	}
	if err != nil {
		return 0, err
	}
	for _, fd := range fds {
		if err := waitEnd(ctx, fd); err != nil {
			return 0, err
		}
	}
	if len(fds) == 0 && len(pids) > 0 { // nothing to wait for: listed, but already ending
		var p pacer
		return len(pids), p.pause(ctx)
	}
	return len(pids), nil
}

// waitEnd waits until a process has ended, reaped or not.
func waitEnd(ctx context.Context, pidfd int) error {
	p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, 20)
		if n == 1 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("cannot wait for a process: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("a process did not end in time: %w", err)
		}
	}
}
