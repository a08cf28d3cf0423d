package engine_test

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// TestEndFromInside tells a reboot from a halt, and both from an init that was killed.
func TestEndFromInside(t *testing.T) {
	h, s := newHost(t)
	if !newerKernel(6, 15) { // and where init is slow, older ones do
		t.Skip("the kernel does not say how a process that is no child has ended")
	}
	for command, want := range map[string]runtime.End{"reboot": runtime.Rebooted, "poweroff": runtime.Halted, "kill -9 1": ""} {
		must(t, h.Start(t.Context(), s))
		h.counting()
		end := make(chan runtime.End, 1)
		go func() {
			is, err := h.WaitEnd(t.Context(), 101)
			if err != nil {
				t.Error(err)
			}
			end <- is
		}()
		if want == "" {
			must(t, h.Kill(t.Context(), 101))
		} else {
			h.run(command)
		}
		if got := <-end; got != want {
			t.Errorf("after %s it %q, want %q", command, got, want)
		}
	}
}

func newerKernel(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var a, b int
	_, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b)
	return err == nil && (a > major || a == major && b >= minor)
}
