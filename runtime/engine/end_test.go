package engine_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
	"github.com/vzcluster/vzcluster/runtime/orphans"
)

// TestEndFromInside tells a reboot from a halt, and both from an init that was killed: as a parent, by how init has ended,
// and afterwards by its last words.
func TestEndFromInside(t *testing.T) {
	h, s := newHost(t)
	must(t, orphans.Adopt())
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	for command, want := range map[string]struct{ end, words runtime.End }{
		"reboot": {runtime.Rebooted, runtime.Rebooted}, "poweroff": {runtime.Halted, runtime.Halted}, "halt": {runtime.Halted, runtime.Halted},
		"reboot -f": {runtime.Rebooted, ""}, "poweroff -f": {runtime.Halted, ""}, "": {},
	} {
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
		if command == "" {
			must(t, h.Kill(t.Context(), 101))
		} else {
			h.run(command)
		}
		if got := <-end; got != want.end {
			t.Errorf("after %q it %q, want %q", command, got, want.end)
		}
		words, err := h.LastWords(101)
		if must(t, err); words != want.words {
			t.Errorf("after %q its last words mean %q, want %q", command, words, want.words)
		}
	}
}
