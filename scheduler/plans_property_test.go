package scheduler

import (
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/vzcluster/vzcluster/cluster"
)

// walk makes a plan's moves one after the other and asks of every state in between what must hold: nothing overcommitted
// while the container has its room on both hosts, no rule broken that was not, no loss of a host that could be survived
// and now could not.
func (w *world) walk(t *rapid.T, moves []cluster.Move, drained string) {
	before, safe := w.excess(), w.survivable(false, drained)
	for i, m := range moves {
		c, to := w.containers[m.Container], w.hosts[m.To]
		switch {
		case c == nil || to == nil || w.at[m.Container] != m.From || m.Name != c.Name || m.From == m.To || m.Why == "":
			t.Fatalf("move %d: %+v does not describe a container where it is", i, m)
		case !to.Alive || to.State != cluster.HostActive || !w.hosts[m.From].Alive:
			t.Fatalf("move %d: from %+v to %+v", i, w.hosts[m.From], to)
		}
		w.coming[m.Container] = m.To
		if what := worse(before, w.excess()); what != "" {
			t.Fatalf("move %d, %s from %s to %s: while it moves %s", i, m.Name, m.From, m.To, what)
		}
		delete(w.coming, m.Container)
		w.at[m.Container] = m.To
		if what := worse(before, w.excess()); what != "" {
			t.Fatalf("after move %d, %s from %s to %s: %s", i, m.Name, m.From, m.To, what)
		}
		if !w.snap.Policy.Survive {
			continue
		}
		for host, now := range w.survivable(false, drained) {
			if safe[host] && !now {
				t.Fatalf("after move %d, %s from %s to %s: the loss of %s can be survived no more", i, m.Name, m.From, m.To, host)
			}
		}
	}
}

// race makes a plan's moves as Traffic allows, several at once, in an order of beginnings and ends that is drawn.
func (w *world) race(t *rapid.T, moves []cluster.Move) {
	before := w.excess()
	perHost := rapid.IntRange(0, 2).Draw(t, "per host")
	traffic := w.snap.Traffic()
	traffic.PerHost = perHost
	begun, ended := make([]bool, len(moves)), make([]bool, len(moves))
	for {
		var under []int
		busy := map[string]int{}
		for i, m := range moves {
			if begun[i] && !ended[i] {
				under = append(under, i)
				busy[m.From]++
				busy[m.To]++
			}
		}
		for host, n := range busy {
			if perHost > 0 && n > perHost {
				t.Fatalf("%s is part of %d moves at once", host, n)
			}
		}
		next := traffic.Next(moves, begun, ended)
		switch {
		case next < 0 && len(under) == 0:
			for i := range moves {
				if !ended[i] {
					t.Fatalf("move %d never begins", i)
				}
			}
			return
		case next >= 0 && (len(under) == 0 || rapid.Bool().Draw(t, "begin")):
			begun[next] = true
			w.coming[moves[next].Container] = moves[next].To
		case len(under) > 0:
			i := rapid.SampledFrom(under).Draw(t, "end")
			ended[i] = true
			w.at[moves[i].Container] = moves[i].To
			delete(w.coming, moves[i].Container)
		}
		if what := worse(before, w.excess()); what != "" {
			t.Fatalf("with several moves at once: %s (%v under way)", what, under)
		}
	}
}

// movable says whether a plan may move a container at all, and one that nobody depends on.
func movable(s Snapshot, c *cluster.Container) (drain, others bool) {
	blackout := 1000.0
	if m := s.Moves[c.ID]; m != nil {
		blackout = m.BlackoutMS
	}
	live := c.State == cluster.Running
	drain = c.Operation == "" && !(live && c.Verdict != nil) && !(live && c.Rules.MaxDowntimeMS > 0 && blackout > float64(c.Rules.MaxDowntimeMS))
	return drain, drain && !c.Rules.Stay && c.Rules.Window.Open(s.Now)
}

func (w *world) judge(t *rapid.T, p Plan, drained string) {
	for _, m := range p.Moves {
		drain, others := movable(w.snap, w.containers[m.Container])
		if !drain || drained == "" && !others {
			t.Fatalf("%s must not be moved: %+v", m.Name, w.containers[m.Container])
		}
	}
	w.walk(t, p.Moves, drained)
	newWorld(w.snap).race(t, p.Moves)
	if len(p.Moves) == 0 && p.Why == "" {
		t.Fatal("no reason for no moves")
	}
	for _, host := range p.Freed {
		for id, at := range w.at {
			if at == host {
				t.Fatalf("%s is called free and has %d", host, id)
			}
		}
	}
}

// TestPlansKeepTheRules draws clusters with rules and plans on them.
func TestPlansKeepTheRules(t *testing.T) {
	for name, make := range map[string]func(s Snapshot) Plan{
		"rebalance":   func(s Snapshot) Plan { return Rebalance(s, 10) },
		"consolidate": func(s Snapshot) Plan { return Consolidate(s, 0) },
	} {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			s := drawRuled(t)
			p := make(s)
			w := newWorld(s)
			safe := w.survivable(false, "")
			w.judge(t, p, "")
			if again := make(shuffled(s, rapid.Uint64().Draw(t, "order"))); !reflect.DeepEqual(p, again) {
				t.Fatalf("another order, another plan:\n%+v\n%+v", p, again)
			}
			if again := make(s.after(p.Moves)); len(again.Moves) > 0 {
				t.Fatalf("after %s\na second plan moves %s", to(p), to(again))
			}
			if name == "consolidate" && s.Policy.Survive && len(p.Moves) > 0 {
				for host, now := range w.survivable(true, "") {
					if safe[host] && !now {
						t.Fatalf("without the free hosts the loss of %s cannot be survived", host)
					}
				}
			}
		}))
	}
}

// TestDrainKeepsTheRules: a drain empties the host, or says what stays and why.
func TestDrainKeepsTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawRuled(t)
		host := rapid.SampledFrom(s.Hosts).Draw(t, "drained").Name
		p := Drain(s, host)
		w := newWorld(s)
		w.judge(t, p, host)
		stay := map[int]bool{}
		for _, u := range p.Unplaced {
			if u.Why == "" || w.at[u.Container] != host {
				t.Fatalf("%+v stays on %s", u, w.at[u.Container])
			}
			stay[u.Container] = true
		}
		for id, at := range w.at {
			if at == host && !stay[id] {
				t.Fatalf("%d is on %s, and the plan does not say why", id, host)
			}
		}
		if again := Drain(shuffled(s, rapid.Uint64().Draw(t, "order")), host); !reflect.DeepEqual(p, again) {
			t.Fatalf("another order, another plan:\n%+v\n%+v", p, again)
		}
		if again := Drain(s.after(p.Moves), host); len(again.Moves) > 0 {
			t.Fatalf("after %s\na second drain moves %s (%s)", to(p), to(again), p.Why)
		}
	})
}

// TestArrangeFindsAnOrder: containers that change places in a circle are brought there if there is any room for a detour,
// and whatever is not possible is named.
func TestArrangeFindsAnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawRuled(t)
		var wanted []cluster.Move
		for _, c := range s.Containers {
			if to := rapid.SampledFrom(s.Hosts).Draw(t, "to").Name; to != c.Host {
				wanted = append(wanted, cluster.Move{Container: c.ID, Name: c.Name, From: c.Host, To: to, Why: "wanted"})
			}
		}
		p := Arrange(s, wanted)
		w := newWorld(s)
		w.walk(t, p.Moves, "")
		newWorld(s).race(t, p.Moves)
		stuck := map[int]bool{}
		for _, u := range p.Unplaced {
			if u.Why == "" {
				t.Fatalf("no reason: %+v", u)
			}
			stuck[u.Container] = true
		}
		for _, m := range wanted {
			if at := w.at[m.Container]; stuck[m.Container] && at != m.From || !stuck[m.Container] && at != m.To {
				t.Fatalf("%+v ends on %s, stuck: %v", m, at, stuck[m.Container])
			}
		}
	})
}

func TestCirclesAreBrokenByAThirdHost(t *testing.T) {
	s := snapshot(three, ct(101, "a", "host1", res(1, 7, 1)), ct(102, "b", "host2", res(1, 6, 1)))
	wanted := []cluster.Move{{Container: 101, Name: "a", From: "host1", To: "host2", Why: "w"}, {Container: 102, Name: "b", From: "host2", To: "host1", Why: "w"}}
	p := Arrange(s, wanted)
	if got := to(p); got != "b:host2>host3 a:host1>host2 b:host3>host1" || len(p.Unplaced) > 0 {
		t.Errorf("%s, %v", got, p.Unplaced)
	}
	check(t, s, p)
	s.Hosts[2].Alive = false
	if p := Arrange(s, wanted); len(p.Moves) != 0 || len(p.Unplaced) != 2 {
		t.Errorf("without a third host: %s, %v", to(p), p.Unplaced)
	}
	// A plan that was made so is carried out so again.
	s.Hosts[2].Alive = true
	if again := Arrange(s, p.Moves); to(again) != to(p) {
		t.Errorf("the saved plan is %s", to(again))
	}
}

// What has moved lately, would be silent for too long, or gains less than it costs, is left alone.
func TestWhatAMoveCosts(t *testing.T) {
	s := snapshot(three, ct(101, "a", "host1", res(1, 3, 1)), ct(102, "b", "host1", res(1, 3, 1)))
	s.Now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	s.Moves = map[int]*cluster.MoveResult{}
	for _, id := range []int{101, 102} {
		s.Moves[id] = &cluster.MoveResult{BlackoutMS: 300, TotalMS: 10_300, Bytes: 1 << 30, Memory: 1 << 30}
	}
	p := Rebalance(s, 10)
	if len(p.Moves) != 1 {
		t.Fatalf("%s: %s", to(p), p.Why)
	}
	if c := p.Moves[0].Cost; c.Bytes != 1<<30 || c.Seconds < 9 || c.Seconds > 11 || c.BlackoutMS != 300 || c.Assumed || p.Moves[0].Gain < 30 {
		t.Errorf("the move gains %.0f and costs %+v", p.Moves[0].Gain, c)
	}
	s.Moves[101].DirtyRate = 50 << 20
	if c := s.cost(s.Containers[0]); c.Bytes < 3<<29 {
		t.Errorf("what is written meanwhile does not count: %+v", c)
	}
	for name, change := range map[string]func(*cluster.Container){
		"silent for too long": func(c *cluster.Container) { c.Rules.MaxDowntimeMS = 100 },
		"moved lately": func(c *cluster.Container) {
			c.History = []cluster.Event{{What: cluster.EventMoved, At: s.Now.Add(-time.Minute)}}
		},
	} {
		other := s.after(nil)
		other.Rest = 10 * time.Minute
		for i := range other.Containers {
			change(&other.Containers[i])
		}
		for _, p := range []Plan{Rebalance(other, 10), Consolidate(other, 0)} {
			if len(p.Moves) > 0 || len(p.Kept) == 0 {
				t.Errorf("%s: %s, kept %v", name, to(p), p.Kept)
			}
		}
	}
	s.Gain = 60
	if p := Rebalance(s, 10); len(p.Moves) > 0 {
		t.Errorf("a move that gains less than what was asked for: %s, %.0f points", to(p), p.Moves[0].Gain)
	}
}
