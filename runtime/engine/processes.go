package engine

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/runtime"
)

// ticks is how many of the kernel's units of processor time are a second.
const ticks = 100

// Processes lists the processes of a running container.
func (e *Engine) Processes(id int) ([]runtime.Running, error) {
	st, err := e.OCI.Status(id)
	if err != nil {
		return nil, err
	}
	if !st.Running {
		return nil, fmt.Errorf("container %d: %w", id, runtime.ErrNotRunning)
	}
	pids, err := e.Cgroups.PIDs(id)
	if err != nil {
		return nil, err
	}
	var out []runtime.Running
	for _, pid := range pids {
		if p, ok := running(pid); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// Which finds the container of this host that a process belongs to; 0: none.
func (e *Engine) Which(pid int) (id int, p runtime.Running, err error) {
	ids, err := e.List()
	if err != nil {
		return 0, p, err
	}
	for _, id := range ids {
		if st, err := e.OCI.Status(id); err != nil || !st.Running {
			continue
		}
		pids, err := e.Cgroups.PIDs(id)
		if err != nil {
			return 0, p, err
		}
		for _, its := range pids {
			if its == pid {
				p, _ = running(pid)
				return id, p, nil
			}
		}
	}
	return 0, p, nil
}

// running reads what the kernel shows of a process; false: it has just ended.
func running(pid int) (p runtime.Running, ok bool) {
	stat, err1 := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	status, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err1 != nil || err2 != nil {
		return p, false
	}
	p = parseRunning(string(stat), string(status))
	p.PID = pid
	if command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(command) > 0 {
		p.Command = printable(string(bytes.TrimRight(bytes.ReplaceAll(command, []byte{0}, []byte{' '}), " ")))
	}
	return p, true
}

func parseRunning(stat, status string) (p runtime.Running) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return p
	}
	p.Command = "[" + printable(stat[open+1:end]) + "]"
	if f := strings.Fields(stat[end+1:]); len(f) > 17 {
		user, _ := strconv.ParseInt(f[11], 10, 64)
		system, _ := strconv.ParseInt(f[12], 10, 64)
		p.State = f[0]
		p.CPU = time.Duration(user+system) * time.Second / ticks
		p.Threads, _ = strconv.Atoi(f[17])
	}
	for line := range strings.Lines(status) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch n, _ := strconv.ParseInt(f[len(f)-1], 10, 64); f[0] {
		case "NSpid:":
			p.Inside = int(n)
		case "VmRSS:":
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			p.RAM = kib << 10
		}
	}
	return p
}

// printable keeps what a container calls its processes from controlling a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
