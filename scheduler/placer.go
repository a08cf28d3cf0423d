package scheduler

import (
	"maps"
	"slices"

	"github.com/vzcluster/vzcluster/cluster"
)

// Placer places containers one after the other, each with those before it in sight. What it looks at is made once, so
// that a decision costs in proportion to the hosts and not to the containers.
type Placer struct {
	board   *Board
	views   []HostView
	learned bool // what is there was learned from
	policy  cluster.Policy
	items   map[int]int // by CTID: those of the containers that are on a host
}

// NewPlacer returns a Placer of the cluster as it is.
func NewPlacer(snap Snapshot) *Placer {
	b, cs := snap.board()
	b.guard()
	p := &Placer{board: b, views: snap.hosts(), learned: snap.packs(), policy: snap.Policy, items: make(map[int]int, len(cs))}
	for i := range cs {
		if b.Host(i) >= 0 {
			p.items[cs[i].ID] = i
		}
	}
	return p
}

// Placement is a decision that can be carried out on the Placer's board.
type Placement struct {
	Decision
	item int
}

// Place decides where a container goes, as the function of that name does.
func (p *Placer) Place(req Request) Placement {
	if req.Rules.Policy == cluster.Pack && !p.learned {
		p.board.LearnAll()
		p.learned = true
	}
	d := p.board.place(p.views, req)
	return Placement{d, len(p.board.all) - 1}
}

// Put has the container where it was decided that it goes: the next ones see it.
func (p *Placer) Put(it Placement) {
	if p.learned {
		p.board.Learn(it.item)
	}
	p.board.settle(it.item, p.board.Find(it.Host))
}

// Take takes a container away again.
func (p *Placer) Take(it Placement) { p.board.unsettle(it.item) }

// Keep has a container that was put keep its place as the one with a CTID: it has been created.
func (p *Placer) Keep(it Placement, id int) { p.items[id] = it.item }

// Set takes note of how a container is now; nil: there is none any more.
func (p *Placer) Set(id int, c *cluster.Container) {
	host := -1
	if c != nil {
		host = p.board.Find(c.Host)
	}
	if i, ok := p.items[id]; ok {
		it := &p.board.all[i]
		if host >= 0 && p.board.Host(i) == host && it.Need == c.Need() && it.Rules.Equal(c.Rules) {
			return
		}
		p.board.Take(i)
		delete(p.items, id)
	}
	if host >= 0 {
		i := p.board.Add(Item{Need: c.Need(), Rules: &c.Rules})
		p.board.Put(i, host)
		p.items[id] = i
		if p.learned {
			p.board.Learn(i)
		}
	}
}

// Refresh takes note of how the hosts are now, when Set has been told of all containers that have changed. It reports
// false when another Placer must be made: the hosts are others, or there is too much on the board that is not used.
func (p *Placer) Refresh(hosts []HostView, policy cluster.Policy) bool {
	views := Snapshot{Hosts: hosts}.hosts()
	if policy != p.policy || policy.Survive || len(p.board.all) > 2*len(p.items)+1<<14 || !slices.EqualFunc(views, p.views, sameHost) {
		return false
	}
	p.views = views
	for i, v := range views {
		p.board.free[i], p.board.shut[i] = v.Free(), v.barred()
	}
	if p.learned {
		p.board.reassess()
	}
	return true
}

// sameHost says whether a board has what is needed of a host that is in another state, or has other containers.
func sameHost(a, b HostView) bool {
	return a.Name == b.Name && a.Capacity == b.Capacity && maps.Equal(a.Labels, b.Labels)
}

// packs says whether something is packed, for which the board learns what shapes there are.
func (s Snapshot) packs() bool {
	return s.Policy.Placement == cluster.Pack || slices.ContainsFunc(s.Containers, func(c cluster.Container) bool { return c.Rules.Policy == cluster.Pack })
}
