package scheduler

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/vzcluster/vzcluster/cluster"
)

// Board is a cluster while many decisions are made about it: each one changes it and costs microseconds. It is what
// plans and simulations are made on. It is not for use by two goroutines.
type Board struct {
	hosts   []*cluster.Host
	offer   []cluster.Resources
	free    []cluster.Resources
	per     []inverse // of the offer, so that a score needs no division
	shut    []string  // why a host takes nothing at all; empty: it does
	zone    []int
	rank    []int32 // equal hosts: the lower one is taken
	items   [][]int32
	index   map[string]int
	groups  map[string]*group
	allowed map[string][]bool // by constraints: the hosts that fulfil them
	all     []Item
	policy  cluster.Policy
	safe    *survival // nil: losses of hosts are not asked about

	worth *worth
	waste []float64 // of what is free, as the table has it now
	used  int       // hosts with containers
	open  float64   // room of use on them, in hosts
}

// Item is a container as the scheduler sees it.
type Item struct {
	Need  cluster.Resources
	Rules *cluster.Rules
	host  int32 // -1: nowhere
	fixed bool  // may not be moved
}

type inverse struct{ cpu, ram, disk float64 }

// group is what hosts and zones have of a group.
type group struct {
	onHost, inZone map[int]cluster.Tally
	limited        bool // one of them ever had a limit per zone
}

// noRules are those of a container without any. It is only read.
func noRules() *cluster.Rules { return &cluster.Rules{} }

// NewBoard makes a board without containers. The seed decides between hosts that are alike; with 0 it is their name.
func NewBoard(hosts []*cluster.Host, policy cluster.Policy, seed uint64) *Board {
	n := len(hosts)
	b := &Board{
		hosts: hosts, offer: make([]cluster.Resources, n), free: make([]cluster.Resources, n), per: make([]inverse, n),
		shut: make([]string, n), zone: make([]int, n), rank: make([]int32, n), items: make([][]int32, n), waste: make([]float64, n),
		index: make(map[string]int, n), groups: map[string]*group{}, allowed: map[string][]bool{}, policy: policy,
	}
	order := make([]int, n)
	zones := map[string]int{}
	for i, h := range hosts {
		order[i] = i
		b.index[h.Name] = i
		b.setOffer(i, policy.Offer(h))
		if _, ok := zones[h.Zone()]; !ok {
			zones[h.Zone()] = len(zones)
		}
		b.zone[i] = zones[h.Zone()]
	}
	slices.SortFunc(order, func(x, y int) int { return strings.Compare(hosts[x].Name, hosts[y].Name) })
	if seed != 0 {
		r := rand.New(rand.NewPCG(seed, 0))
		r.Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	for rank, i := range order {
		b.rank[i] = int32(rank)
	}
	b.worth = newWorth(b.offer)
	return b
}

func (b *Board) setOffer(i int, offer cluster.Resources) {
	b.offer[i], b.free[i] = offer, offer
	invert := func(n int64) float64 {
		if n <= 0 {
			return 0
		}
		return 1 / float64(n)
	}
	b.per[i] = inverse{invert(offer.MilliCPU), invert(offer.RAM), invert(offer.Disk)}
}

// Add makes a container known, which is on no host yet, and returns its number.
func (b *Board) Add(it Item) int {
	it.host = -1
	if it.Rules == nil {
		it.Rules = noRules()
	}
	b.all = append(b.all, it)
	return len(b.all) - 1
}

// Learn counts a container's shape among those that are to be expected.
func (b *Board) Learn(item int) {
	if b.worth.learn(&b.all[item].Need) {
		b.reassess()
	}
}

// LearnAll counts what is there, as if it had come in this order.
func (b *Board) LearnAll() {
	for i := range b.all {
		if b.all[i].host >= 0 {
			b.worth.learn(&b.all[i].Need)
		}
	}
	if b.worth.count > 0 {
		b.worth.rebuild()
	}
	b.reassess()
}

// reassess looks up anew what the open room is worth.
func (b *Board) reassess() {
	b.open = 0
	for h := range b.hosts {
		b.waste[h] = b.worth.waste(&b.free[h])
		if len(b.items[h]) > 0 {
			b.open += b.room(h)
		}
	}
}

// room is the free CPU of a host that will be of use.
func (b *Board) room(h int) float64 {
	return float64(b.free[h].MilliCPU)*b.worth.cpu/cpuCells - b.waste[h]
}

// Host is the number of the host that a container is on, -1 when it is on none.
func (b *Board) Host(item int) int { return int(b.all[item].host) }

// Name is a host's name.
func (b *Board) Name(host int) string { return b.hosts[host].Name }

// Find is the number of a host, -1 when there is none of this name.
func (b *Board) Find(name string) int {
	if i, ok := b.index[name]; ok {
		return i
	}
	return -1
}

// On lists the containers of a host. The list is the board's own and changes with it.
func (b *Board) On(host int) []int32 { return b.items[host] }

// Used is how many hosts have containers.
func (b *Board) Used() int { return b.used }

// Put places a container on a host, whether it fits or not; Why asks that.
func (b *Board) Put(item, host int) {
	b.change(item, host, func(it *Item) {
		b.free[host] = b.free[host].Sub(it.Need)
		b.items[host] = append(b.items[host], int32(item))
		it.host = int32(host)
	})
	if g := b.all[item].Rules.Group; g != "" {
		b.tally(g, host)
	}
}

// Take takes a container off its host.
func (b *Board) Take(item int) {
	host := int(b.all[item].host)
	b.change(item, host, func(it *Item) {
		b.free[host] = b.free[host].Add(it.Need)
		i := slices.Index(b.items[host], int32(item))
		b.items[host] = slices.Delete(b.items[host], i, i+1)
		it.host = -1
	})
	if g := b.all[item].Rules.Group; g != "" {
		b.tally(g, host)
	}
}

// change keeps what is known of a host true while its containers change.
func (b *Board) change(item, host int, do func(*Item)) {
	if len(b.items[host]) > 0 {
		b.used--
		b.open -= b.room(host)
	}
	do(&b.all[item])
	b.waste[host] = b.worth.waste(&b.free[host])
	if len(b.items[host]) > 0 {
		b.used++
		b.open += b.room(host)
	}
}

// tally counts anew what a host and its zone have of a group.
func (b *Board) tally(name string, host int) {
	g := b.groups[name]
	if g == nil {
		g = &group{onHost: map[int]cluster.Tally{}, inZone: map[int]cluster.Tally{}}
		b.groups[name] = g
	}
	was := g.onHost[host]
	var now cluster.Tally
	for _, i := range b.items[host] {
		if r := b.all[i].Rules; r.Group == name {
			now = now.Add(r.MaxPerHost)
		}
	}
	if now.Count == 0 {
		delete(g.onHost, host)
	} else {
		g.onHost[host] = now
	}
	z := b.zone[host]
	zone := g.inZone[z]
	zone.Count += now.Count - was.Count
	if g.limited = g.limited || b.zoneLimit(name, host) > 0; g.limited {
		zone.Max = 0
		for h := range g.onHost {
			if limit := b.zoneLimit(name, h); b.zone[h] == z && limit > 0 && (zone.Max == 0 || limit < zone.Max) {
				zone.Max = limit
			}
		}
	}
	g.inZone[z] = zone
}

// zoneLimit is the tightest limit per zone among a host's containers of a group, 0 for none.
func (b *Board) zoneLimit(name string, host int) (limit int) {
	for _, i := range b.items[host] {
		if r := b.all[i].Rules; r.Group == name && r.MaxPerZone > 0 && (limit == 0 || r.MaxPerZone < limit) {
			limit = r.MaxPerZone
		}
	}
	return limit
}

// takes reports whether the limits of a container's group allow it on a host.
func (b *Board) takes(r *cluster.Rules, host int) bool {
	g := b.groups[r.Group]
	return r.Group == "" || g == nil || g.onHost[host].Takes(r.MaxPerHost) && g.inZone[b.zone[host]].Takes(r.MaxPerZone)
}

// may returns the hosts that fulfil a container's constraints, nil for all.
func (b *Board) may(r *cluster.Rules) []bool {
	if len(r.Constraints) == 0 && r.Pinned == "" {
		return nil
	}
	var key strings.Builder
	key.WriteString(r.Pinned)
	for _, c := range r.Constraints {
		key.WriteByte(' ')
		key.WriteString(c.String())
	}
	ok := b.allowed[key.String()]
	if ok == nil {
		ok = make([]bool, len(b.hosts))
		for i, h := range b.hosts {
			ok[i] = r.Bars(h) == ""
		}
		b.allowed[key.String()] = ok
	}
	return ok
}

// Why says why a container that is nowhere cannot be put on a host, or "". It is the state's own predicate.
func (b *Board) Why(item, host int) string {
	if b.shut[host] != "" {
		return "is " + b.shut[host]
	}
	it := &b.all[item]
	return cluster.Admit(b.site(it.Rules, host), it.Rules, it.Need)
}

func (b *Board) site(r *cluster.Rules, host int) cluster.Site {
	site := cluster.Site{Host: b.hosts[host], Free: b.free[host]}
	if g := b.groups[r.Group]; r.Group != "" && g != nil {
		site.OnHost, site.InZone = g.onHost[host], g.inZone[b.zone[host]]
	}
	return site
}

// byRank orders hosts as the seed has it.
func (b *Board) byRank(x, y int) int { return cmp.Compare(b.rank[x], b.rank[y]) }
