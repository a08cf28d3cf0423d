package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime/fault"
)

// work is a program at work for a move: it begins right behind a point.
type work struct {
	program string
	begins  harm
	scene   scene
	name    string
}

// works are the programs that can be killed. What follows is a failure where that spares a whole move.
func works() map[string]work {
	offline := scene{name: "offline", mode: cluster.ModeOffline}
	lost := scenes()[len(scenes())-1]
	at := func(role, point string) harm { return harm{role, point, 1, fault.Hold} }
	return map[string]work{
		"dump": {"criu", at("source", "source.dump"), scene{name: "dump", harms: []harm{{"source", "source.images", 1, fault.Fail}}}, "criu, dumping"},
		"restore": {
			"criu", at("target", "target.restore"), scene{name: "restore", harms: []harm{{"target", "target.held", 1, fault.Fail}}}, "criu, restoring",
		},
		"prepare":      {"runc", at("target", "runc.preparing"), scene{name: "prepare"}, "runc create before a live move's freeze"},
		"create":       {"runc", at("target", "runc.creating"), offline, "runc create after an offline move"},
		"start":        {"runc", at("target", "runc.starting"), offline, "runc start after an offline move"},
		"create again": {"runc", at("source", "runc.creating"), lost, "runc create after the memory was lost"},
		"start again":  {"runc", at("source", "runc.starting"), lost, "runc start after the memory was lost"},
	}
}

// stroke is a kill of a program when it has done a part of its work.
type stroke struct {
	work
	part float64
}

func (s stroke) String() string { return fmt.Sprintf("%s, killed at %.1f %%", s.name, 100*s.part) }

// strokes spreads kills evenly over a program's work.
func strokes(w work, n int) (all []stroke) {
	for i := range n {
		all = append(all, stroke{w, (float64(i) + 0.5) / float64(n)})
	}
	return all
}

// TestCriuIsKilledWhileItDumps kills a dumping CRIU again and again, all over its work: the container goes on where it was, its
// connection unharmed or not, or is restarted from its disk and says so; never two, never none.
func TestCriuIsKilledWhileItDumps(t *testing.T) {
	killAtWork(t, "dump", 5, strokes(works()["dump"], number(t, "VZCLUSTER_CRASH_KILLS", 200)))
}

// TestProgramsAreKilledAtWork does the same to a restoring CRIU and to runc.
func TestProgramsAreKilledAtWork(t *testing.T) {
	var all []stroke
	for _, name := range []string{"restore", "prepare", "create", "start", "create again", "start again"} {
		all = append(all, strokes(works()[name], 20)...)
	}
	killAtWork(t, "work", 5, all)
}

func killAtWork(t *testing.T, name string, sample int, all []stroke) {
	campaign[stroke]{
		name: name, sample: sample, share: 0.15,
		lab:  func(t *testing.T, name string) *crashLab { return newCrashLab(t, name, 3) },
		play: (*crashLab).strike,
	}.run(t, all)
}

// mostTries is how many moves may pass before a kill meets its program at work.
const mostTries = 20

// strike kills a program at work. How long the work takes is learnt from those that came too late.
func (c *crashLab) strike(s stroke) (outcome string) {
	c.t.Helper()
	for range mostTries {
		killed := 0
		if killed, outcome = c.strikeOnce(s); killed > 0 {
			return outcome
		}
	}
	c.t.Fatalf("%s: in %d moves there was none at work at that time", s, mostTries)
	return ""
}

func (c *crashLab) strikeOnce(s stroke) (killed int, outcome string) {
	c.t.Helper()
	who := c.cast()
	c.witness.fresh()
	defer c.disarm()
	for _, h := range s.scene.harms {
		c.arm(who, h)
	}
	c.arm(who, s.begins)
	op := make(chan string, 1)
	go func() { op <- c.move(who, s.scene.mode) }()
	cs := crashCase{scene: s.scene, harm: s.begins}
	if s.scene.dead {
		c.endMemory(who, cs)
	}
	reached := c.awaitPoint(who, cs, op)
	c.letGo(who, s.begins)
	if reached {
		killed = c.killAt(who[s.begins.role], s)
	}
	return killed, c.settles(s.String(), aftermath)
}

// atWork is how long a program may take to begin.
const atWork = 2 * time.Second

// killAt waits until a host's program is at work, and until it must have done its part, and kills it.
func (c *crashLab) killAt(host string, s stroke) (killed int) {
	usual, known := c.usual[s.name] // the first is only watched
	var begun time.Time
	for waited := time.Now(); begun.IsZero() || time.Since(begun) < c.within; time.Sleep(time.Millisecond) {
		pids := c.working(host, s.program, s.begins.role == "source")
		switch {
		case len(pids) == 0 && begun.IsZero():
			if time.Since(waited) > atWork {
				return 0
			}
			continue
		case len(pids) == 0:
			if c.usual[s.name] = time.Since(begun); known { // a little less in any case, or the last moments are never met
				c.usual[s.name] = min((2*usual+time.Since(begun))/3, usual*19/20)
			}
			return 0
		case begun.IsZero():
			begun = time.Now()
		}
		if known && time.Since(begun) >= time.Duration(s.part*float64(usual)) {
			for _, pid := range pids {
				if unix.Kill(pid, unix.SIGKILL) == nil {
					killed++
				}
			}
			return killed
		}
	}
	return 0
}

// working returns the pids of a host's programs of a name, as seen from here; titled: only of a CRIU that has changed its
// title, as it does when it begins to dump.
func (k *kit) working(host, program string, titled bool) (pids []int) {
	k.t.Helper()
	init := k.init1(host)
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", init))
	if err != nil {
		return nil // the host is off
	}
	for _, pid := range k.processes(host) {
		dir := filepath.Join("/proc", pid)
		if name, err := os.ReadFile(filepath.Join(dir, "comm")); err != nil || string(name) != program+"\n" {
			continue
		}
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if in, _ := os.Readlink(filepath.Join(dir, "ns/pid")); err != nil || in != space {
			continue // another host's
		}
		if program == "criu" && titled && !strings.HasPrefix(string(line), "criu: ") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// processes returns the pids of what runs on a host outside of its containers.
func (k *kit) processes(host string) []string {
	k.t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/pids/vzlab-%s/%s/cgroup.procs", "/sys/fs/cgroup/vzlab-%s/%s/cgroup.procs"} {
		if b, err := os.ReadFile(fmt.Sprintf(pattern, k.lab.Name(), host)); err == nil {
			return strings.Fields(string(b))
		}
	}
	k.t.Fatalf("the processes of %s cannot be listed", host)
	return nil
}
