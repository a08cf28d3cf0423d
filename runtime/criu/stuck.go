package criu

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a criu may get nothing done, while a container stands still for it, before it is ended. It waits
// then for something that will not come before the thaw.
const patience = 20 * time.Second

// look is how often that is looked at.
const look = time.Second

// stuck tells whether a process and what it has started get on, by the processor time that they use.
type stuck struct {
	pid   int
	used  uint64
	since time.Time
}

// idle is how long nothing has been done.
func (s *stuck) idle() time.Duration {
	if used := processorTime(s.pid); used != s.used || s.since.IsZero() {
		s.used, s.since = used, time.Now()
	}
	return time.Since(s.since)
}

// processorTime is that of a process and everything below it, in nanoseconds.
func processorTime(pid int) uint64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	first, _, _ := bytes.Cut(b, []byte(" "))
	used, _ := strconv.ParseUint(string(first), 10, 64)
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, c := range strings.Fields(string(children)) {
		if child, err := strconv.Atoi(c); err == nil {
			used += processorTime(child)
		}
	}
	return used
}

// guard ends criu if it gets nothing done while its answer is waited for, until the function that it returns is called.
func (s *session) guard() (stop func()) {
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(min(look, s.criu.patience()/2))
		defer tick.Stop()
		p := stuck{pid: s.cmd.Process.Pid}
		for {
			select {
			case <-done:
				return
			case <-s.ended:
				return
			case <-tick.C:
			}
			if !s.waiting.Load() {
				p.since = time.Time{} // it waits for us
			} else if p.idle() > s.criu.patience() {
				s.stuck.Store(true)
				_ = unix.Kill(-p.pid, unix.SIGKILL) // what it was inside of is looked at by whoever asked for the dump
			}
		}
	}()
	return func() { close(done) }
}

func (c *Criu) patience() time.Duration {
	if c.Patience > 0 {
		return c.Patience
	}
	return patience
}
