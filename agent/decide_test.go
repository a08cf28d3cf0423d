package agent

import (
	"slices"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/cluster"
)

func TestDecide(t *testing.T) {
	limits := cluster.Limits{RAM: 1 << 20}
	// The container as host1 owns and runs it; each case changes what it is about.
	ct := func(change func(*cluster.Container)) *cluster.Container {
		c := &cluster.Container{
			ID: 101, Host: "host1", Generation: 3, Desired: cluster.WantRunning, Epoch: 5, State: cluster.Running, Limits: limits,
		}
		if change != nil {
			change(c)
		}
		return c
	}
	did := acted{Generation: 3, Epoch: 5, Limits: limits}
	up, down := local{Running: true, Trace: true, Acted: did}, local{Trace: true, Acted: did}
	with := func(l local, change func(*local)) local { change(&l); return l }

	for name, c := range map[string]struct {
		c    *cluster.Container
		l    local
		want action
	}{
		"all is well": {ct(nil), up, action{Do: doNothing}},
		"what happened on the way here stays told": {
			ct(func(c *cluster.Container) { c.Detail = "restarted from disk" }), up, action{Do: doNothing},
		},
		"new": {
			ct(func(c *cluster.Container) { c.State, c.Epoch, c.Generation = cluster.Pending, 1, 1 }), local{}, action{Do: doStart},
		},
		"new, to be stopped": {
			ct(func(c *cluster.Container) { c.State, c.Desired = cluster.Pending, cluster.WantStopped }),
			local{},
			action{Do: doReport, State: cluster.Stopped},
		},
		"started, not yet reported": {
			ct(func(c *cluster.Container) { c.State = cluster.Starting }), up, action{Do: doReport, State: cluster.Running},
		},
		"running after the agent's record was lost": {ct(nil), with(up, func(l *local) { l.Acted = acted{} }), action{Do: doAdopt}},
		"restart":                   {ct(func(c *cluster.Container) { c.Epoch = 6 }), up, action{Do: doStop}},
		"restart, stopped by now":   {ct(func(c *cluster.Container) { c.Epoch = 6 }), down, action{Do: doStart}},
		"stop":                      {ct(func(c *cluster.Container) { c.Desired, c.Epoch = cluster.WantStopped, 6 }), up, action{Do: doStop}},
		"stopped, not yet reported": {ct(func(c *cluster.Container) { c.Desired = cluster.WantStopped }), down, action{Do: doReport, State: cluster.Stopped}},
		"init ended by itself":      {ct(nil), down, action{Do: doBury}},
		"init ended, taken note of": {ct(nil), with(down, func(l *local) { l.Acted.Failed = "why" }), action{Do: doReport, State: cluster.Failed, Detail: "why"}},
		"failed and reported": {
			ct(func(c *cluster.Container) { c.State, c.Detail = cluster.Failed, "why" }),
			with(down, func(l *local) { l.Acted.Failed = "why" }),
			action{Do: doNothing},
		},
		"failed, to be started again": {
			ct(func(c *cluster.Container) { c.State, c.Epoch = cluster.Failed, 6 }),
			with(down, func(l *local) { l.Acted.Failed = "why" }),
			action{Do: doStart},
		},
		"after a reboot": {
			ct(nil), with(down, func(l *local) { l.Acted = acted{} }), action{Do: doStart, Detail: "started again from disk: its host went down while it ran"},
		},
		"after a reboot during its start": {
			ct(func(c *cluster.Container) { c.State = cluster.Starting }), with(down, func(l *local) { l.Acted = acted{} }), action{Do: doStart},
		},
		"new limits":                      {ct(func(c *cluster.Container) { c.Limits.RAM = 2 << 20 }), up, action{Do: doUpdate}},
		"another resolver":                {ct(func(c *cluster.Container) { c.NameServers = []string{"10.0.0.1"} }), up, action{Do: doResolve}},
		"no resolver of its own any more": {ct(nil), with(up, func(l *local) { l.Acted.DNS = "10.0.0.1|" }), action{Do: doResolve}},
		"destroy, running":                {ct(func(c *cluster.Container) { c.Desired = cluster.WantDestroyed }), up, action{Do: doStop}},
		"destroy, stopped":                {ct(func(c *cluster.Container) { c.Desired = cluster.WantDestroyed }), down, action{Do: doDestroy}},
		"another's copy":                  {ct(func(c *cluster.Container) { c.Host = "host2" }), up, action{Do: doDrop}},
		"another's layer":                 {ct(func(c *cluster.Container) { c.Host = "host2" }), down, action{Do: doDrop}},
		"another's, all is well":          {ct(func(c *cluster.Container) { c.Host = "host2" }), local{}, action{Do: doNothing}},
		"nobody's copy":                   {nil, up, action{Do: doDrop}},
		"nobody's, nothing":               {nil, local{}, action{Do: doNothing}},
		"a copy on its way in or out is left alone": {
			ct(func(c *cluster.Container) { c.Host, c.Operation = "host2", "op" }), with(up, func(l *local) { l.Moving = true }), action{Do: doNothing},
		},
		"a migration that the replica has not seen the record of": {nil, with(up, func(l *local) { l.Moving = true }), action{Do: doNothing}},
		"its own migration, not yet committed": {
			ct(func(c *cluster.Container) { c.Operation = "op" }), with(up, func(l *local) { l.Moving = true }), action{Do: doNothing},
		},
		"stop is not carried out during a migration": {
			ct(func(c *cluster.Container) { c.Operation, c.Desired = "op", cluster.WantStopped }), up, action{Do: doNothing},
		},
		"handed over to this host": {
			ct(func(c *cluster.Container) { c.Operation, c.Generation = "op", 4 }), with(up, func(l *local) { l.Moving = true }), action{Do: doAdopt},
		},
		"handed over, not running yet": {
			ct(func(c *cluster.Container) { c.Operation, c.Generation = "op", 4 }), with(down, func(l *local) { l.Moving = true }), action{Do: doNothing},
		},
		"came back stopped with an old record": {
			ct(func(c *cluster.Container) { c.Generation = 5 }), down, action{Do: doStart},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := decide("host1", c.c, c.l); got != c.want {
				t.Errorf("decide says %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestDecideSettles follows decide's own advice from every start: it must come to rest.
func TestDecideSettles(t *testing.T) {
	for _, desired := range []cluster.Desired{cluster.WantRunning, cluster.WantStopped, cluster.WantDestroyed} {
		for _, running := range []bool{true, false} {
			for _, old := range []acted{{}, {Generation: 1, Epoch: 1}, {Generation: 1, Epoch: 2}, {Generation: 1, Epoch: 2, Failed: "why"}} {
				c := &cluster.Container{ID: 101, Host: "host1", Generation: 1, Epoch: 2, Desired: desired, State: cluster.Pending}
				l := local{Running: running, Trace: true, Acted: old}
				steps := 0
				for ; steps < 10 && c != nil; steps++ {
					a := decide("host1", c, l)
					if a.Do == doNothing {
						break
					}
					carryOutOnPaper(&c, &l, a)
				}
				if steps == 10 {
					t.Errorf("wanted %s, running %v, %+v: no rest after %d steps", desired, running, old, steps)
				}
				ended := old.Epoch == 2 && !running // it was started in this epoch and runs no more
				if c != nil && l.Running != (desired == cluster.WantRunning && !ended) {
					t.Errorf("wanted %s, running %v, %+v: in the end running is %v and the state %s", desired, running, old, l.Running, c.State)
				}
				if (c == nil) != (desired == cluster.WantDestroyed) {
					t.Errorf("wanted %s: in the end the record is %+v", desired, c)
				}
			}
		}
	}
}

func carryOutOnPaper(c **cluster.Container, l *local, a action) {
	switch a.Do {
	case doAdopt:
		l.Acted = acted{Generation: (*c).Generation, Epoch: (*c).Epoch}
	case doStart:
		l.Running, l.Acted = true, acted{Generation: (*c).Generation, Epoch: (*c).Epoch, Limits: (*c).Limits}
	case doStop:
		l.Running = false
	case doBury:
		l.Acted.Failed = "it ended"
	case doUpdate:
		l.Acted.Limits = (*c).Limits
	case doReport:
		(*c).State, (*c).Detail = a.State, a.Detail
	case doDestroy:
		*c = nil
	}
}

func TestChooseVoters(t *testing.T) {
	is := func(names ...string) func(string) bool {
		return func(n string) bool {
			for _, x := range names {
				if x == n {
					return true
				}
			}
			return false
		}
	}
	hosts := func(n int) (out []*cluster.Host) {
		for i := range n {
			out = append(out, &cluster.Host{Name: string(rune('a' + i))})
		}
		return out
	}
	for name, c := range map[string]struct {
		n    int
		f    hostFacts
		want string
	}{
		"one":                         {1, hostFacts{is("a"), is("a"), is()}, "a"},
		"two have one voter":          {2, hostFacts{is("a"), is("a", "b"), is()}, "a"},
		"three":                       {3, hostFacts{is("a"), is("a", "b", "c"), is()}, "a b c"},
		"the third is not there yet":  {3, hostFacts{is("a"), is("a", "b"), is()}, "a"},
		"further ones do not vote":    {5, hostFacts{is("a", "d", "e"), is("a", "b", "c", "d", "e"), is()}, "a d e"},
		"seven have five":             {7, hostFacts{is("a", "b", "c"), is("a", "b", "c", "d", "e", "f", "g"), is()}, "a b c d e"},
		"a dead voter is replaced":    {4, hostFacts{is("a", "b", "c"), is("a", "b", "d"), is("c")}, "a b d"},
		"a short absence is not":      {4, hostFacts{is("a", "b", "c"), is("a", "b", "d"), is()}, "a b c"},
		"nobody can replace the dead": {3, hostFacts{is("a", "b", "c"), is("a", "b"), is("c")}, "a b c"},
		"the dead never gain a vote":  {4, hostFacts{is("a", "b", "c"), is("a", "b"), is("c", "d")}, "a b c"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			for _, v := range chooseVoters(hosts(c.n), "a", c.f) {
				got += v + " "
			}
			if got != c.want+" " {
				t.Errorf("voters are %q, want %q", got, c.want)
			}
		})
	}
}

// TestVotersAreSpreadOverZones: no zone has a second vote while a living host of another one has none.
func TestVotersAreSpreadOverZones(t *testing.T) {
	all := func(names string) func(string) bool {
		return func(n string) bool { return strings.Contains(names, n) }
	}
	zones := func(z string) (out []*cluster.Host) {
		for i, zone := range strings.Fields(z) {
			h := &cluster.Host{Name: string(rune('a' + i))}
			if zone != "-" {
				h.Labels = map[string]string{zoneLabel: zone}
			}
			out = append(out, h)
		}
		return out
	}
	for name, c := range map[string]struct {
		zones, votes, alive, dead, want string
	}{
		"another zone goes first":        {"x x x y", "abc", "abcd", "", "a b d"},
		"every zone has one":             {"x x y y z", "ab", "abcde", "", "a c e"},
		"no zones, no change":            {"- - - -", "abc", "abcd", "", "a b c"},
		"one zone for all":               {"x x x x", "abc", "abcd", "", "a b c"},
		"not for the sake of the dead":   {"x x x y", "abc", "abc", "d", "a b c"},
		"a dead voter's zone is no gain": {"x y x z", "abz", "acd", "b", "a c d"},
	} {
		t.Run(name, func(t *testing.T) {
			got := chooseVoters(zones(c.zones), "a", hostFacts{all(c.votes), all(c.alive), all(c.dead)})
			slices.Sort(got)
			if strings.Join(got, " ") != c.want {
				t.Errorf("voters are %v, want %s", got, c.want)
			}
		})
	}
}
