package orphans_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime/orphans"
)

// TestOrphans has a command leave a process behind, which is ours from then on, and gone after two looks at it dead. What
// a command of our own returns is not taken from it.
func TestOrphans(t *testing.T) {
	if err := orphans.Adopt(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	out, err := exec.Command("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		t.Fatal(err)
	}
	orphan, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	if p := parent(t, orphan); p != os.Getpid() {
		t.Fatalf("the orphan's parent is %d, not %d", p, os.Getpid())
	}
	own := exec.Command("sh", "-c", "exit 7")
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	var r orphans.Reaper
	r.Look()
	if err := unix.Kill(orphan, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := own.Wait(); err == nil || own.ProcessState.ExitCode() != 7 {
		t.Errorf("our own command ended with %v", err)
	}
	until(t, "it is dead", func() bool { return state(orphan) == "Z" })
	r.Look()
	if state(orphan) != "Z" {
		t.Error("its end was taken note of at the first look")
	}
	r.Look()
	if s := state(orphan); s != "" {
		t.Errorf("after the second look it is %q", s)
	}
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func state(pid int) string { return status(pid, "State:") }

func parent(t *testing.T, pid int) int {
	t.Helper()
	n, err := strconv.Atoi(status(pid, "PPid:"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func status(pid int, key string) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 1 && fields[0] == key {
			return fields[1]
		}
	}
	return ""
}
