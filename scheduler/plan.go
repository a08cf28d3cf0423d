package scheduler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vzcluster/vzcluster/cluster"
)

// Plan is an ordered list of moves; carried out one after the other, or as Next allows, no host is overcommitted at any
// step.
type Plan struct {
	Moves    []cluster.Move
	Freed    []string // hosts that are empty afterwards and were not before
	Unplaced []Unplaced
	Why      string // the plan in one sentence, or why there is nothing to do
}

// Next returns the first step that has not begun and may begin: no earlier one that has not ended moves the same container
// or makes room where this one goes. So every host is at any time as full as in the plan's order, or less. -1 means none.
func Next(steps []cluster.Move, begun, ended []bool) int {
	for i, step := range steps {
		if begun[i] {
			continue
		}
		free := true
		for j, earlier := range steps[:i] {
			if !ended[j] && (earlier.Container == step.Container || earlier.From == step.To) {
				free = false
				break
			}
		}
		if free {
			return i
		}
	}
	return -1
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
	b, cs := snap.board()
	src := b.Find(host)
	if src < 0 {
		plan.Why = fmt.Sprintf("there is no host named %s", host)
		return plan
	}
	reserved := b.offer[src].Sub(b.free[src])
	var moving []int
	for _, i := range b.sorted(cs, src) {
		why := immovable(cs[i])
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
	moves, left := b.spread(snap, cs, src, moving)
	if len(left) > 0 {
		b, _ = snap.board()
		if b.pack(moving, func(h int) bool { return h != src }) {
			moves, left = b.packed(cs, moving, func(c cluster.Container, to string) string {
				return fmt.Sprintf("%s is drained: everything on it fits elsewhere only if %s goes to %s", host, c.Name, to)
			}), nil
		}
	}
	if snap.Policy.Survive && len(left) == 0 {
		moves, left = snap.keepSafe(moves, host)
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

// spread places one container after the other as if each were new, each move seeing the ones before it.
func (b *Board) spread(snap Snapshot, cs []cluster.Container, src int, moving []int) (moves []cluster.Move, left []Unplaced) {
	views := snap.hosts()
	for i := range views {
		views[i].HasTemplate = false // says nothing about these containers' templates
	}
	host := b.Name(src)
	for _, i := range moving {
		c := cs[i]
		b.Take(i)
		d := b.place(views, Request{Need: b.all[i].Need, Rules: c.Rules, Exclude: host})
		if d.Host == "" {
			b.Put(i, src)
			left = append(left, Unplaced{c.ID, c.Name, d.Why})
			continue
		}
		b.Put(i, b.Find(d.Host))
		moves = append(moves, cluster.Move{
			Container: c.ID, Name: c.Name, From: host, To: d.Host,
			Why: fmt.Sprintf("%s is drained: %s", host, d.Why),
		})
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

// packed turns what a packing changed into moves.
func (b *Board) packed(cs []cluster.Container, moving []int, why func(c cluster.Container, to string) string) []cluster.Move {
	moves := make([]cluster.Move, len(moving))
	for k, i := range moving {
		to := b.Name(b.Host(i))
		moves[k] = cluster.Move{Container: cs[i].ID, Name: cs[i].Name, From: cs[i].Host, To: to, Why: why(cs[i], to)}
	}
	return moves
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
