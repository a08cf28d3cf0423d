package scheduler

import (
	"cmp"
	"slices"
)

// Route orders moves so that each fits when those before it have ended; until then it has its room on the host that it
// leaves as well. From is where its container is, of which there is one move at most. Moves that wait for each other in a
// circle are freed by taking a container to a third host in between: it has two steps then. What cannot be done in any
// order is returned as stuck. The board is afterwards as after the steps.
func (b *Board) Route(wants []Step) (steps, stuck []Step) {
	staying := map[int]bool{} // a detour of theirs came to nothing
	for {
		steps, stuck := b.route(wants, staying)
		stranded := slices.IndexFunc(stuck, func(s Step) bool { return b.Host(s.Item) != s.From })
		if stranded < 0 {
			return steps, stuck
		}
		b.Undo(steps)
		staying[stuck[stranded].Item] = true
	}
}

func (b *Board) route(wants []Step, staying map[int]bool) (steps, left []Step) {
	left = slices.Clone(wants)
	detoured := map[int]bool{}
	for len(left) > 0 {
		n := len(left)
		left = slices.DeleteFunc(left, func(w Step) bool {
			from := b.Host(w.Item)
			if !b.try(w.Item, w.To) {
				return false
			}
			steps = append(steps, Step{w.Item, from, w.To})
			return true
		})
		if len(left) < n {
			continue
		}
		detour, ok := b.detour(left, func(item int) bool { return detoured[item] || staying[item] })
		if !ok {
			break
		}
		detoured[detour.Item] = true
		steps = append(steps, detour)
	}
	return steps, left
}

// try moves a container if it may be on a host and has room there, and if no loss of a host is worse to survive then.
func (b *Board) try(item, to int) bool {
	from := b.Host(item)
	b.unsettle(item)
	if b.Why(item, to) == "" && b.risk(item, to) == "" {
		b.settle(item, to)
		return true
	}
	b.settle(item, from)
	return false
}

// detour takes a container out of the way of another one that is to come where it is: the smallest that helps, to where
// it is in nobody's way if there is such a host.
func (b *Board) detour(left []Step, not func(item int) bool) (Step, bool) {
	order := slices.Clone(left)
	slices.SortStableFunc(order, func(x, y Step) int { return cmp.Compare(b.size(&b.all[x.Item]), b.size(&b.all[y.Item])) })
	wanted := map[int]bool{}
	for _, w := range left {
		wanted[w.To] = true
	}
	for _, helps := range []bool{true, false} { // one may not be enough
		for _, w := range order {
			if not(w.Item) || helps && !b.helps(w, left) {
				continue
			}
			from := b.Host(w.Item)
			for _, h := range b.aways(w.Item, wanted) {
				if h != from && b.try(w.Item, h) {
					return Step{w.Item, from, h}, true
				}
			}
		}
	}
	return Step{}, false
}

// helps reports whether another move becomes possible when a container is away.
func (b *Board) helps(w Step, left []Step) (yes bool) {
	from := b.Host(w.Item)
	b.unsettle(w.Item)
	defer b.settle(w.Item, from)
	for _, o := range left {
		if o.Item == w.Item || o.To != from {
			continue
		}
		at := b.Host(o.Item)
		b.unsettle(o.Item)
		yes = b.Why(o.Item, o.To) == ""
		b.settle(o.Item, at)
		if yes {
			return true
		}
	}
	return false
}

// aways lists hosts that take a container for a while: first those where no other one is to come, then by their room.
func (b *Board) aways(item int, wanted map[int]bool) []int {
	var hosts []int
	need := b.all[item].Need
	for h := range b.hosts {
		if b.shut[h] == "" && b.free[h].Fits(need) {
			hosts = append(hosts, h)
		}
	}
	later := func(h int) int {
		if wanted[h] {
			return 1
		}
		return 0
	}
	slices.SortFunc(hosts, func(x, y int) int {
		return cmp.Or(cmp.Compare(later(x), later(y)), cmp.Compare(b.load(x), b.load(y)), b.byRank(x, y))
	})
	return hosts
}
