package scheduler

import (
	"fmt"
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

// Drain plans to move everything off a host, the biggest container first, spread over the others by free room. If
// spreading leaves something over, the others are packed tightly instead; what still fits nowhere is listed.
func Drain(snap Snapshot, host string) Plan {
	var plan Plan
	hosts := snap.hosts()
	src := find(hosts, host)
	if src == nil {
		plan.Why = fmt.Sprintf("there is no host named %s", host)
		return plan
	}
	var moving []cluster.Container
	for _, c := range snap.on(host) {
		why := immovable(c)
		if why == "" && !src.Alive {
			why = host + " is down"
		}
		if why != "" {
			plan.Unplaced = append(plan.Unplaced, Unplaced{c.ID, c.Name, why})
			continue
		}
		moving = append(moving, c)
	}
	moves, left := spread(snap, host, moving)
	if len(left) > 0 {
		if to, ok := pack(moving, targets(hosts, map[string]bool{host: true})); ok {
			moves, left = packed(moving, to, func(c cluster.Container, to string) string {
				return fmt.Sprintf("%s is drained: everything on it fits elsewhere only if %s goes to %s", host, c.Name, to)
			}), nil
		}
	}
	plan.Moves, plan.Unplaced = moves, append(plan.Unplaced, left...)
	switch {
	case len(plan.Unplaced) > 0:
		plan.Why = fmt.Sprintf("%s cannot be emptied: %s must stay: %s", host, count(len(plan.Unplaced), "container"), stay(plan.Unplaced))
	case len(plan.Moves) == 0:
		plan.Why = host + " has no containers"
	case !sum(moving).Fits(src.Reserved):
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
func spread(snap Snapshot, host string, moving []cluster.Container) (moves []cluster.Move, left []Unplaced) {
	now := Snapshot{Hosts: snap.hosts(), Containers: append([]cluster.Container(nil), snap.Containers...)}
	for i := range now.Hosts {
		now.Hosts[i].HasTemplate = false // says nothing about these containers' templates
	}
	for _, c := range moving {
		need := c.Need()
		d := Place(now, Request{Need: need, Exclude: host})
		if d.Host == "" {
			left = append(left, Unplaced{c.ID, c.Name, d.Why})
			continue
		}
		moves = append(moves, cluster.Move{
			Container: c.ID, Name: c.Name, From: host, To: d.Host,
			Why: fmt.Sprintf("%s is drained: %s", host, d.Why),
		})
		to := find(now.Hosts, d.Host)
		to.Reserved = to.Reserved.Add(need)
		for i := range now.Containers {
			if now.Containers[i].ID == c.ID {
				now.Containers[i].Host = d.Host
			}
		}
	}
	return moves, left
}

// targets returns the hosts that may take containers, without those that are to become empty.
func targets(hosts []HostView, without map[string]bool) []HostView {
	var out []HostView
	for _, h := range hosts {
		if h.barred() == "" && !without[h.Name] {
			out = append(out, h)
		}
	}
	return out
}

// packed turns a packing into moves.
func packed(moving []cluster.Container, to []string, why func(c cluster.Container, to string) string) []cluster.Move {
	moves := make([]cluster.Move, len(moving))
	for i, c := range moving {
		moves[i] = cluster.Move{Container: c.ID, Name: c.Name, From: c.Host, To: to[i], Why: why(c, to[i])}
	}
	return moves
}

func find(hosts []HostView, name string) *HostView {
	for i := range hosts {
		if hosts[i].Name == name {
			return &hosts[i]
		}
	}
	return nil
}

func sum(cs []cluster.Container) (r cluster.Resources) {
	for _, c := range cs {
		r = r.Add(c.Need())
	}
	return r
}
