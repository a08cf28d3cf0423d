package memory

import (
	"cmp"
	"slices"
)

// missing lists the pages that a process lacks: runs by their numbers now, with the numbers that they have on the source, which
// differ once the process has moved them.
type missing []gap

type gap struct {
	page, n uint64
	origin  uint64
}

func (g gap) cut(from, to uint64) gap {
	return gap{page: from, n: to - from, origin: g.origin + from - g.page}
}

// find returns the rest of a run from a page on.
func (m missing) find(page uint64) (gap, bool) {
	i, _ := slices.BinarySearchFunc(m, page, func(g gap, page uint64) int {
		if g.page+g.n <= page {
			return -1
		}
		return 1
	})
	if i == len(m) || m[i].page > page {
		return gap{}, false
	}
	return m[i].cut(page, m[i].page+m[i].n), true
}

// take removes the pages from first to end, and returns what was removed.
func (m *missing) take(first, end uint64) (taken missing) {
	kept := make(missing, 0, len(*m)+1)
	for _, g := range *m {
		last := g.page + g.n
		if last <= first || end <= g.page {
			kept = append(kept, g)
			continue
		}
		if g.page < first {
			kept = append(kept, g.cut(g.page, first))
		}
		taken = append(taken, g.cut(max(g.page, first), min(last, end)))
		if end < last {
			kept = append(kept, g.cut(end, last))
		}
	}
	*m = kept
	return taken
}

// move follows pages that the process has moved. Whatever was missing where they are now is gone.
func (m *missing) move(from, to, n uint64) {
	moved := m.take(from, from+n)
	m.take(to, to+n)
	for _, g := range moved {
		*m = append(*m, gap{page: g.page - from + to, n: g.n, origin: g.origin})
	}
	slices.SortFunc(*m, func(a, b gap) int { return cmp.Compare(a.page, b.page) })
}

// of returns what is missing of the source's pages from first to end.
func (m missing) of(first, end uint64) (found missing) {
	for _, g := range m {
		if g.origin < end && first < g.origin+g.n {
			from, to := max(g.origin, first), min(g.origin+g.n, end)
			found = append(found, g.cut(g.page+from-g.origin, g.page+to-g.origin))
		}
	}
	return found
}
