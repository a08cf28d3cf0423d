package memory

import (
	"cmp"
	"errors"
	"slices"
)

// entry is a page that a space has, and its place, in the space's file or among those that wait.
type entry struct {
	page  uint64
	at    uint32
	fresh bool
	flags byte
}

// arrange puts the pages of a list into the file, in ascending order, and in the last pass lists them for CRIU. A page
// stays where it is unless new ones before it have taken its place; the places of pages that are no more, and room that
// was left, end such a shift.
func (p *pass) arrange(f *pages, list []entry) error {
	if !p.last {
		for i, page := range p.fresh.pages {
			list = append(list, entry{page: page, at: uint32(i), fresh: true})
		}
		slices.SortFunc(list, func(a, b entry) int { return cmp.Compare(a.page, b.page) })
	}
	where, end := newTable[uint32](), uint32(0)
	var moves []shift
	for i, e := range list {
		at := max(e.at, end)
		if e.fresh {
			at = end
		}
		if e.fresh || at != e.at {
			moves = append(moves, shift{from: e.at, to: at, fresh: e.fresh})
		}
		list[i].at, list[i].fresh = at, false
		where.set(e.page, at+1)
		end = at + 1
		f.last = e.page
	}
	if err := p.shift(f, moves); err != nil {
		return err
	}
	f.where, f.end = where, end
	p.fresh.pages = p.fresh.pages[:0]
	if !p.last {
		return nil
	}
	return p.write(f, list)
}

// shift is a page on its way to its new place. One that comes from the same file moves towards the end.
type shift struct {
	from, to uint32
	fresh    bool
}

func (s shift) follows(before shift) bool {
	return s.fresh == before.fresh && s.from == before.from+1 && s.to == before.to+1
}

// shift moves pages, the last one first: the place that it leaves may be the next one's.
func (p *pass) shift(f *pages, moves []shift) error {
	for len(moves) > 0 {
		first := len(moves) - 1
		for first > 0 && len(moves)-first < maxRun && moves[first].follows(moves[first-1]) {
			first--
		}
		data := p.buf[:(len(moves)-first)*PageSize]
		from := f.file
		if moves[first].fresh {
			from = p.fresh.file
		}
		if err := errors.Join(readPages(from, moves[first].from, data), f.write(moves[first].to, data)); err != nil {
			return err
		}
		moves = moves[:first]
	}
	return nil
}

// write lists the pages of a space for CRIU, which takes them from the file one after another. Places that nobody uses
// are listed as older content of the page behind them, which is then read over it.
func (p *pass) write(f *pages, list []entry) (err error) {
	m, err := createPagemap(p.dir, p.space.image(), f.number)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	end := uint32(0)
	for _, e := range list {
		for ; end < e.at; end++ {
			m.again(e.page)
		}
		m.add(e.page, 1, e.flags)
		end = e.at + 1
	}
	return nil
}
