package fault

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/runtime"
)

// victim is the folder that tells a second run of this test which harm to do to itself.
const victim = "VZCLUSTER_FAULT_VICTIM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(victim); dir != "" {
		in, err := New(dir)
		if err == nil {
			err = in.At("p")
		}
		if err != nil {
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func arm(t *testing.T, dir, point, what string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, point), []byte(what), 0o600); err != nil {
		t.Fatal(err)
	}
}

func injector(t *testing.T) (*Injector, string) {
	t.Helper()
	dir := t.TempDir()
	in, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	return in, dir
}

func TestPassagesAreCounted(t *testing.T) {
	in, dir := injector(t)
	arm(t, dir, "p", "fail 3")
	arm(t, dir, Trace, "")
	for i, want := range []bool{false, false, true, false} {
		if err := in.At("p"); errors.Is(err, ErrInjected) != want {
			t.Errorf("passage %d: %v", i+1, err)
		}
		if err := in.At("q"); err != nil {
			t.Errorf("a point that nobody armed: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "p"+Reached)); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, Trace)); string(b) != "p\nq\np\nq\np\nq\np\nq\n" {
		t.Errorf("the trace is %q", b)
	}
}

func TestUnknownActionFailsTheStep(t *testing.T) {
	in, dir := injector(t)
	for _, what := range []string{"explode", "fail soon"} {
		arm(t, dir, "p", what)
		if err := in.At("p"); err == nil || errors.Is(err, ErrInjected) {
			t.Errorf("%q: %v", what, err)
		}
	}
}

func TestHold(t *testing.T) {
	in, dir := injector(t)
	arm(t, dir, "p", string(Hold))
	gone := make(chan error)
	go func() { gone <- in.At("p") }()
	reached := filepath.Join(dir, "p"+Reached)
	for _, err := os.Stat(reached); err != nil; _, err = os.Stat(reached) {
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-gone:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if err := os.Remove(reached); err != nil {
		t.Fatal(err)
	}
	if err := <-gone; err != nil {
		t.Error(err)
	}
}

// run runs this program as a process that does harm to itself.
func run(t *testing.T, what Action) (time.Duration, error) {
	t.Helper()
	dir := t.TempDir()
	arm(t, dir, "p", string(what))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victim+"="+dir)
	begun := time.Now()
	err := cmd.Run()
	if _, stat := os.Stat(filepath.Join(dir, "p"+Reached)); stat != nil {
		t.Error(stat)
	}
	return time.Since(begun), err
}

func TestKill(t *testing.T) {
	_, err := run(t, Kill)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", err)
	}
}

func TestStall(t *testing.T) {
	if took, err := run(t, Stall); err != nil || took < StallTime {
		t.Errorf("it stood still for %s: %v", took, err)
	}
}

func TestChildrenAreKilled(t *testing.T) {
	in, dir := injector(t)
	program := filepath.Join(t.TempDir(), "criu")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(sleep, program); err != nil {
		t.Fatal(err)
	}
	criu, other := exec.Command(program, "60"), exec.Command(sleep, "60")
	for _, c := range []*exec.Cmd{criu, other} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
	}
	arm(t, dir, "p", string(Child))
	if err := in.At("p"); err != nil {
		t.Fatal(err)
	}
	if err := criu.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("criu ended with %v", err)
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the bystander was hit: %v", err)
	}
	_ = other.Process.Kill()
	_ = other.Wait()
}

// still is a network whose calls go well, but one.
type still struct{ runtime.Network }

func (still) Open(int, []runtime.NIC) error { return nil }
func (still) Close(int) error               { return errors.New("broken") }
func (still) Plug(int, int, []runtime.NIC, bool) error {
	return nil
}

func TestPointsFollowWhatWasDone(t *testing.T) {
	in, dir := injector(t)
	arm(t, dir, Trace, "")
	n := in.Network(still{})
	arm(t, dir, "network.open", string(Fail))
	if err := n.Plug(1, 2, nil, true); err != nil {
		t.Error(err)
	}
	if err := n.Open(1, nil); !errors.Is(err, ErrInjected) {
		t.Error(err)
	}
	if err := n.Close(1); err == nil || errors.Is(err, ErrInjected) {
		t.Error(err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, Trace)); string(b) != "network.plug\nnetwork.open\n" {
		t.Errorf("the trace is %q", b)
	}
}

// silent is a runtime whose calls go well.
type silent struct{ runtime.OCI }

func (silent) Create(context.Context, runtime.Spec, string, string) (int, error) { return 7, nil }
func (silent) Prepare(context.Context, runtime.Spec, string, string) error       { return nil }
func (silent) Adopt(int, int) error                                              { return nil }

func TestCopiesAreMarked(t *testing.T) {
	in, _ := injector(t)
	in.Host = "host1"
	o := in.OCI(silent{})
	root, outside := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	marked := func() string {
		b, _ := os.ReadFile(filepath.Join(root, Mark))
		return string(b)
	}
	owner := uint32(os.Geteuid())
	if _, err := o.Create(t.Context(), runtime.Spec{ID: 101, Generation: 3, UIDBase: owner}, root, ""); err != nil || marked() != "host1 3\n" {
		t.Errorf("it is marked %q: %v", marked(), err)
	}
	// A link that the container has made leads nowhere.
	if err := errors.Join(os.RemoveAll(filepath.Join(root, "run")), os.Symlink(outside, filepath.Join(root, "run"))); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Create(t.Context(), runtime.Spec{ID: 101, Generation: 4, UIDBase: owner}, root, ""); err == nil {
		t.Error("a mark was written outside of the root")
	}
	if err := o.Adopt(101, os.Getpid()); err == nil {
		t.Error("a copy was marked that nobody had prepared")
	}
}
