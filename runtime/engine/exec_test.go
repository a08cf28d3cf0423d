package engine_test

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// TestExecOfNothing asks for programs that cannot be run; what is said is one sentence, with and without a terminal.
func TestExecOfNothing(t *testing.T) {
	h, s := newHost(t)
	must(t, h.Start(t.Context(), s))
	for program, want := range map[string]struct {
		code int
		says string
	}{
		"nope":       {127, "there is no program nope in the container\n"},
		"/bin/nope":  {127, "there is no program /bin/nope in the container\n"},
		"/etc/hosts": {126, "/etc/hosts cannot be run: it is no program, or may not be executed\n"},
		"/etc":       {126, "/etc cannot be run: it is no program, or may not be executed\n"},
	} {
		var out bytes.Buffer
		code, err := h.Exec(t.Context(), 101, runtime.ExecOptions{Args: []string{program}, Stdout: &out, Stderr: &out})
		if code != want.code || err != nil || out.String() != want.says {
			t.Errorf("%s: exit code %d, %v, %q", program, code, err, out.String())
		}
	}
	if got := h.run("echo err >&2; (exit 255) || echo $? >&2"); got != "err\n255" {
		t.Errorf("a command of its own says %q", got)
	}
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	must(t, err)
	defer master.Close()
	var out bytes.Buffer
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	code, err := h.Exec(t.Context(), 101, runtime.ExecOptions{Args: []string{"nope"}, TTY: slave})
	slave.Close()
	_, _ = out.ReadFrom(master)
	if code != 127 || err != nil || strings.TrimSpace(out.String()) != "there is no program nope in the container" {
		t.Errorf("on a terminal: exit code %d, %v, %q", code, err, out.String())
	}
}
