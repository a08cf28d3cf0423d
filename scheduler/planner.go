package scheduler

import (
	"fmt"
	"slices"

	"github.com/vzcluster/vzcluster/cluster"
)

// planner turns what a plan wants into moves. It is what drains, consolidations, rebalancings and saved plans have in
// common: each move fits when those before it have ended, and no loss of a host is worse to survive in between if the
// policy asks for that.
type planner struct {
	*Board
	snap Snapshot
	cs   []cluster.Container
}

func newPlanner(snap Snapshot) *planner {
	b, cs := snap.board()
	for i := range cs {
		b.all[i].fixed = snap.unwilling(cs[i]) != ""
	}
	return &planner{b, snap, cs}
}

// move describes a step. A container that is on its way to a third host has two.
func (p *planner) move(s Step, why string, gain float64) cluster.Move {
	c := p.cs[s.Item]
	return cluster.Move{
		Container: c.ID, Name: c.Name, From: p.Name(s.From), To: p.Name(s.To), Why: why, Gain: gain, Cost: p.snap.cost(c),
	}
}

// kept says of each container that plans leave alone why, the first ones of many.
func (p *planner) kept() (kept []string) {
	for _, c := range p.cs {
		if why := p.snap.unwilling(c); why != "" && c.Host != "" {
			kept = append(kept, fmt.Sprintf("%s stays on %s: %s", c.Name, c.Host, why))
		}
	}
	if more := len(kept) - keptMost; more > 0 {
		kept = append(kept[:keptMost], fmt.Sprintf("and %d more", more))
	}
	return kept
}

// keptMost bounds how many containers a plan lists that it leaves alone.
const keptMost = 50

// until plans again and again, each time from where the last plan ends, until nothing is left to do: a second run right
// after a plan has nothing to plan. What moves twice goes straight to where it ends, if there is an order for that.
func (s Snapshot) until(plan func(Snapshot) []cluster.Move) []cluster.Move {
	var all []cluster.Move
	now := s
	for range roundsMost {
		more := plan(now)
		if len(more) == 0 {
			break
		}
		all, now = append(all, more...), now.after(more)
	}
	return s.straighten(all)
}

// roundsMost bounds how often a plan is made longer.
const roundsMost = 10

// straighten has each container that moves more than once go to its last host at once, if there is an order for that
// with fewer moves.
func (s Snapshot) straighten(moves []cluster.Move) []cluster.Move {
	first, last := map[int]int{}, map[int]int{}
	gain := map[int]float64{}
	var order []int
	for i, m := range moves {
		if _, moved := last[m.Container]; !moved {
			first[m.Container], order = i, append(order, m.Container)
		}
		last[m.Container] = i
		gain[m.Container] += m.Gain
	}
	if len(order) == len(moves) {
		return moves
	}
	var wants []cluster.Move
	for _, id := range order {
		m := moves[last[id]]
		if m.From = moves[first[id]].From; m.From != m.To {
			m.Gain = gain[id]
			wants = append(wants, m)
		}
	}
	if plan := Arrange(s, wants); len(plan.Unplaced) == 0 && len(plan.Moves) < len(moves) {
		return plan.Moves
	}
	return moves
}

// Arrange puts moves that somebody wants in an order in which each one is possible when those before it have ended. Moves
// that wait for each other get a step more, by a third host. A container that has several is brought to where the last
// one leads. What is possible in no order is left unplaced.
func Arrange(snap Snapshot, wanted []cluster.Move) (plan Plan) {
	p := newPlanner(snap)
	p.guard()
	index := make(map[int]int, len(p.cs))
	for i, c := range p.cs {
		index[c.ID] = i
	}
	var wants []Step
	why := map[int]cluster.Move{}
	for _, m := range wanted {
		i, known := index[m.Container]
		to := p.Find(m.To)
		if !known || to < 0 || p.Host(i) < 0 {
			plan.Unplaced = append(plan.Unplaced, Unplaced{m.Container, m.Name, "the container or the host is not there"})
			continue
		}
		reason := snap.immovable(p.cs[i])
		if reason == "" && p.shut[p.Host(i)] == down {
			reason = p.cs[i].Host + " is down"
		}
		if reason != "" {
			plan.Unplaced = append(plan.Unplaced, Unplaced{m.Container, m.Name, reason})
			continue
		}
		wants = slices.DeleteFunc(wants, func(s Step) bool { return s.Item == i })
		why[i] = m
		if to != p.Host(i) {
			wants = append(wants, Step{i, p.Host(i), to})
		}
	}
	steps, stuck := p.Route(wants)
	for _, s := range steps {
		m := why[s.Item]
		reason, gain := m.Why, m.Gain
		if to := p.Find(m.To); s.To != to {
			reason, gain = fmt.Sprintf("%s goes by %s to %s: it and others wait for each other's room", m.Name, p.Name(s.To), m.To), 0
		}
		move := p.move(s, reason, gain)
		move.Mode = m.Mode
		plan.Moves = append(plan.Moves, move)
	}
	for _, s := range stuck {
		plan.Unplaced = append(plan.Unplaced, Unplaced{p.cs[s.Item].ID, p.cs[s.Item].Name, p.whyStuck(s)})
	}
	return plan
}

// whyStuck says why a move is possible in no order that was found.
func (p *planner) whyStuck(s Step) string {
	from := p.Host(s.Item)
	p.unsettle(s.Item)
	defer p.settle(s.Item, from)
	why := p.Why(s.Item, s.To)
	if why == "" {
		why = p.risk(s.Item, s.To)
	}
	return fmt.Sprintf("it cannot go to %s: %s", p.Name(s.To), why)
}
