package criu

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mend lets connections go on that a dump which was cut off has left in repair mode, in which nothing is sent and
// reading fails. A process that has read in the meantime has lost its connection all the same.
func mend(pids []int) {
	for _, pid := range pids {
		process, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		files, _ := os.ReadDir(dir)
		for _, f := range files {
			target, err := os.Readlink(filepath.Join(dir, f.Name()))
			if n, e := strconv.Atoi(f.Name()); err == nil && e == nil && strings.HasPrefix(target, "socket:") {
				mendSocket(process, n)
			}
		}
		unix.Close(process)
	}
}

func mendSocket(process, n int) {
	fd, err := unix.PidfdGetfd(process, n, 0)
	if err != nil {
		return // it has been closed
	}
	defer unix.Close(fd)
	if proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || proto != unix.IPPROTO_TCP {
		return
	}
	if on, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR); err == nil && on != 0 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_OFF)
	}
}
