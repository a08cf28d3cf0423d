package criu

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcluster/vzcluster/runtime"
)

// Devices of terminals.
const (
	ctty = "char 5:0" // /dev/tty, whichever is a process's own
	ptmx = "char 5:2" // masters of pseudo-terminals
)

// terminal is what /proc/PID/stat says of a process's.
type terminal struct{ session, device, foreground int }

func readTerminal(pid int) (t terminal) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(b[max(0, strings.LastIndex(string(b), ")")):]), " ")
	f := strings.Fields(after)
	if len(f) < 6 {
		return t
	}
	t.session, _ = strconv.Atoi(f[3])
	t.device, _ = strconv.Atoi(f[4])
	t.foreground, _ = strconv.Atoi(f[5])
	return t
}

// number is that of a pseudo-terminal.
func (t terminal) number() int { return t.device&0xff | t.device>>12&0xfff00 }

// terminals finds the processes that have /dev/tty open in a way that CRIU refuses. It wants the same process to have the
// terminal open by its name, to lead its session, and to be in the foreground; what it makes of others that have the terminal too
// depends on their order.
func (s *scanner) terminals() {
	for i := range s.scan.Processes {
		p := &s.scan.Processes[i]
		if !slices.ContainsFunc(p.Files, func(f runtime.File) bool { return f.Device == ctty }) {
			continue
		}
		t := readTerminal(p.PID)
		master, held := s.masters[t.number()]
		p.Borrowing = t.session != p.PID || t.foreground != t.session || held && master != p.PID ||
			slices.ContainsFunc(s.scan.Processes, func(o runtime.Process) bool { return o.PID != p.PID && readTerminal(o.PID).device == t.device })
	}
}
