package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime/fault"
)

// cut is a way to part the hosts of a move, as pairs of roles that do not hear each other any more.
type cut struct {
	name  string
	pairs [][2]string
	flap  bool // it comes and goes
}

// cuts: the quorum are the voters, which are neither source nor target.
func cuts() []cut {
	return []cut{
		{name: "source|target", pairs: [][2]string{{"source", "target"}}},
		{name: "source|quorum", pairs: [][2]string{{"source", "quorum"}}},
		{name: "target|quorum", pairs: [][2]string{{"target", "quorum"}}},
		{name: "source and target|quorum", pairs: [][2]string{{"source", "quorum"}, {"target", "quorum"}}},
		{name: "source|all", pairs: [][2]string{{"source", "target"}, {"source", "quorum"}}},
		{name: "target|all", pairs: [][2]string{{"source", "target"}, {"target", "quorum"}}},
		{name: "source|target, flapping", pairs: [][2]string{{"source", "target"}}, flap: true},
		{name: "source|quorum, flapping", pairs: [][2]string{{"source", "quorum"}}, flap: true},
		{name: "target|quorum, flapping", pairs: [][2]string{{"target", "quorum"}}, flap: true},
	}
}

// stages are the points at which the cut is made, one in each stage of a move.
func stages() []harm {
	var all []harm
	for _, role := range []string{"source", "target"} {
		for _, p := range []string{
			"source.hello", "source.prepare", "source.frozen", "source.images", "source.assert", "source.resumed", "source.finish",
			"target.copy", "target.restore", "target.held", "target.commit", "target.committed", "target.resuming", "target.told",
		} {
			if strings.HasPrefix(p, role) {
				all = append(all, harm{role, p, 1, fault.Hold})
			}
		}
	}
	return all
}

// newPartLab makes a lab of three voters and two more hosts, between which the container is moved.
func newPartLab(t *testing.T, name string) *crashLab {
	t.Helper()
	c := newCrashLab(t, name, 5)
	st := c.status()
	for _, h := range st.Hosts {
		if !h.Voter {
			c.hosts = append(c.hosts, h.Name)
		}
	}
	if len(c.hosts) != 2 {
		t.Fatalf("the hosts that do not vote are %v", c.hosts)
	}
	if ct := c.show(c.name); !slices.Contains(c.hosts, ct.Host) {
		c.migrate(c.name, c.hosts[0])
	}
	return c
}

// parting is a cut at a stage.
type parting struct {
	at  harm
	how cut
}

func (p parting) String() string { return fmt.Sprintf("%s cut at %s", p.how.name, p.at.point) }

// TestPartitionsAtEachStage parts the hosts of a move at each of its stages for longer than anybody waits for an
// answer. While it lasts no two copies run; when it is over all is well again, and nothing was restarted.
func TestPartitionsAtEachStage(t *testing.T) {
	var all []parting
	for _, at := range stages() {
		for _, how := range cuts() {
			all = append(all, parting{at, how})
		}
	}
	campaign[parting]{
		name: "part", sample: 3, share: 0.25, lab: newPartLab,
		play: func(c *crashLab, what parting) string { return c.part(what.String(), what.at, what.how) },
	}.run(t, all)
}

// cutTime is how long a cut lasts: longer than a silent peer or an unanswered question is waited for.
const cutTime = 8 * time.Second

func (c *crashLab) part(name string, at harm, how cut) string {
	c.t.Helper()
	who := c.cast()
	c.witness.fresh()
	defer c.disarm()
	defer c.mendAll()
	c.arm(who, at)
	op := make(chan string, 1)
	go func() { op <- c.move(who, cluster.ModeLive) }()
	if !c.awaitPoint(who, crashCase{scene: scene{name: name}, harm: at}, op) {
		c.letGo(who, at)
		return c.settles(name, calm) + ", not reached"
	}
	const flaps = 4
	for n := range 2 * flaps {
		switch {
		case n == 0 || how.flap && n%2 == 0:
			c.cut(who, how)
		case how.flap:
			c.mendAll()
		}
		if n == 0 {
			c.letGo(who, at)
		}
		for end := time.Now().Add(cutTime / (2 * flaps)); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
			if n := c.running(); n > 1 {
				c.t.Fatalf("%s: %d copies run", name, n)
			}
		}
	}
	c.mendAll()
	outcome := c.settles(name, calm)
	if outcome == "restarted" {
		c.t.Errorf("%s: no host died, and the memory was lost", name)
	}
	return outcome
}

// running counts the copies that beat now.
func (c *crashLab) running() int {
	if len(c.witness.twice()) > 0 {
		return 2
	}
	return 1
}

// cut has the hosts drop what comes from each other.
func (c *crashLab) cut(who cast, how cut) {
	c.t.Helper()
	for _, p := range how.pairs {
		for _, a := range c.playing(who, p[0]) {
			for _, b := range c.playing(who, p[1]) {
				c.drop(a, b)
				c.drop(b, a)
			}
		}
	}
}

func (c *crashLab) playing(who cast, role string) []string {
	if role != "quorum" {
		return []string{who[role]}
	}
	var voters []string
	for _, h := range c.lab.Hosts() {
		if !slices.Contains(c.hosts, h) {
			voters = append(voters, h)
		}
	}
	return voters
}

const dropScript = `nft add table inet crash
nft add chain inet crash in '{ type filter hook input priority 0; }'
nft add rule inet crash in ip saddr %s drop`

func (c *crashLab) drop(at, from string) {
	c.t.Helper()
	if out, code := c.on(at, fmt.Sprintf(dropScript, c.lab.Address(from))); code != 0 {
		c.t.Fatalf("part %s from %s: %s", at, from, out)
	}
}

func (c *crashLab) mendAll() {
	c.t.Helper()
	for _, h := range c.lab.Hosts() {
		if out, code := c.on(h, "nft list table inet crash >/dev/null 2>&1 || exit 0; nft delete table inet crash"); code != 0 {
			c.t.Fatalf("join %s again: %s", h, out)
		}
	}
}
