package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
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

// waitStatus also returns how it ended; zero: that is not known, as on kernels before 6.15 when its parent was quicker.
func waitStatus(ctx context.Context, pid int) (status unix.WaitStatus, err error) {
	err = awaitEnd(ctx, pid, func(conn syscall.RawConn) {
		for range exitTries { // until its parent has taken note of its end one file tells, and then the kernel
			var err error
			if status, err = zombieStatus(pid); err == nil {
				return
			}
			if conn.Control(func(fd uintptr) { status, err = exitStatus(fd) }) != nil || err == nil {
				return
			}
			time.Sleep(exitPause)
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

// How often, and how long apart, the kernel is asked how a process has ended.
const (
	exitTries = 20
	exitPause = 5 * time.Millisecond
)

// pidfdInfo is the kernel's struct pidfd_info.
type pidfdInfo struct {
	mask, cgroup uint64
	ids          [11]uint32
	exit         int32
}

const (
	pidfdGetInfo  = 0xC040FF0B // _IOWR(0xFF, 11, struct pidfd_info)
	pidfdInfoExit = 1 << 3
)

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

// exitStatus asks the kernel how a process that has ended did so.
func exitStatus(pidfd uintptr) (unix.WaitStatus, error) {
	info := pidfdInfo{mask: pidfdInfoExit}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, pidfd, pidfdGetInfo, uintptr(unsafe.Pointer(&info))); errno != 0 {
		return 0, errno
	}
	if info.mask&pidfdInfoExit == 0 {
		return 0, unix.EAGAIN
	}
	return unix.WaitStatus(info.exit), nil
}
