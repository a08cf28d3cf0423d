package lxcfs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	isolated = "VZ_TEST_ISOLATED"
	binary   = "/var/cache/vzcluster/bin/lxcfs"
)

// TestMain runs the tests in a mount namespace of their own.
func TestMain(m *testing.M) {
	if _, err := os.Stat(binary); err != nil || os.Geteuid() != 0 {
		fmt.Println("skipped: needs root and lxcfs (make setup)")
		return
	}
	if os.Getenv(isolated) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), isolated+"=1")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func newLXCFS(t *testing.T) *LXCFS {
	t.Helper()
	l := &LXCFS{Binary: binary, Dir: filepath.Join(t.TempDir(), "lxcfs"), Log: slog.New(slog.DiscardHandler)}
	t.Cleanup(func() {
		if err := l.clear(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *LXCFS) running(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(l.pid())
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestOneProcessServes(t *testing.T) {
	l := newLXCFS(t)
	if l.Serves() {
		t.Fatal("it serves before it was started")
	}
	adopted := 0
	l.Adopt = func(int) error { adopted++; return nil }
	for range 2 { // as a second agent does
		if err := l.Ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if adopted != 1 {
		t.Errorf("it was started %d times", adopted)
	}
	for _, f := range Files() {
		if b, err := os.ReadFile(filepath.Join(l.Dir, f)); err != nil || len(b) == 0 && !strings.HasSuffix(f, "diskstats") {
			t.Errorf("%s has %d bytes: %v", f, len(b), err)
		}
	}
}

// A container goes on with the process that replaces a dead one.
func TestDeadOneIsReplaced(t *testing.T) {
	l := newLXCFS(t)
	if err := l.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("mount --bind %s/proc/meminfo /proc/meminfo; echo ready; while read line; do cat /proc/meminfo 2>/dev/null | head -n 1 | grep . || echo failed; done", l.Dir)
	inside := exec.Command("sh", "-c", script)
	inside.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	in, err := inside.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := inside.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := inside.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = inside.Wait() })
	ask := func(what string) string {
		t.Helper()
		buf := make([]byte, 4096)
		n, err := out.Read(buf)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return string(buf[:n])
	}
	ask("it begins")
	bystander := os.Getpid() // has nothing of it
	l.Inits = func() ([]int, error) { return []int{inside.Process.Pid, bystander, 1 << 22}, nil }

	old := l.running(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	if err := unix.Kill(old, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for got := ""; !strings.HasPrefix(got, "MemTotal:"); {
		if time.Now().After(deadline) {
			t.Fatalf("inside it reads %q", got)
		}
		if _, err := in.Write([]byte("x\n")); err != nil {
			t.Fatal(err)
		}
		if got = ask("after the kill"); l.running(t) == old {
			got = "" // not yet killed
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !l.Serves() {
		t.Error("it ended with Run")
	}
}

func TestWithoutAProgram(t *testing.T) {
	l := newLXCFS(t)
	l.Binary = filepath.Join(t.TempDir(), "nothing")
	if err := l.Ensure(t.Context()); err == nil {
		t.Fatal("what is not there serves")
	}
}
