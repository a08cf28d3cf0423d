package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// HostView is what the scheduler must know of a host.
type HostView struct {
	Name        string
	State       cluster.HostState
	Alive       bool
	Labels      map[string]string
	Capacity    cluster.Resources // what it offers: cluster.Policy.Offer
	Reserved    cluster.Resources // by its containers and by migrations on their way to it
	HasTemplate bool              // the template of the request that is being placed
	Fresh       bool              // it takes containers only since lately: it is not to be emptied again
}

// Free is what is not reserved; parts are negative on a host that lost capacity.
func (h HostView) Free() cluster.Resources { return h.Capacity.Sub(h.Reserved) }

// down is why a host that is not alive takes nothing.
const down = "down"

// barred says why the host takes no containers at all ("down", "cordoned"), or "" when it does.
func (h HostView) barred() string {
	switch {
	case !h.Alive:
		return down
	case h.State != cluster.HostActive:
		return "cordoned"
	}
	return ""
}

// Snapshot is the cluster at one moment. The order of its parts does not matter.
type Snapshot struct {
	Hosts      []HostView
	Containers []cluster.Container
	Policy     cluster.Policy
	Seed       uint64 // decides between hosts that are alike; 0: by name

	// For plans that nobody depends on: all but drains.
	Now   time.Time                   // for windows; zero: all are open
	Rest  time.Duration               // how long a container is left alone after a move
	Gain  float64                     // points of a hundred that a move must gain, its price taken off; 0: defaultGain
	Moves map[int]*cluster.MoveResult // the last move of each container: what the next one will cost
}

// after is the snapshot when moves have been made.
func (s Snapshot) after(moves []cluster.Move) Snapshot {
	now := s
	now.Hosts, now.Containers = s.hosts(), slices.Clone(s.Containers)
	at := make(map[string]int, len(now.Hosts))
	for i, h := range now.Hosts {
		at[h.Name] = i
	}
	index := make(map[int]int, len(now.Containers))
	for i, c := range now.Containers {
		index[c.ID] = i
	}
	for _, m := range moves {
		c := &now.Containers[index[m.Container]]
		from, to := &now.Hosts[at[m.From]], &now.Hosts[at[m.To]]
		from.Reserved, to.Reserved = from.Reserved.Sub(c.Need()), to.Reserved.Add(c.Need())
		c.Host = m.To
	}
	return now
}

// board turns the snapshot into one that decisions change. The i-th item is the i-th container of the returned list,
// which is in the order of their numbers.
func (s Snapshot) board() (*Board, []cluster.Container) {
	views := s.hosts()
	hosts := make([]*cluster.Host, len(views))
	for i, v := range views {
		hosts[i] = &cluster.Host{Name: v.Name, Labels: v.Labels, State: v.State}
	}
	b := NewBoard(hosts, s.Policy, s.Seed)
	for i, v := range views {
		b.setOffer(i, v.Capacity)
		b.shut[i] = v.barred()
	}
	b.worth = newWorth(b.offer)
	cs := slices.SortedFunc(slices.Values(s.Containers), func(x, y cluster.Container) int { return cmp.Compare(x.ID, y.ID) })
	for i := range cs {
		b.Add(Item{Need: cs[i].Need(), Rules: &cs[i].Rules})
		if h := b.Find(cs[i].Host); h >= 0 {
			b.Put(i, h)
		}
	}
	for i, v := range views {
		b.free[i] = v.Free() // migrations on their way are part of what is reserved
	}
	if s.packs() {
		b.LearnAll()
	}
	return b, cs
}

// hosts returns the hosts by name.
func (s Snapshot) hosts() []HostView {
	return slices.SortedFunc(slices.Values(s.Hosts), func(a, b HostView) int { return strings.Compare(a.Name, b.Name) })
}

// on returns the containers that a host owns, the biggest first.
func (s Snapshot) on(host string) []cluster.Container {
	var cs []cluster.Container
	for _, c := range s.Containers {
		if c.Host == host {
			cs = append(cs, c)
		}
	}
	slices.SortFunc(cs, biggerFirst)
	return cs
}

// biggerFirst orders by memory, then CPU, then disk, then CTID: memory is what a move costs and what runs out first.
func biggerFirst(a, b cluster.Container) int {
	x, y := a.Limits, b.Limits
	return cmp.Or(cmp.Compare(y.RAM, x.RAM), cmp.Compare(y.MilliCPU, x.MilliCPU), cmp.Compare(y.Disk, x.Disk), cmp.Compare(a.ID, b.ID))
}

// unwilling says why a plan of the cluster's own may not move a container now, or "" when it may.
func (s Snapshot) unwilling(c cluster.Container) string {
	switch {
	case s.immovable(c) != "":
		return s.immovable(c)
	case c.Rules.Stay:
		return "it is to stay where it is"
	case !s.Now.IsZero() && !c.Rules.Window.Open(s.Now):
		return "it may be moved " + c.Rules.Window.String() + " only"
	}
	return s.resting(c)
}

// immovable says why a container cannot be moved now, or not within the downtime that it may have, or "".
func (s Snapshot) immovable(c cluster.Container) string {
	if why := immovable(c); why != "" {
		return why
	}
	return s.OverBudget(c)
}

// immovable says why a container can't be moved now ("it is starting"), or "" when it can.
func immovable(c cluster.Container) string {
	switch {
	case c.Operation != "":
		return "it is being migrated already"
	case c.Desired == cluster.WantDestroyed:
		return "it is being destroyed"
	case c.State != cluster.Running && c.State != cluster.Stopped && c.State != cluster.Suspended:
		return fmt.Sprintf("it is %s", c.State)
	case c.Immovable() != "":
		return "it cannot be moved live: " + c.Immovable()
	}
	return ""
}

// freeShare is the part of the capacity that is free, of the resource that is scarcest: the complement of the dominant
// share. Resources that the host does not declare are left out.
func freeShare(free, capacity cluster.Resources) (share float64, scarcest string) {
	share, scarcest = 1, "memory"
	for _, r := range []struct {
		name           string
		free, capacity int64
	}{{"memory", free.RAM, capacity.RAM}, {"cpu", free.MilliCPU, capacity.MilliCPU}, {"disk", free.Disk, capacity.Disk}} {
		if r.capacity <= 0 {
			continue
		}
		if f := float64(r.free) / float64(r.capacity); f < share {
			share, scarcest = f, r.name
		}
	}
	// A thousandth is as fine as it gets, so that hosts which differ by less are ties.
	return math.Round(share*1000) / 1000, scarcest
}

// listMost bounds how many names a sentence lists.
const listMost = 8

// list joins names as in a sentence, the first ones of many.
func list(names []string) string {
	if more := len(names) - listMost; more > 1 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:listMost], ", "), more)
	}
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}

// count prints a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
