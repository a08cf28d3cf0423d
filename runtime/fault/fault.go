// Package fault does harm to a host at named points, so that tests can prove what its agent survives. It owns what is
// done at a point and how it is asked for; which points there are is said by who passes them.
//
// The one rule for callers: without a folder there is no Injector and nothing is wrapped, so production pays nothing.
package fault

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Action is what is done at a point.
type Action string

// The actions.
const (
	Fail  Action = "fail"  // the step fails
	Kill  Action = "kill"  // the agent ends with SIGKILL
	Child Action = "child" // the criu and runc that the agent runs end with SIGKILL
	Stall Action = "stall" // the agent stands still for StallTime, as a machine that swaps
	Hold  Action = "hold"  // the step waits until the test removes the file that says it was reached
)

// StallTime is how long a stalled agent stands still.
const StallTime = 5 * time.Second

// Files of the folder beside those named like a point.
const (
	Reached = ".reached" // ends the name of the file that says that a point was reached
	Trace   = "trace"    // if it exists, the name of every point that is passed is added to it
)

// ErrInjected is why a step failed on purpose.
var ErrInjected = errors.New("it failed on purpose")

// Injector does what the files of a folder say. A file named like a point holds an action and, if it is not the first
// passage that counts, its number: "kill 3". It is used once: before anything is done it gets the ending Reached.
type Injector struct {
	Host string // its name, for Mark

	dir string
	mu  sync.Mutex
}

// New makes the folder if need be.
func New(dir string) (*Injector, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for faults: %w", err)
	}
	return &Injector{dir: dir}, nil
}

// At is called when a point is passed; an error fails the step.
func (in *Injector) At(point string) error {
	action, err := in.take(point)
	if err != nil || action == "" {
		return err
	}
	switch action {
	case Fail:
		return fmt.Errorf("%s: %w", point, ErrInjected)
	case Kill:
		return endSelf()
	case Child:
		return killChildren("criu", "runc")
	case Stall:
		return stall()
	case Hold:
		return in.hold(point)
	}
	return fmt.Errorf("%s: %q is no action", point, action)
}

// take notes the passage and says what is to be done at it.
func (in *Injector) take(point string) (Action, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.trace(point); err != nil {
		return "", err
	}
	file := filepath.Join(in.dir, point)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read what to do at %s: %w", point, err)
	}
	action, passage, more := strings.Cut(string(bytes.TrimSpace(b)), " ")
	if n, err := strconv.Atoi(passage); err != nil && more {
		return "", fmt.Errorf("read what to do at %s: %w", point, err)
	} else if n > 1 {
		return "", os.WriteFile(file, fmt.Appendf(nil, "%s %d", action, n-1), 0o600)
	}
	return Action(action), os.Rename(file, file+Reached)
}

func (in *Injector) trace(point string) error {
	f, err := os.OpenFile(filepath.Join(in.dir, Trace), os.O_WRONLY|os.O_APPEND, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("note that %s is passed: %w", point, err)
	}
	defer f.Close()
	_, err = fmt.Fprintln(f, point)
	return err
}

func (in *Injector) hold(point string) error {
	for {
		if _, err := os.Stat(filepath.Join(in.dir, point+Reached)); err != nil {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func endSelf() error {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		return err
	}
	select {} // nothing happens after the point
}

// stall stops every thread of the agent. A process that does not stand still lets it go on.
func stall() error {
	again := exec.Command("sh", "-c", fmt.Sprintf("sleep %g; kill -CONT %d", StallTime.Seconds(), os.Getpid()))
	if err := again.Start(); err != nil {
		return fmt.Errorf("see to it that the agent goes on: %w", err)
	}
	begun := time.Now()
	if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
		return err
	}
	for time.Since(begun) < StallTime { // the signal may reach this thread a little later
		time.Sleep(time.Millisecond)
	}
	return again.Wait()
}

// killChildren ends the processes of these names that this process has started.
func killChildren(names ...string) error {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return err
	}
	for _, list := range lists {
		b, _ := os.ReadFile(list) // of a thread that has ended: it has no children
		for _, text := range strings.Fields(string(b)) {
			name, _ := os.ReadFile("/proc/" + text + "/comm")
			pid, err := strconv.Atoi(text)
			for _, n := range names {
				if err == nil && string(name) == n+"\n" {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
	}
	return nil
}
