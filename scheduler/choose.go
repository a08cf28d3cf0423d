package scheduler

import (
	"math"

	"github.com/vzcluster/vzcluster/cluster"
)

// Choose returns the host that suits a container best under its policy, -1 when it fits nowhere. Hosts in without are
// not asked; it may be nil.
func (b *Board) Choose(item int, without func(host int) bool) int {
	it := &b.all[item]
	if b.placement(it.Rules) == cluster.Pack {
		return b.choosePack(it, without)
	}
	used, empty := b.best(it, without, true), b.best(it, without, false)
	switch {
	case used.host < 0:
		return empty.host
	case empty.host >= 0 && b.better(empty, used):
		return empty.host
	}
	return used.host
}

// choosePack takes the host in use on which least is lost. An empty one is taken if there is no other, or if much would
// be lost, the more the more room is open already.
func (b *Board) choosePack(it *Item, without func(int) bool) int {
	used := b.best(it, without, true)
	if used.host >= 0 && -used.score <= b.patience() {
		return used.host
	}
	empty := b.best(it, without, false)
	switch {
	case used.host < 0:
		return empty.host
	case empty.host >= 0 && empty.score-used.score > b.patience():
		return empty.host
	}
	return used.host
}

// patience is how much may be lost before an empty host is taken. It grows with the open room that there is above what
// is welcome; more is while little is known of what comes, for what is stacked badly then may stay for long.
func (b *Board) patience() float64 {
	used := float64(max(b.used, 1))
	welcome := openRoom*used/1000 + openEarly*float64(len(b.hosts))*math.Exp(-float64(b.worth.count)/known)
	return max(openCost*math.Exp(b.open-welcome), smallCluster/used)
}

func (b *Board) placement(r *cluster.Rules) cluster.Placement {
	switch {
	case r.Policy != "":
		return r.Policy
	case b.policy.Placement != "":
		return b.policy.Placement
	}
	return cluster.Spread
}

// candidate is a host that takes a container, and how well it suits.
type candidate struct {
	host  int
	score float64
}

// better reports whether a suits better than c; alike hosts are told apart by rank.
func (b *Board) better(a, c candidate) bool {
	switch {
	case c.host < 0 || a.score > c.score:
		return true
	case a.score < c.score:
		return false
	}
	return b.rank[a.host] < b.rank[c.host]
}

// best looks at all hosts with containers, or at all without.
func (b *Board) best(it *Item, without func(int) bool, used bool) candidate {
	best := candidate{host: -1}
	ok, policy, need := b.may(it.Rules), b.placement(it.Rules), &it.Need
	wishes := len(it.Rules.Affinities) > 0
	for h := range b.free {
		if len(b.items[h]) > 0 != used || !b.free[h].Fits(*need) || b.shut[h] != "" || ok != nil && !ok[h] {
			continue
		}
		c := candidate{h, b.score(h, need, policy)}
		if wishes {
			c.score += b.wishes(it.Rules, h)
		}
		if b.better(c, best) && b.takes(it.Rules, h) && (without == nil || !without(h)) {
			best = c
		}
	}
	return best
}

// score says how well a host suits a container that fits: more is better, between -1 and 1.
func (b *Board) score(h int, need *cluster.Resources, policy cluster.Placement) float64 {
	free := &b.free[h]
	if policy == cluster.Pack {
		left := free.Sub(*need)
		return b.waste[h] - b.worth.waste(&left)
	}
	p := &b.per[h]
	cpu, ram, disk := 1.0, 1.0, 1.0
	if p.cpu > 0 {
		cpu = float64(free.MilliCPU-need.MilliCPU) * p.cpu
	}
	if p.ram > 0 {
		ram = float64(free.RAM-need.RAM) * p.ram
	}
	if p.disk > 0 {
		disk = float64(free.Disk-need.Disk) * p.disk
	}
	least := min(cpu, ram, disk)
	if policy == cluster.Balanced {
		return least*evenness - math.Abs(cpu-ram)
	}
	return float64(int(least*1000+0.5))/1000 - fewer*float64(len(b.items[h]))
}

// fewer makes the host with fewer containers win among those that have the same room, to a thousandth.
const fewer = 1e-9

// evenness is what an even use of a host's resources is worth beside its free room, for the policy balanced.
const evenness = 0.25

// wishes adds up the affinities that a host fulfils.
func (b *Board) wishes(r *cluster.Rules, h int) float64 {
	sum := 0
	for _, a := range r.Affinities {
		holds := false
		if a.Key == cluster.GroupKey {
			for _, name := range a.Values {
				g := b.groups[name]
				holds = holds || g != nil && g.onHost[h].Count > 0
			}
		} else {
			holds = a.Holds(b.hosts[h])
		}
		if holds {
			sum += a.Weight
		}
	}
	return float64(sum) * 2 / cluster.MaxWeight
}
