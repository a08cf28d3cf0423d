package scheduler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vzcluster/vzcluster/cluster"
)

// Plan is an ordered list of moves; carried out one after the other, or as Traffic allows, no host is overcommitted at any
// step.
type Plan struct {
	Moves    []cluster.Move
	Freed    []string // hosts that are empty afterwards and were not before
	Unplaced []Unplaced
	Kept     []string // containers that it leaves alone although they could be moved, and why
	Why      string   // the plan in one sentence, or why there is nothing to do
}

// Unplaced is a container that a plan leaves where it is.
type Unplaced struct {
	Container int
	Name      string
	Why       string
}

// Drain plans to move everything off a host, the biggest container first, spread over the others as each container's
// policy has it. If that leaves something over, the others are packed tightly instead; what still fits nowhere is listed.
// If the policy wants the cluster to survive the loss of a host, no move takes that away.
func Drain(snap Snapshot, host string) Plan {
	var plan Plan
	p := newPlanner(snap)
	b, cs := p.Board, p.cs
	src := b.Find(host)
	if src < 0 {
		plan.Why = fmt.Sprintf("there is no host named %s", host)
		return plan
	}
	reserved := b.offer[src].Sub(b.free[src])
	var moving []int
	for _, i := range b.sorted(cs, src) {
		why := snap.immovable(cs[i])
		if why == "" && b.shut[src] == down {
			why = host + " is down"
		}
		if why != "" {
			plan.Unplaced = append(plan.Unplaced, Unplaced{cs[i].ID, cs[i].Name, why})
			continue
		}
		moving = append(moving, i)
	}
	need := sumOf(cs, moving)
	moves, left := p.emptied(src).spread(src, moving)
	if len(left) > 0 {
		if packed, still := newPlanner(snap).emptied(src).tightly(src, moving); len(still) < len(left) {
			moves, left = packed, still
		}
	}
	plan.Moves, plan.Unplaced = moves, append(plan.Unplaced, left...)
	switch {
	case len(plan.Unplaced) > 0:
		plan.Why = fmt.Sprintf("%s cannot be emptied: %s must stay: %s", host, count(len(plan.Unplaced), "container"), stay(plan.Unplaced))
	case len(plan.Moves) == 0:
		plan.Why = host + " has no containers"
	case !need.Fits(reserved):
		plan.Why = fmt.Sprintf("%s will not be empty: a migration to it is under way", host)
	default:
		plan.Freed = []string{host}
		plan.Why = fmt.Sprintf("%s is emptied by %s", host, count(len(plan.Moves), "move"))
	}
	return plan
}

// namedMost bounds how many containers one sentence names.
const namedMost = 10

// stay names the containers that must stay, each with its reason.
func stay(left []Unplaced) string {
	var parts []string
	for _, u := range left[:min(len(left), namedMost)] {
		parts = append(parts, u.Name+": "+u.Why)
	}
	if more := len(left) - namedMost; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, "; ")
}

// emptied has the planner take a host for one that is being drained: nothing comes to it, whichever other host dies.
func (p *planner) emptied(host int) *planner {
	if p.shut[host] == "" {
		p.shut[host] = "drained"
	}
	p.guard()
	return p
}

// Left names what the plan leaves where it is, each with its reason.
func (p Plan) Left() string { return stay(p.Unplaced) }

// spread places one container after the other as if each were new, each move seeing the ones before it.
func (p *planner) spread(src int, moving []int) (moves []cluster.Move, left []Unplaced) {
	views := p.snap.hosts()
	for i := range views {
		views[i].HasTemplate = false // says nothing about these containers' templates
	}
	host := p.Name(src)
	for _, i := range moving {
		c := p.cs[i]
		p.unsettle(i)
		d := p.place(views, Request{Need: p.all[i].Need, Rules: c.Rules, Exclude: host})
		if d.Host == "" {
			p.settle(i, src)
			left = append(left, Unplaced{c.ID, c.Name, d.Why})
			continue
		}
		to := p.Find(d.Host)
		p.settle(i, to)
		moves = append(moves, p.move(Step{i, src, to}, fmt.Sprintf("%s is drained: %s", host, d.Why), 0))
	}
	return moves, left
}

// tightly packs what leaves a host onto the others. What would make a loss harder to survive stays.
func (p *planner) tightly(src int, moving []int) (moves []cluster.Move, left []Unplaced) {
	if !p.pack(moving, func(h int) bool { return h != src }) {
		for _, i := range moving {
			left = append(left, Unplaced{p.cs[i].ID, p.cs[i].Name, "no packing was found"})
		}
		return nil, left
	}
	to := make([]int, len(moving))
	for k, i := range moving {
		to[k] = p.Host(i)
	}
	for _, i := range moving {
		p.Take(i)
		p.Put(i, src)
	}
	for k, i := range moving {
		c, s := p.cs[i], Step{i, src, to[k]}
		if !p.try(i, to[k]) {
			left = append(left, Unplaced{c.ID, c.Name, p.whyStuck(s)})
			continue
		}
		moves = append(moves, p.move(s, fmt.Sprintf("%s is drained: everything on it fits elsewhere only if %s goes to %s", p.Name(src), c.Name, p.Name(to[k])), 0))
	}
	return moves, left
}

// sorted lists a host's containers, the biggest first.
func (b *Board) sorted(cs []cluster.Container, host int) []int {
	var is []int
	for _, i := range b.items[host] {
		is = append(is, int(i))
	}
	slices.SortFunc(is, func(x, y int) int { return biggerFirst(cs[x], cs[y]) })
	return is
}

func sumOf(cs []cluster.Container, items []int) (r cluster.Resources) {
	for _, i := range items {
		r = r.Add(cs[i].Need())
	}
	return r
}

func sum(cs []cluster.Container) (r cluster.Resources) {
	for _, c := range cs {
		r = r.Add(c.Need())
	}
	return r
}
