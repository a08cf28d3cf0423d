package criu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

func TestDecisive(t *testing.T) {
	for _, tt := range []struct{ name, log, want string }{
		{"the first error is the cause", "(00.01) Error (criu/sk-inet.c:191): inet: unsupported proto 262\n(00.02) Error (criu/cr-dump.c:1975): Dumping FAILED.\n", "criu: inet: unsupported proto 262 (refused)"},
		{"a limit is no cause", "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\nError (criu/x.c:1): real\n", "criu: real (refused)"},
		{"a file of that name is no error", "Dumping path [/usr/lib/libgpg-error.so.0]\n", "refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "dump.log")
			if err := os.WriteFile(log, []byte(tt.log), 0o600); err != nil {
				t.Fatal(err)
			}
			cause := errors.New("refused")
			err := decisive(cause, log)
			if err.Error() != tt.want || !errors.Is(err, cause) {
				t.Errorf("got %q, want %q", err, tt.want)
			}
		})
	}
	if err := decisive(errors.New("refused"), "/nowhere"); err.Error() != "refused" {
		t.Errorf("without a log: %v", err)
	}
}

func TestSettle(t *testing.T) {
	dir := t.TempDir()
	c := Criu{}
	if err := c.Settle(t.Context(), dir); err != nil {
		t.Fatalf("with nothing left: %v", err)
	}
	// A process that carries criu's name stands for one that a former agent has left.
	fake := filepath.Join(dir, "criu")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(sleep, fake); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(fake, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	if err := os.WriteFile(filepath.Join(dir, pidFile), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Settle(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("while it runs: %v", err)
	}
	_ = cmd.Process.Kill()
	if err := c.Settle(t.Context(), dir); err != nil {
		t.Fatalf("after its end: %v", err)
	}
}

func TestScanSeesForeignProcesses(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	self := os.Getpid()
	scan, err := (&Criu{}).Scan(self, []int{self, cmd.Process.Pid, 1 << 22})
	if err != nil {
		t.Fatal(err)
	}
	if len(scan.Processes) != 2 { // the third does not exist
		t.Fatalf("%d processes were seen", len(scan.Processes))
	}
	if scan.Processes[0].Foreign || scan.Processes[1].Foreign {
		t.Error("init or its child was taken for a foreign process")
	}
	if scan.Processes[1].Name != "sleep" || scan.Processes[1].Namespaces["pid"] == "" {
		t.Errorf("got %+v", scan.Processes[1])
	}
	scan, err = (&Criu{}).Scan(cmd.Process.Pid, []int{cmd.Process.Pid, self})
	if err != nil {
		t.Fatal(err)
	}
	if !scan.Processes[1].Foreign { // our parent is not in that container
		t.Error("a process from outside was not seen as one")
	}
	if len(scan.Mounts) == 0 {
		t.Error("no mounts were seen")
	}
}

func TestCgroupRoots(t *testing.T) {
	roots, err := cgroupRoots("/vz/101")
	if err != nil || len(roots) == 0 {
		t.Fatal(roots, err)
	}
	for _, r := range roots {
		if r.GetPath() != "/vz/101" || strings.Contains(r.GetCtrl(), ":") {
			t.Errorf("got %v", r)
		}
	}
}

// A criu that was killed leaves mounts, cgroups among them, where the checkpoint will be deleted.
func TestSettleUnmounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	images := t.TempDir()
	yard := filepath.Join(images, ".criu.cgyard")
	mount := func(at string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(at, 0o700), unix.Mount("none", at, "tmpfs", 0, "size=64k")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	}
	mount(yard)
	mount(filepath.Join(yard, "pids"))
	mount(filepath.Join(yard, "pids")) // and something over it
	if err := os.WriteFile(filepath.Join(yard, "pids", "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&Criu{}).Settle(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(b), images) {
		t.Errorf("something is still mounted (%v): %s", err, b)
	}
}

// What the container has put into its root leads nowhere else.
func TestInside(t *testing.T) {
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(root, "run", "lock"), 0o755))
	must(os.Symlink("/var", filepath.Join(root, "dev")))
	for path, ok := range map[string]bool{
		root + "/run/lock": true, "/sys/fs/cgroup": true, root + "/dev": false, root + "/dev/lock": false, root + "/absent": false,
	} {
		if err := inside(root, path); (err == nil) != ok {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A process that is seen to wait in the kernel once, and not the next time, is not stuck.
func TestWaitsThatPassAreNoBlockers(t *testing.T) {
	s := scanner{}
	s.scan.Processes = []runtime.Process{{PID: os.Getpid(), Stuck: true}, {PID: 1 << 30, Stuck: true}}
	began := time.Now()
	s.lookAgain()
	for _, p := range s.scan.Processes {
		if p.Stuck {
			t.Errorf("process %d is stuck", p.PID)
		}
	}
	if took := time.Since(began); took >= passing {
		t.Errorf("it is looked at for %s", took)
	}
}
