// Package orphans makes this process the parent of what its commands leave behind: inits of containers first of all. Only
// a parent is told for sure how a process has ended, and only as long as it has not taken note of that end. It owns the
// taking note of those that nobody here has started; how an init has ended is read by whoever waits for it.
//
// The one rule for callers: a command is waited for as soon as it has ended. One that has been dead through two looks is
// nobody's.
package orphans

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lookEvery is how often dead children are looked for.
const lookEvery = 10 * time.Second

// Adopt makes this process the parent of every process below it whose own parent ends. What it has adopted goes to PID 1
// when it ends itself.
func Adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of containers: %w", err)
	}
	return nil
}

// Reaper takes note of the end of orphans.
type Reaper struct {
	dead map[int]string // by pid: when those began that were dead at the last look
}

// Run looks again and again until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.Look()
		}
	}
}

// Look takes note of the end of those children that were dead at the last look too.
func (r *Reaper) Look() {
	dead := map[int]string{}
	for _, pid := range children() {
		began, is := isDead(pid)
		switch {
		case !is:
		case r.dead[pid] != began:
			dead[pid] = began
		default:
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // somebody else may just have done so
		}
	}
	r.dead = dead
}

// children lists the children of this process, dead ones too.
func children() (pids []int) {
	files, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range files {
		b, _ := os.ReadFile(f) // a thread may have ended
		for _, word := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// isDead says whether the end of a process has not been taken note of, and when it began.
func isDead(pid int) (began string, is bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	text := string(b)
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(f) < 20 {
		return "", false
	}
	return f[19], f[0] == "Z"
}
