package scheduler

import (
	"cmp"
	"slices"
)

// Step is one move on a board.
type Step struct{ Item, From, To int }

// Compaction bounds what Compact may do.
type Compaction struct {
	Keep     func(host int) bool // hosts that are not to be emptied; nil: none
	MaxHosts int                 // hosts to empty at most; 0: any number
	MaxMoves int                 // 0: any number
	// Safe says whether the board may become as it is; nil: it may. Then nothing is moved only to make room for something
	// else, and what holds at the end holds in between.
	Safe func() bool
}

func (c Compaction) safe() bool { return c.Safe == nil || c.Safe() }

// Compact empties hosts. It returns the moves in an order in which each one fits when those before it have ended; the
// board is then as after them. First it looks for the fewest hosts that can take everything of the others, so that each
// container that stood on an emptied host moves once. Then it empties single hosts for which others must make room.
func (b *Board) Compact(c Compaction) []Step {
	if c.Keep == nil {
		c.Keep = func(int) bool { return false }
	}
	steps, freed := b.fewest(c)
	more := c
	if c.MaxHosts > 0 {
		more.MaxHosts = c.MaxHosts - freed
	}
	if c.MaxMoves > 0 {
		more.MaxMoves = c.MaxMoves - len(steps)
	}
	if c.MaxHosts > 0 && more.MaxHosts <= 0 || c.MaxMoves > 0 && more.MaxMoves <= 0 {
		return steps
	}
	return append(steps, b.singly(more, len(steps))...)
}

// stuckOn reports whether a host has to stay in use.
func (b *Board) stuckOn(h int) bool {
	return b.shut[h] == down || slices.ContainsFunc(b.items[h], func(i int32) bool { return b.all[i].fixed })
}

// load is how full a host is.
func (b *Board) load(h int) float64 {
	free, _ := freeShare(b.free[h], b.offer[h])
	return 1 - free
}

// fewest searches by halves for the smallest number of hosts, the fullest, that hold everything.
func (b *Board) fewest(c Compaction) (steps []Step, freed int) {
	var order []int
	stay := 0
	for h := range b.hosts {
		if len(b.items[h]) > 0 {
			order = append(order, h)
		}
	}
	kept := func(h int) bool { return c.Keep(h) || b.stuckOn(h) }
	slices.SortFunc(order, func(x, y int) int { // the last ones are emptied first
		if kx, ky := kept(x), kept(y); kx != ky {
			if kx {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.load(y), b.load(x)), b.byRank(x, y))
	})
	for _, h := range order {
		if kept(h) {
			stay++
		}
	}
	least, most := stay, len(order)
	if c.MaxHosts > 0 {
		least = max(least, most-c.MaxHosts)
	}
	for least < most {
		n := (least + most) / 2
		moves, ok := b.hold(order[:n], order[n:], c.MaxMoves)
		if ok && c.safe() {
			most, steps = n, moves
		} else {
			least = n + 1
		}
		b.Undo(moves)
	}
	b.Redo(steps)
	return steps, len(order) - most
}

// hold moves everything from some hosts to others, the biggest first, each to where it fits tightest. The board is as
// before when it does not fit, or would take too many moves.
func (b *Board) hold(stay, leave []int, most int) ([]Step, bool) {
	var items []int
	for _, h := range leave {
		for _, i := range b.items[h] {
			items = append(items, int(i))
		}
	}
	if most > 0 && len(items) > most {
		return nil, false
	}
	slices.SortFunc(items, func(x, y int) int {
		return cmp.Or(cmp.Compare(b.size(&b.all[y]), b.size(&b.all[x])), cmp.Compare(x, y))
	})
	var steps []Step
	for _, i := range items {
		from := b.Host(i)
		b.Take(i)
		to := b.tightestOf(&b.all[i], stay)
		if to < 0 {
			b.Put(i, from)
			b.Undo(steps)
			return nil, false
		}
		b.Put(i, to)
		steps = append(steps, Step{i, from, to})
	}
	return steps, true
}

// tightestOf is tightest among some hosts.
func (b *Board) tightestOf(it *Item, hosts []int) int {
	best, least := -1, 0.0
	ok := b.may(it.Rules)
	for _, h := range hosts {
		if b.shut[h] != "" || !b.free[h].Fits(it.Need) || ok != nil && !ok[h] {
			continue
		}
		left := float64(b.free[h].MilliCPU)*b.worth.cpu/cpuCells + float64(b.free[h].RAM)*b.worth.ram/ramCells
		if (best < 0 || left < least || left == least && b.rank[h] < b.rank[best]) && b.takes(it.Rules, h) {
			best, least = h, left
		}
	}
	return best
}

// Undo takes back moves, Redo makes them again.
func (b *Board) Undo(steps []Step) {
	for _, s := range slices.Backward(steps) {
		b.unsettle(s.Item)
		b.settle(s.Item, s.From)
	}
}

// Redo makes moves that were taken back.
func (b *Board) Redo(steps []Step) {
	for _, s := range steps {
		b.unsettle(s.Item)
		b.settle(s.Item, s.To)
	}
}

// makeRoom is how many containers, per hundred that leave an emptied host, may be moved on other hosts to make room.
const makeRoom = 5

// singly empties one host after the other, moving others out of the way where that helps. Of those that can be emptied it
// takes the one after which the room that is left is least in pieces, so that more can follow.
func (b *Board) singly(c Compaction, before int) (steps []Step) {
	freed, moved, tries, unsafe := 0, before, 0, 0
	for tries < tryMost && unsafe < unsafeMost && (c.MaxHosts == 0 || freed < c.MaxHosts) {
		var best []Step
		most, found := -1.0, 0
		for _, h := range b.lightestFirst(c) {
			if tries++; tries > tryMost || found >= chooseAmong || unsafe >= unsafeMost {
				break
			}
			if !b.roomElsewhere(h) {
				continue
			}
			n := len(b.items[h])
			limit := n + max((moved+n)*makeRoom/100-(len(steps)+before-moved), 0)
			if c.MaxMoves > 0 {
				limit = min(limit, c.MaxMoves-len(steps))
			}
			if c.Safe != nil {
				limit = min(limit, n)
			}
			for _, to := range []func(*Item, int) int{b.bestBut, b.tightestBut} {
				more := b.empty(h, limit, to)
				if more == nil {
					continue
				}
				found++
				if whole := b.whole(); whole > most {
					if c.safe() {
						best, most = more, whole
					} else {
						unsafe++
					}
				}
				b.Undo(more)
			}
		}
		if best == nil {
			return steps
		}
		b.Redo(best)
		moved += len(best) // those that made room are among them: never more than allowed
		for _, s := range best {
			if s.From != best[len(best)-1].From {
				moved--
			}
		}
		steps, freed = append(steps, best...), freed+1
	}
	return steps
}

// How many hosts are tried in all, among how many ways of emptying one is chosen, and how many may be refused as unsafe.
const (
	tryMost     = 5000
	chooseAmong = 100
	unsafeMost  = 50
)

// lightestFirst lists the hosts in use that may be emptied.
func (b *Board) lightestFirst(c Compaction) (order []int) {
	for h := range b.hosts {
		if len(b.items[h]) > 0 && !c.Keep(h) && !b.stuckOn(h) {
			order = append(order, h)
		}
	}
	slices.SortFunc(order, func(x, y int) int { return cmp.Or(cmp.Compare(b.load(x), b.load(y)), b.byRank(x, y)) })
	return order
}

// roomElsewhere reports whether the biggest container of a host fits on another one in use, as a quick look.
func (b *Board) roomElsewhere(host int) bool {
	biggest := b.items[host][0]
	for _, i := range b.items[host] {
		if b.size(&b.all[i]) > b.size(&b.all[biggest]) {
			biggest = i
		}
	}
	need := &b.all[biggest].Need
	for h := range b.free {
		if h != host && len(b.items[h]) > 0 && b.free[h].Fits(*need) {
			return true
		}
	}
	return false
}

// whole tells how little the free room of the hosts in use is in pieces: the sum of its squares.
func (b *Board) whole() (sum float64) {
	for h := range b.hosts {
		if len(b.items[h]) > 0 {
			free := min(float64(b.free[h].MilliCPU)*b.worth.cpu/cpuCells, float64(b.free[h].RAM)*b.worth.ram/ramCells)
			sum += free * free
		}
	}
	return sum
}

// bestBut is the host in use, other than the one, that suits a container best.
func (b *Board) bestBut(it *Item, host int) int {
	return b.best(it, func(h int) bool { return h == host }, true).host
}

// tightestBut is the host in use, other than the one, with the least room that takes a container.
func (b *Board) tightestBut(it *Item, host int) int {
	best, least := -1, 0.0
	ok := b.may(it.Rules)
	for h := range b.free {
		if h == host || len(b.items[h]) == 0 || b.shut[h] != "" || !b.free[h].Fits(it.Need) || ok != nil && !ok[h] || !b.takes(it.Rules, h) {
			continue
		}
		left := float64(b.free[h].MilliCPU)*b.worth.cpu/cpuCells + float64(b.free[h].RAM)*b.worth.ram/ramCells
		if best < 0 || left < least || left == least && b.rank[h] < b.rank[best] {
			best, least = h, left
		}
	}
	return best
}

// Empty moves everything off a host onto others in use, with at most so many moves, and returns them; nil when that
// cannot be done, and the board is as before.
func (b *Board) Empty(host, most int) (steps []Step) { return b.empty(host, most, b.bestBut) }

func (b *Board) empty(host, most int, choose func(it *Item, but int) int) (steps []Step) {
	if len(b.items[host]) > most || b.stuckOn(host) {
		return nil
	}
	items := slices.Clone(b.items[host])
	slices.SortFunc(items, func(x, y int32) int {
		return cmp.Or(cmp.Compare(b.size(&b.all[y]), b.size(&b.all[x])), cmp.Compare(x, y))
	})
	aside := most - len(items)
	steps = []Step{}
	for _, i := range items {
		it := &b.all[i]
		b.Take(int(i))
		to := choose(it, host)
		if to < 0 && aside > 0 {
			if s, ok := b.aside(it, host); ok {
				steps, to, aside = append(steps, s), s.From, aside-1
			}
		}
		if to < 0 {
			b.Put(int(i), host)
			b.Undo(steps)
			return nil
		}
		b.Put(int(i), to)
		steps = append(steps, Step{int(i), host, to})
	}
	return steps
}

// aside moves one smaller container away so that a host has room for a container that is nowhere.
func (b *Board) aside(it *Item, without int) (Step, bool) {
	ok := b.may(it.Rules)
	for h := range b.hosts {
		if h == without || len(b.items[h]) == 0 || b.shut[h] != "" || ok != nil && !ok[h] || !b.takes(it.Rules, h) {
			continue
		}
		for _, j := range b.items[h] {
			other := &b.all[j]
			if other.fixed || b.size(other) >= b.size(it) || !b.free[h].Add(other.Need).Fits(it.Need) {
				continue
			}
			b.Take(int(j))
			to := b.best(other, func(x int) bool { return x == h || x == without }, true).host
			if to >= 0 && b.takes(it.Rules, h) {
				b.Put(int(j), to)
				return Step{int(j), h, to}, true
			}
			b.Put(int(j), h)
		}
	}
	return Step{}, false
}

// Mend makes the one move that frees most room of use on a host where much is lost; false when none is worth it.
func (b *Board) Mend(worth float64) (Step, bool) {
	worst := make([]int, 0, mendAmong)
	for h := range b.hosts {
		if len(b.items[h]) == 0 || b.waste[h] < worth || b.stuckOn(h) {
			continue
		}
		at, _ := slices.BinarySearchFunc(worst, h, func(x, y int) int { return cmp.Or(cmp.Compare(b.waste[y], b.waste[x]), b.byRank(x, y)) })
		if at < mendAmong {
			worst = slices.Insert(worst, at, h)
			worst = worst[:min(len(worst), mendAmong)]
		}
	}
	best, gain := Step{Item: -1}, worth
	for _, h := range worst {
		for _, i := range slices.Clone(b.items[h]) {
			was := b.waste[h]
			b.Take(int(i))
			freed := was - b.waste[h]
			if to := b.best(&b.all[i], func(x int) bool { return x == h }, true); to.host >= 0 && freed+to.score > gain {
				best, gain = Step{int(i), h, to.host}, freed+to.score
			}
			b.Put(int(i), h)
		}
	}
	if best.Item < 0 {
		return best, false
	}
	b.Redo([]Step{best})
	return best, true
}

// mendAmong is how many hosts are looked at for one move.
const mendAmong = 8
