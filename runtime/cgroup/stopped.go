package cgroup

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A process that is stopped (SIGSTOP, ^Z) and lies in a frozen cgroup of v1 cannot be attached to: the kernel waits for it
// to take part, which it cannot before the thaw, and CRIU hangs. One that lies there with the signal that stops it still
// before it is attached to like any other, and CRIU knows that case. It stops at the thaw, without having run.

// stopped returns those of the processes that are stopped now.
func stopped(pids []int) (out []int) {
	for _, pid := range pids {
		if state(pid) == 'T' {
			out = append(out, pid)
		}
	}
	return out
}

// stopAgain has frozen processes that were stopped before the freeze stop again at the thaw. Their parents are told, as by
// any other stop.
func stopAgain(pids []int) {
	for _, pid := range pids {
		at, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
		if err == nil && len(at) > 1 && !bytes.HasPrefix(at, []byte("do_signal_stop")) {
			continue // it was told to go on before it was frozen; a kernel that does not say where it waits says 0
		}
		if unix.Kill(pid, unix.SIGCONT) == nil {
			_ = unix.Kill(pid, unix.SIGSTOP) // it has ended
		}
	}
}

// state is the letter that the kernel gives a process.
func state(pid int) byte {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if i := bytes.LastIndex(b, []byte(") ")); i >= 0 && len(b) > i+2 {
		return b[i+2]
	}
	return 0
}
