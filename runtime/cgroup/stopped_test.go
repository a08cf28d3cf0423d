package cgroup

import (
	"fmt"
	goruntime "runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// attach does to a frozen process what CRIU does, thaws it on the way, and leaves it stopped if it was.
func attach(pid int, attached func(), thaw func() error) (stops []unix.Signal, err error) {
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	var ws unix.WaitStatus
	wait := func() error {
		_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
		stops = append(stops, ws.StopSignal())
		return err
	}
	for _, step := range []func() error{
		func() error { return unix.PtraceSeize(pid) },
		func() error { attached(); return unix.PtraceInterrupt(pid) },
		thaw, wait,
		func() error { return unix.PtraceCont(pid, 0) }, // the signal that stops it is next; with a real stop, the interruption
		wait,
		func() error { return unix.Kill(pid, unix.SIGSTOP) },
		func() error { return unix.PtraceDetach(pid) },
	} {
		if err := step(); err != nil {
			return stops, err
		}
	}
	return stops, nil
}

// A stopped process can be attached to while it is frozen, is seen as stopped, stays so and goes on when it is told to.
func TestStoppedProcessesCanBeAttachedTo(t *testing.T) {
	hierarchies(t, func(t *testing.T, m *Manager) {
		if err := m.Create(ct, runtime.Limits{}, 4000000); err != nil {
			t.Fatal(err)
		}
		c := startCat(t)
		pid := c.cmd.Process.Pid
		if err := m.Add(ct, pid); err != nil {
			t.Fatal(err)
		}
		await := func(want byte) {
			t.Helper()
			for end := time.Now().Add(5 * time.Second); state(pid) != want; {
				if time.Now().After(end) {
					t.Fatalf("its state is %c, not %c", state(pid), want)
				}
				time.Sleep(time.Millisecond)
			}
		}
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		await('T')
		for range 2 {
			if err := m.Freeze(t.Context(), ct); err != nil {
				t.Fatal(err)
			}
			attached, done := make(chan bool, 1), make(chan error, 1)
			go func() {
				stops, err := attach(pid, func() { attached <- true }, func() error { return m.Thaw(t.Context(), ct) })
				if err == nil && !slices.Contains(stops, unix.SIGSTOP) {
					err = fmt.Errorf("it is seen as stopped by %v", stops)
				}
				done <- err
			}()
			select {
			case <-attached:
			case <-time.After(5 * time.Second):
				t.Fatal("a stopped process cannot be attached to while it is frozen")
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			await('T')
		}
		if c.send(t); c.answers(t, 50*time.Millisecond) {
			t.Error("a stopped process answers")
		}
		if err := unix.Kill(pid, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if !c.answers(t, 5*time.Second) {
			t.Error("it does not go on")
		}
	})
}
