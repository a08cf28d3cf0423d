package agent

import (
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// local is what this host knows of a container by itself.
type local struct {
	Running bool // by the kernel
	Trace   bool // anything of it is here: processes, cgroup, layer
	Moving  bool // a migration that this host takes part in is under way
	Task    bool // a local operation is to be carried out on it
	Memory  runtime.Suspension
	Network string // the fingerprint of the NICs that it should have
	Fresh   bool   // its host has booted, and nothing was done for it since
	Unsure  bool   // its host has booted, and it is not known yet what that means
	Acted   acted
}

// acted is what the agent did last for a container. It is kept in run_dir, so that a reboot forgets it.
type acted struct {
	Boot       string         `json:"boot"` // the kernel's boot id: a record of another boot says nothing
	Generation uint64         `json:"generation"`
	Epoch      uint64         `json:"epoch"`
	Limits     cluster.Limits `json:"limits"` // that the kernel enforces
	Guarantee  int64          `json:"guarantee,omitempty"`
	Refused    string         `json:"refused,omitempty"`    // why the kernel refused Limits
	Failed     string         `json:"failed,omitempty"`     // why it does not run, in this epoch
	Network    string         `json:"network,omitempty"`    // the fingerprint of the NICs that it has
	Unplugged  string         `json:"unplugged,omitempty"`  // why it could not have them as it should
	DNS        string         `json:"dns,omitempty"`        // what its resolver asks, if that is its own
	Unresolved string         `json:"unresolved,omitempty"` // why that could not be changed
}

// current reports whether the record is about the container as it is owned and wanted now.
func (a acted) current(c *cluster.Container) bool {
	return a.Generation == c.Generation && a.Epoch == c.Epoch
}

// newer reports whether the record is about a later state than this one.
func (a acted) newer(c *cluster.Container) bool {
	return a.Generation > c.Generation || a.Generation == c.Generation && a.Epoch > c.Epoch
}

// verb names one transition.
type verb string

const (
	doNothing verb = "nothing"
	doAdopt   verb = "adopt"   // it runs and that is right: take note
	doStart   verb = "start"   // fetch the template if need be, start, report
	doStop    verb = "stop"    // stop; what comes next is decided after
	doBury    verb = "bury"    // its init ended by itself: free what is left, take note
	doUpdate  verb = "update"  // bring new limits to the kernel
	doConnect verb = "connect" // bring its network cards up to date
	doResolve verb = "resolve" // have it ask other name servers
	doReport  verb = "report"  // say what is so
	doDestroy verb = "destroy" // delete it, then its record
	doSuspend verb = "suspend" // write its memory to disk and end it
	doForget  verb = "forget"  // delete the memory of one that is suspended
	doWake    verb = "wake"    // have it started, because its host has booted
	doHalt    verb = "halt"    // say that it is not to run any more
	doTask    verb = "task"    // carry a local operation out
	doDrop    verb = "drop"    // another host's, or nobody's: ask the leader, then delete the copy
)

// action is one transition, with what to report for doReport. A start with a detail is one that a fault made necessary.
type action struct {
	Do     verb
	State  cluster.ContainerState
	Detail string
}

// decide says what this host does next for a container: one transition, decided from the record (nil: there is none)
// and from what is here. It is asked again after every transition until it says doNothing.
func decide(host string, c *cluster.Container, l local) action {
	switch {
	case l.Moving:
		return adoptMoved(host, c, l)
	case c != nil && c.Host == host && l.Acted.newer(c):
		return action{Do: doNothing} // the replica is behind, as after a restart of the agent: more is on its way
	case c == nil || c.Host != host:
		if l.Trace || l.Running {
			return action{Do: doDrop}
		}
		return action{Do: doNothing}
	case l.Task:
		return action{Do: doTask}
	case c.Operation != "":
		return adoptMoved(host, c, l)
	}
	switch c.Desired {
	case cluster.WantDestroyed:
		if l.Running {
			return action{Do: doStop}
		}
		return action{Do: doDestroy}
	case cluster.WantRunning:
		if l.Running {
			return keepRunning(c, l)
		}
		return getRunning(c, l)
	}
	if l.Fresh && c.OnBoot == cluster.BootYes && !l.Running && !c.InTrash() {
		return action{Do: doWake}
	}
	if c.Desired == cluster.WantSuspended {
		return getSuspended(c, l)
	}
	switch {
	case l.Running:
		return action{Do: doStop}
	case l.Memory != "":
		return action{Do: doForget}
	}
	if c.State == cluster.Stopped { // why stays told
		return action{Do: doNothing}
	}
	return report(c, cluster.Stopped, "")
}

// stayOff is for a container that ran and is not to be started when its host boots.
func stayOff(l local) action {
	state := cluster.Stopped
	if l.Memory == runtime.Suspended {
		state = cluster.Suspended
	}
	return action{Do: doHalt, State: state, Detail: "not started at its host's boot"}
}

// getSuspended also finds what ended before it could be suspended: that is stopped, and starts from its disk.
func getSuspended(c *cluster.Container, l local) action {
	switch {
	case l.Running:
		return action{Do: doSuspend}
	case l.Memory == runtime.Suspended:
		return report(c, cluster.Suspended, "")
	}
	return report(c, cluster.Stopped, "it ended before it could be suspended")
}

// adoptMoved leaves a migrating container to the migration, and only takes note of what a hand-over brought here, so
// that a restart that a user asks for right after it is seen as one.
func adoptMoved(host string, c *cluster.Container, l local) action {
	if c != nil && c.Host == host && l.Running && l.Acted.Generation != c.Generation {
		return action{Do: doAdopt}
	}
	return action{Do: doNothing}
}

func keepRunning(c *cluster.Container, l local) action {
	switch {
	case l.Memory != "": // a resume was cut off
		return action{Do: doStart}
	case l.Acted.Generation != c.Generation:
		return action{Do: doAdopt}
	case l.Acted.Epoch != c.Epoch: // restart
		return action{Do: doStop}
	case l.Acted.Limits != c.Limits || l.Acted.Guarantee != c.Rules.Guarantee:
		return action{Do: doUpdate}
	case l.Acted.Network != l.Network:
		return action{Do: doConnect}
	case l.Acted.DNS != ownResolver(c):
		return action{Do: doResolve}
	case c.State == cluster.Running: // the detail says what happened to it on the way here
		return action{Do: doNothing}
	}
	return report(c, cluster.Running, "")
}

func getRunning(c *cluster.Container, l local) action {
	switch {
	case l.Fresh && c.OnBoot == cluster.BootNo:
		return stayOff(l)
	case l.Memory == runtime.Suspended:
		return action{Do: doStart}
	case l.Memory == runtime.Resuming && l.Acted.Generation == 0:
		return action{Do: doStart, Detail: "started again from disk: its host went down while it was resumed"}
	case l.Acted.Generation == 0 && c.State == cluster.Running: // since this host booted nothing was done for it
		return action{Do: doStart, Detail: "started again from disk: its host went down while it ran"}
	case !l.Acted.current(c):
		return action{Do: doStart}
	case l.Acted.Failed == "":
		return action{Do: doBury}
	}
	return report(c, cluster.Failed, l.Acted.Failed)
}

func report(c *cluster.Container, s cluster.ContainerState, detail string) action {
	if c.State == s && c.Detail == detail {
		return action{Do: doNothing}
	}
	return action{Do: doReport, State: s, Detail: detail}
}
