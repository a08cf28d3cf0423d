package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime/fault"
)

// TestPowerIsLostDuringMigration switches a host of a move off at each of its stages, and on again a little later. What
// ran there has lost its memory and says so; what ran on the other host goes on.
func TestPowerIsLostDuringMigration(t *testing.T) {
	c, random := newCrashLab(t, "off", 3), moments(t)
	type outage struct {
		at   harm
		role string
	}
	var all []outage
	for _, at := range stages() {
		for _, role := range []string{"source", "target"} {
			all = append(all, outage{at, role})
		}
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if os.Getenv("VZCLUSTER_CRASH") != "all" {
		all = all[:2]
	}
	outcomes := map[string]int{}
	for i, o := range all {
		from, outcome := time.Now(), "failed"
		name := fmt.Sprintf("power of the %s lost at %s", o.role, o.at.point)
		c.during(fmt.Sprint(i), func() { outcome = c.blackOut(name, o.at, o.role) })
		fmt.Printf("power %d of %d, %s: %s, %.1f s\n", i, len(all), name, outcome, time.Since(from).Seconds())
		if outcomes[outcome]++; outcome == "failed" {
			c.settles("after a failed case", calm)
		}
	}
	t.Logf("%v", outcomes)
}

// blackOut switches the host of a role off at a point.
func (c *crashLab) blackOut(name string, at harm, role string) string {
	c.t.Helper()
	who := c.cast()
	c.witness.fresh()
	defer c.disarm()
	c.arm(who, at)
	op := make(chan string, 1)
	go func() { op <- c.move(who, cluster.ModeLive) }()
	cs := crashCase{scene: scene{name: name}, harm: at}
	if !c.awaitPoint(who, cs, op) {
		return c.settles(name, calm) + ", not reached"
	}
	if err := c.lab.PowerOff(c.t.Context(), who[role]); err != nil {
		c.t.Fatal(err)
	}
	_ = os.Remove(c.file(who, at) + fault.Reached)
	if err := c.lab.Start(c.t.Context(), who[role]); err != nil {
		c.t.Fatal(err)
	}
	return c.settles(name, calm)
}

// TestSystemdContainerUnderFaults plays some of the matrix with a container that has systemd and services in it.
func TestSystemdContainerUnderFaults(t *testing.T) {
	c, random := newCrashLabOf(t, "sysd", 3, debian), moments(t)
	cases := systemdCases(random)
	if os.Getenv("VZCLUSTER_CRASH") != "all" {
		cases = cases[:3]
	}
	for i, cs := range cases {
		from, outcome := time.Now(), "failed"
		c.during(fmt.Sprint(i), func() { outcome = c.play(cs, calm) })
		fmt.Printf("systemd %d of %d, %s: %s, %.1f s\n", i, len(cases), cs, outcome, time.Since(from).Seconds())
		if outcome == "failed" {
			c.settles("after a failed case", calm)
		}
	}
}

// systemdCases are all faults at the points at which such a container differs: CRIU's, and those around the hand-over.
func systemdCases(random *rand.Rand) (all []crashCase) {
	for _, at := range []harm{
		{role: "source", point: "criu.started"},
		{role: "source", point: "criu.dump.post-dump"},
		{role: "source", point: "source.assert"},
		{role: "target", point: "criu.started"},
		{role: "target", point: "criu.restore.setup-namespaces"},
		{role: "target", point: "criu.restore.pre-resume"},
		{role: "target", point: "target.held"},
		{role: "target", point: "target.committed"},
		{role: "target", point: "target.resuming"},
		{role: "target", point: "network.open"},
	} {
		all = append(all, actions(crashCase{scene: scenes()[0], harm: at})...)
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}
