package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime/fault"
)

// scene is a kind of move whose points are harmed: one that goes well, or one that meets a fault already.
type scene struct {
	name  string
	mode  string
	harms []harm
	dead  bool // the container's processes end while it stands still
}

func scenes() []scene {
	return []scene{
		{name: "live"},
		{name: "aborted", harms: []harm{{"target", "target.held", 1, fault.Fail}}},
		{name: "source dies", harms: []harm{{"source", "source.assert", 1, fault.Kill}}},
		{name: "source dies late", harms: []harm{{"source", "source.resumed", 1, fault.Kill}}},
		{name: "target fails late", harms: []harm{{"target", "target.committed", 1, fault.Fail}}},
		{name: "target dies", harms: []harm{{"target", "target.restore", 1, fault.Kill}}},
		{name: "target dies late", harms: []harm{{"target", "target.committed", 1, fault.Kill}}},
		{name: "offline", mode: cluster.ModeOffline},
		{name: "memory lost", dead: true, harms: []harm{{"source", "source.assert", 1, fault.Hold}, {"target", "target.held", 1, fault.Fail}}},
	}
}

// crashCase is one fault in one scene.
type crashCase struct {
	scene scene
	harm  harm
	what  string // done by the test while the point is held; empty: the agent does all
}

func (c crashCase) String() string {
	text := c.scene.name + ": " + c.harm.String()
	if c.what != "" {
		text += " " + c.what
	}
	return text
}

// play moves the container once in a scene, with one more harm, and waits until all is well again.
func (c *crashLab) play(cs crashCase, calm time.Duration) (outcome string) {
	c.t.Helper()
	who := c.cast()
	c.witness.fresh()
	defer c.disarm()
	for _, h := range cs.scene.harms {
		c.arm(who, h)
	}
	if cs.harm.point != "" {
		c.arm(who, cs.harm)
	}
	op := make(chan string, 1)
	go func() { op <- c.move(who, cs.scene.mode) }()
	if cs.scene.dead {
		c.endMemory(who, cs)
	}
	reached := c.awaitPoint(who, cs, op)
	if cs.harm.action == fault.Hold {
		_ = os.Remove(c.file(who, cs.harm)) // from now on nothing is held
		if reached = reached || c.reached(who, cs.harm); reached {
			c.whileHeld(who, cs)
		}
	}
	outcome = c.settles(cs.String(), calm)
	if !reached && cs.harm.point != "" && !c.reached(who, cs.harm) {
		outcome += ", not reached"
	}
	return outcome
}

// awaitPoint waits until the case's point is reached or the move has ended.
func (c *crashLab) awaitPoint(who cast, cs crashCase, begun <-chan string) (reached bool) {
	c.t.Helper()
	op, known, over := "", false, time.Time{}
	c.until(cs.String()+": the point is reached or the move ends", 2*c.within, func() error {
		if cs.harm.point != "" && c.reached(who, cs.harm) {
			reached = true
			return nil
		}
		if !known {
			select {
			case op = <-begun:
				known = true
			default:
				return fmt.Errorf("it has not begun")
			}
		}
		if !c.ended(who, op) {
			over = time.Time{}
			return fmt.Errorf("operation %q goes on", op)
		}
		if cs.harm.point == "" {
			return nil
		}
		if _, err := c.settled(); err != nil { // what is done after the end has points too
			over = time.Time{}
			return err
		}
		if over.IsZero() {
			over = time.Now()
		}
		if time.Since(over) < aftermath {
			return fmt.Errorf("operation %q has just ended", op)
		}
		return nil
	})
	return reached || cs.harm.point != "" && c.reached(who, cs.harm)
}

// endMemory kills the container's processes while it stands still.
func (c *crashLab) endMemory(who cast, cs crashCase) {
	at := cs.scene.harms[0]
	deadline := time.After(2 * c.within)
	for !c.reached(who, at) {
		select {
		case <-deadline:
			return // the other harm came first
		case <-time.After(5 * time.Millisecond):
		}
		if cs.harm.point != "" && c.reached(who, cs.harm) {
			return
		}
	}
	c.killInit(who["source"])
	_ = os.Remove(c.file(who, at) + fault.Reached)
}

// whileHeld does what the test has to do itself, and lets the agent go on.
func (c *crashLab) whileHeld(who cast, cs crashCase) {
	c.t.Helper()
	if err := c.lab.Kill(c.t.Context(), who["leader"], false); err != nil {
		c.t.Fatal(err)
	}
	_ = os.Remove(c.file(who, cs.harm) + fault.Reached) // the leader may be the one that waited
}

// passages plays scenes without further harm and lists the points that the hosts pass, each with its first passages.
func (c *crashLab) passages(these []scene) (all []crashCase, points []string) {
	c.t.Helper()
	seen := map[string]int{} // role and point -> most passages that are listed
	for _, s := range these {
		who := c.cast()
		for _, h := range c.lab.Hosts() {
			if err := os.WriteFile(filepath.Join(c.lab.FaultDir(h), fault.Trace), nil, 0o600); err != nil {
				c.t.Fatal(err)
			}
		}
		traced := func(host string) []string {
			b, _ := os.ReadFile(filepath.Join(c.lab.FaultDir(host), fault.Trace))
			return strings.Fields(string(b))
		}
		lines := map[string][]string{}
		c.playTraced(s, func() {
			for _, role := range []string{"source", "target", "leader"} {
				lines[role] = traced(who[role])
			}
		})
		for _, role := range []string{"source", "target", "leader"} {
			count := map[string]int{}
			for _, p := range lines[role] {
				count[p]++
				if n := count[p]; ofMove(role, p) && n <= mostPassages && n > seen[role+p] {
					seen[role+p] = n
					all = append(all, crashCase{scene: s, harm: harm{role: role, point: p, passage: n}})
					if !slices.Contains(points, p) {
						points = append(points, p)
					}
				}
			}
		}
	}
	return all, points
}

// ofMove says whether a point is a host's business in a role. A replica passes those of raft for all that was ever
// committed when its agent begins.
func ofMove(role, point string) bool {
	if !strings.HasPrefix(point, "raft.") {
		return role != "leader"
	}
	return role == "leader" && (strings.HasSuffix(point, "Migration") || strings.HasSuffix(point, "ReportContainer"))
}

// mostPassages is how many passages of the same point in one move are harmed.
const mostPassages = 2

func (c *crashLab) playTraced(s scene, before func()) {
	c.t.Helper()
	who := c.cast()
	defer c.disarm()
	c.witness.fresh()
	for _, h := range s.harms {
		c.arm(who, h)
	}
	op := make(chan string, 1)
	go func() { op <- c.move(who, s.mode) }()
	cs := crashCase{scene: s}
	if s.dead {
		c.endMemory(who, cs)
	}
	c.awaitPoint(who, cs, op)
	c.t.Logf("scene %q: %s", s.name, c.settles("scene "+s.name, calm))
	before()
}

// calm is how long a container must be well until it is believed.
const calm = 200 * time.Millisecond

// actions are the faults that make sense at a point.
func actions(p crashCase) (all []crashCase) {
	add := func(a fault.Action, what string) {
		next := p
		next.harm.action, next.what = a, what
		all = append(all, next)
	}
	if committed := strings.HasPrefix(p.harm.point, "raft.committed") || strings.HasPrefix(p.harm.point, "raft.applied"); !committed {
		add(fault.Fail, "")
	}
	add(fault.Kill, "")
	add(fault.Stall, "")
	if p.harm.role != "leader" {
		add(fault.Hold, "and the leader is killed")
	}
	if strings.HasPrefix(p.harm.point, "criu.") {
		add(fault.Child, "")
	}
	return all
}

// TestCrashMatrix harms hosts at every point of a move: three rounds of all combinations, or a sample, see campaign.
func TestCrashMatrix(t *testing.T) {
	these := scenes()
	if !wholeCampaign() && os.Getenv("VZCLUSTER_CRASH_ONLY") == "" {
		these = []scene{these[0], these[1+moments(t).IntN(len(these)-1)]}
	}
	var places, all []crashCase
	t.Run("points", func(t *testing.T) {
		var names []string
		places, names = newCrashLab(t, "points", 3).passages(these)
		if len(names) < 45 {
			t.Errorf("only %d points are passed: %v", len(names), names)
		}
		t.Logf("%d points at %d places: %s", len(names), len(places), strings.Join(names, " "))
	})
	for _, p := range places {
		all = append(all, actions(p)...)
	}
	t.Logf("%d combinations", len(all))
	campaign[crashCase]{
		name: "crash", rounds: 3, sample: 40, share: 1,
		lab:  func(t *testing.T, name string) *crashLab { return newCrashLab(t, name, 3) },
		play: func(c *crashLab, what crashCase) string { return c.play(what, calm) },
	}.run(t, all)
}

// sampleTime is how long the sample of an ordinary test run takes.
const sampleTime = 60 * time.Second

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// killInit ends a host's copy of the container, whatever its agent does.
func (c *crashLab) killInit(host string) {
	for _, pid := range c.inits(host, c.id) {
		p, err := os.FindProcess(pid)
		if err == nil {
			_ = p.Kill()
		}
	}
}
