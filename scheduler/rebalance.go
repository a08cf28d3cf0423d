package scheduler

import (
	"fmt"

	"github.com/vzcluster/vzcluster/cluster"
)

// rebalanceMost bounds the moves of one rebalancing.
const rebalanceMost = 200

// Rebalance plans to even out how full hosts are, until they differ by no more than so many points of a hundred of their
// scarcest resource. Each move brings the fullest host and another one nearer to each other, so a second plan right
// after the first has nothing to do. May says which containers may go to a host as far as it is not about room.
func Rebalance(snap Snapshot, points int, may func(c *cluster.Container, host string) bool) Plan {
	now := Snapshot{Hosts: snap.hosts(), Containers: append([]cluster.Container(nil), snap.Containers...)}
	moved := map[int]bool{}
	var plan Plan
	for len(plan.Moves) < rebalanceMost {
		src, gap := now.fullest()
		if src == nil || gap <= float64(points)/100 {
			break
		}
		move, ok := now.relieve(src, moved, may)
		if !ok {
			break
		}
		plan.Moves = append(plan.Moves, move)
		moved[move.Container] = true
	}
	_, gap := now.fullest()
	switch {
	case len(plan.Moves) == 0 && gap <= float64(points)/100:
		plan.Why = fmt.Sprintf("hosts are full within %.0f points of each other", gap*100)
	case len(plan.Moves) == 0:
		plan.Why = fmt.Sprintf("hosts differ by %.0f points, but no move would make it less", gap*100)
	default:
		plan.Why = fmt.Sprintf("%s bring hosts within %.0f points of each other", count(len(plan.Moves), "move"), gap*100)
	}
	return plan
}

// used is how full a host is by its scarcest resource.
func (h HostView) used() float64 {
	share, _ := freeShare(h.Free(), h.Capacity)
	return 1 - share
}

// fullest returns the fullest host of those that take part, and how much fuller it is than the emptiest one.
func (s Snapshot) fullest() (src *HostView, gap float64) {
	least := 2.0
	for i := range s.Hosts {
		h := &s.Hosts[i]
		if h.barred() != "" {
			continue
		}
		if src == nil || h.used() > src.used() {
			src = h
		}
		least = min(least, h.used())
	}
	if src == nil {
		return nil, 0
	}
	return src, src.used() - least
}

// relieve makes the move off a host after which the fuller of the two hosts is emptiest.
func (s Snapshot) relieve(src *HostView, moved map[int]bool, may func(*cluster.Container, string) bool) (move cluster.Move, ok bool) {
	best, at := src.used()-0.01, -1 // a move that gains less than a point is not worth it
	var to *HostView
	for i, c := range s.Containers {
		if c.Host != src.Name || moved[c.ID] || immovable(c) != "" {
			continue
		}
		for j := range s.Hosts {
			dst := &s.Hosts[j]
			if dst.Name == src.Name || dst.barred() != "" || !dst.Free().Fits(c.Need()) || !may(&c, dst.Name) {
				continue
			}
			from, into := *src, *dst
			from.Reserved, into.Reserved = from.Reserved.Sub(c.Need()), into.Reserved.Add(c.Need())
			if worse := max(from.used(), into.used()); worse < best {
				best, at, to = worse, i, dst
			}
		}
	}
	if at < 0 {
		return move, false
	}
	c := &s.Containers[at]
	why := fmt.Sprintf("%s is %.0f%% full and %s %.0f%%", src.Name, src.used()*100, to.Name, to.used()*100)
	src.Reserved, to.Reserved = src.Reserved.Sub(c.Need()), to.Reserved.Add(c.Need())
	c.Host = to.Name
	return cluster.Move{Container: c.ID, Name: c.Name, From: src.Name, To: to.Name, Why: why}, true
}
