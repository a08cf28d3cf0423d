package scheduler

import (
	"slices"

	"github.com/vzcluster/vzcluster/cluster"
)

// Placer places containers one after the other, each with those before it in sight. What it looks at is made once, so
// that a decision costs in proportion to the hosts and not to the containers.
type Placer struct {
	board   *Board
	views   []HostView
	learned bool // what is there was learned from
}

// NewPlacer returns a Placer of the cluster as it is.
func NewPlacer(snap Snapshot) *Placer {
	b, _ := snap.board()
	b.guard()
	return &Placer{board: b, views: snap.hosts(), learned: snap.packs()}
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

// packs says whether something is packed, for which the board learns what shapes there are.
func (s Snapshot) packs() bool {
	return s.Policy.Placement == cluster.Pack || slices.ContainsFunc(s.Containers, func(c cluster.Container) bool { return c.Rules.Policy == cluster.Pack })
}
