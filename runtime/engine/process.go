package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// signalAndWait signals a process and returns when it has ended.
func signalAndWait(ctx context.Context, pid int, sig unix.Signal) error {
	if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return waitPID(ctx, pid)
}

// waitPID returns when a process, which need not be a child, has ended. It costs a descriptor and a parked goroutine.
func waitPID(ctx context.Context, pid int) error {
	return awaitEnd(ctx, pid, func(syscall.RawConn) {})
}

// waitStatus also returns how it ended; zero: that is not known, because its parent, who is another one, was quicker.
func waitStatus(ctx context.Context, pid int) (status unix.WaitStatus, err error) {
	err = awaitEnd(ctx, pid, func(conn syscall.RawConn) {
		var own bool
		if err := conn.Control(func(fd uintptr) { status, own = ownStatus(int(fd)) }); err == nil && !own {
			status, _ = zombieStatus(pid)
		}
	})
	return status, err
}

// awaitEnd waits for the end of a process and then hands over its pidfd.
func awaitEnd(ctx context.Context, pid int, ended func(pidfd syscall.RawConn)) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	err = conn.Read(func(fd uintptr) bool { // the runtime's poller wakes us when the pidfd becomes readable
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	ended(conn)
	return nil
}

// Of struct siginfo.
const (
	cldExited    = 1
	statusOffset = 24
)

// ownStatus reads how a child has ended, and takes note of that; own: it is one.
func ownStatus(pidfd int) (status unix.WaitStatus, own bool) {
	var info unix.Siginfo
	for {
		switch err := unix.Waitid(unix.P_PIDFD, pidfd, &info, unix.WEXITED, nil); err {
		case nil:
			n := *(*int32)(unsafe.Add(unsafe.Pointer(&info), statusOffset))
			if info.Code == cldExited {
				n <<= 8
			}
			return unix.WaitStatus(n), true
		case unix.EINTR:
		default:
			return 0, false
		}
	}
}

// zombieStatus reads how a process has ended of which nobody has taken note yet.
func zombieStatus(pid int) (unix.WaitStatus, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 50 || f[0] != "Z" {
		return 0, unix.EAGAIN
	}
	n, err := strconv.ParseInt(f[len(f)-1], 10, 32)
	return unix.WaitStatus(n), err
}
