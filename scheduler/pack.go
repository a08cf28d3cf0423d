package scheduler

import (
	"cmp"
	"slices"
)

// packBudget bounds how many placements one packing may try, so that a plan is made in milliseconds.
const packBudget = 2000

// pack finds a host for every item, best fit first, going back when it gets stuck. It reports false when there is none,
// or none was found within the budget; the board is then as before. Else the items are where they are to go.
func (b *Board) pack(items []int, onto func(host int) bool) bool {
	budget := packBudget
	return b.packFrom(items, onto, &budget)
}

func (b *Board) packFrom(items []int, onto func(int) bool, budget *int) bool {
	if len(items) == 0 {
		return true
	}
	from := b.Host(items[0])
	b.Take(items[0])
	for _, h := range b.candidates(items[0], onto) {
		if *budget--; *budget < 0 {
			break
		}
		b.Put(items[0], h)
		if b.packFrom(items[1:], onto, budget) {
			return true
		}
		b.Take(items[0])
	}
	b.Put(items[0], from)
	return false
}

// candidates returns the hosts that take an item, the one that would be fullest first; of hosts that look alike only one.
func (b *Board) candidates(item int, onto func(int) bool) []int {
	type candidate struct {
		host int
		left float64
	}
	it := &b.all[item]
	plain := it.Rules.IsZero()
	var cs []candidate
	for h := range b.hosts {
		if !onto(h) || !b.free[h].Fits(it.Need) || b.Why(item, h) != "" {
			continue
		}
		if plain && slices.ContainsFunc(cs, func(c candidate) bool { return b.free[c.host] == b.free[h] && b.offer[c.host] == b.offer[h] }) {
			continue
		}
		left, _ := freeShare(b.free[h].Sub(it.Need), b.offer[h])
		cs = append(cs, candidate{h, left})
	}
	slices.SortFunc(cs, func(x, y candidate) int { return cmp.Or(cmp.Compare(x.left, y.left), b.byRank(x.host, y.host)) })
	out := make([]int, len(cs))
	for i, c := range cs {
		out[i] = c.host
	}
	return out
}
