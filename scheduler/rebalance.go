package scheduler

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/vzcluster/vzcluster/cluster"
)

// rebalanceMost bounds the moves of one rebalancing.
const rebalanceMost = 200

// Rebalance plans to even out how full hosts are, until they differ by no more than so many points of a hundred of their
// scarcest resource. Each move brings a full host and another one nearer to each other, by more than the move costs; where
// no single move does, two containers change places. A second plan right after the first has nothing to do.
func Rebalance(snap Snapshot, points int) Plan {
	moves := snap.until(func(s Snapshot) []cluster.Move {
		r := &rebalancing{planner: newPlanner(s), most: float64(points) / 100}
		r.guard()
		for len(r.moves) < rebalanceMost && r.relieve() {
		}
		return r.moves
	})
	end := &rebalancing{planner: newPlanner(snap.after(moves)), most: float64(points) / 100}
	gap := end.gap() * 100
	plan := Plan{Moves: moves, Kept: end.kept()}
	switch {
	case len(moves) == 0 && gap <= float64(points):
		plan.Why = fmt.Sprintf("hosts are full within %.0f points of each other", gap)
	case len(moves) == 0:
		plan.Why = fmt.Sprintf("hosts differ by %.0f points, but no move would make it less by what it costs", gap)
	default:
		plan.Why = fmt.Sprintf("%s bring hosts within %.0f points of each other", count(len(moves), "move"), gap)
	}
	return plan
}

type rebalancing struct {
	*planner
	most  float64 // how much hosts may differ
	moves []cluster.Move
}

// byLoad lists the hosts that take part, the fullest first.
func (r *rebalancing) byLoad() []int {
	var hosts []int
	for h := range r.hosts {
		if r.shut[h] == "" {
			hosts = append(hosts, h)
		}
	}
	slices.SortFunc(hosts, func(x, y int) int { return cmp.Or(cmp.Compare(r.load(y), r.load(x)), r.byRank(x, y)) })
	return hosts
}

func (r *rebalancing) gap() float64 {
	hosts := r.byLoad()
	if len(hosts) == 0 {
		return 0
	}
	return r.load(hosts[0]) - r.load(hosts[len(hosts)-1])
}

// relieve makes the one move, or the one exchange, that is worth most for the fullest host for which there is one.
func (r *rebalancing) relieve() bool {
	hosts := r.byLoad()
	if len(hosts) == 0 {
		return false
	}
	least := r.load(hosts[len(hosts)-1])
	for _, exchange := range []bool{false, true} {
		for _, src := range hosts {
			if r.load(src)-least <= r.most {
				break
			}
			if exchange && r.exchange(src, hosts) || !exchange && r.single(src, hosts) {
				return true
			}
		}
	}
	return false
}

// relief is a move or an exchange and what it is worth: its gain without its price.
type relief struct {
	item, back int // back goes the other way; -1: nothing does
	to         int
	gain, net  float64
}

// triesMost bounds how many of the best reliefs are tried that turn out to be forbidden.
const triesMost = 20

// best keeps the reliefs that are worth it, the best first.
func (r *rebalancing) best(all []relief) []relief {
	all = slices.DeleteFunc(all, func(x relief) bool { return x.net < r.snap.minGain() })
	slices.SortFunc(all, func(x, y relief) int {
		return cmp.Or(cmp.Compare(y.net, x.net), cmp.Compare(x.item, y.item), cmp.Compare(x.back, y.back), r.byRank(x.to, y.to))
	})
	return all[:min(len(all), triesMost)]
}

// gain is by how many points the fuller of two hosts is emptier when one gives and gets, and the other one the reverse.
func (r *rebalancing) gain(src, dst int, gives, gets cluster.Resources) float64 {
	left := func(h int, by cluster.Resources) float64 {
		share, _ := freeShare(r.free[h].Add(by), r.offer[h])
		return 1 - share
	}
	return (r.load(src) - max(left(src, gives.Sub(gets)), left(dst, gets.Sub(gives)))) * 100
}

// single moves one container off a host.
func (r *rebalancing) single(src int, hosts []int) bool {
	var all []relief
	for _, i := range r.items[src] {
		it := &r.all[i]
		if it.fixed {
			continue
		}
		cost := price(r.snap.cost(r.cs[i]))
		for _, dst := range hosts {
			if dst != src && r.free[dst].Fits(it.Need) {
				gain := r.gain(src, dst, it.Need, cluster.Resources{})
				all = append(all, relief{int(i), -1, dst, gain, gain - cost})
			}
		}
	}
	for _, x := range r.best(all) {
		why := r.whyFull(src, x.to)
		if r.try(x.item, x.to) {
			r.moves = append(r.moves, r.move(Step{x.item, src, x.to}, why, x.gain))
			return true
		}
	}
	return false
}

func (r *rebalancing) whyFull(src, dst int) string {
	return fmt.Sprintf("%s is %.0f%% full and %s %.0f%%", r.Name(src), r.load(src)*100, r.Name(dst), r.load(dst)*100)
}

// exchange has a container of a host and a smaller one of an emptier host change places.
func (r *rebalancing) exchange(src int, hosts []int) bool {
	var all []relief
	for _, dst := range hosts[max(0, len(hosts)-exchangeAmong):] {
		if dst == src {
			continue
		}
		for _, i := range r.items[src] {
			for _, j := range r.items[dst] {
				x, y := &r.all[i], &r.all[j]
				if x.fixed || y.fixed || x.Need == y.Need {
					continue
				}
				gain := r.gain(src, dst, x.Need, y.Need)
				cost := price(r.snap.cost(r.cs[i])) + price(r.snap.cost(r.cs[j]))
				if gain-cost >= r.snap.minGain() {
					all = append(all, relief{int(i), int(j), dst, gain, gain - cost})
				}
			}
		}
	}
	for _, x := range r.best(all) {
		steps, stuck := r.Route([]Step{{x.item, src, x.to}, {x.back, x.to, src}})
		if len(stuck) > 0 {
			r.Undo(steps)
			continue
		}
		why := fmt.Sprintf("%s and %s change places, by which %s gets emptier", r.cs[x.item].Name, r.cs[x.back].Name, r.Name(src))
		for k, s := range steps {
			gain := 0.0
			if k == len(steps)-1 { // it is there only when all are made
				gain = x.gain
			}
			r.moves = append(r.moves, r.move(s, why, gain))
		}
		return true
	}
	return false
}

// exchangeAmong is with how many of the emptiest hosts containers are exchanged.
const exchangeAmong = 8
