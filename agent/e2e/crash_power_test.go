package e2e

import (
	"fmt"
	"testing"

	"github.com/vzcluster/vzcluster/cluster"
)

// outage is a loss of power at a stage.
type outage struct {
	at   harm
	role string
}

func (o outage) String() string {
	return fmt.Sprintf("power of the %s lost at %s", o.role, o.at.point)
}

// TestPowerIsLostDuringMigration switches a host of a move off at each of its stages, and on again a little later. What
// ran there has lost its memory and says so; what ran on the other host goes on.
func TestPowerIsLostDuringMigration(t *testing.T) {
	var all []outage
	for _, at := range stages() {
		for _, role := range []string{"source", "target"} {
			all = append(all, outage{at, role})
		}
	}
	campaign[outage]{
		name: "power", sample: 2, share: 0.07,
		lab:  func(t *testing.T, name string) *crashLab { return newCrashLab(t, name, 3) },
		play: func(c *crashLab, what outage) string { return c.blackOut(what.String(), what.at, what.role) },
	}.run(t, all)
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
		c.letGo(who, at)
		return c.settles(name, calm) + ", not reached"
	}
	if err := c.lab.PowerOff(c.t.Context(), who[role]); err != nil {
		c.t.Fatal(err)
	}
	c.letGo(who, at)
	if err := c.lab.Start(c.t.Context(), who[role]); err != nil {
		c.t.Fatal(err)
	}
	return c.settles(name, calm)
}

// TestSystemdContainerUnderFaults plays some of the matrix with a container that has systemd and services in it.
func TestSystemdContainerUnderFaults(t *testing.T) {
	campaign[crashCase]{
		name: "systemd", sample: 3, share: 0.08,
		lab:  func(t *testing.T, name string) *crashLab { return newCrashLabOf(t, name, 3, debian) },
		play: func(c *crashLab, what crashCase) string { return c.play(what, calm) },
	}.run(t, systemdCases())
}

// systemdCases are all faults at the points at which such a container differs: CRIU's, and those around the hand-over.
func systemdCases() (all []crashCase) {
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
	return all
}
