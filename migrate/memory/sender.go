package memory

import (
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/zeebo/xxh3"
)

// Sender sends pages that the target does not have, in passes. It remembers a hash of 128 bits for each page that was
// sent: 0.4 % of the memory. The hash is seeded, so that nobody inside can make two pages that look alike.
type Sender struct {
	seed  uint64
	zero  xxh3.Uint128 // of a page of zeros
	known map[Space]*table[xxh3.Uint128]
	w     io.Writer
	last  bool
	now   struct { // in the last pass: what the space has, once all of it was sent
		space Space
		pages *table[xxh3.Uint128]
	}
	stats Stats
	twin  twins
	run   []byte // for what a dump sends
}

// NewSender returns a sender to a target that has nothing yet.
func NewSender() *Sender {
	s := &Sender{seed: rand.Uint64(), known: map[Space]*table[xxh3.Uint128]{}, run: make([]byte, maxRun*PageSize)}
	s.zero = s.hash(make([]byte, PageSize))
	clear(s.run) // so that no page of it has to be made while the container stands still
	return s
}

func (s *Sender) hash(page []byte) xxh3.Uint128 {
	h := xxh3.Hash128Seed(page, s.seed)
	if h == (xxh3.Uint128{}) {
		h.Lo = 1 // the zero value means that the target has no such page
	}
	return h
}

// Begin begins a pass; last says that the container stands still, and that the target is told of every page.
func (s *Sender) Begin(w io.Writer, last bool) { s.w, s.last, s.stats = w, last, Stats{} }

// Stats returns what the pass has moved so far.
func (s *Sender) Stats() Stats { return s.stats }

// Open tells the target in the last pass that a space exists.
func (s *Sender) Open(space Space) error {
	s.enter(space)
	return s.write(record{what: recOpen, space: space}, nil)
}

// enter begins a space in the last pass, after which the target has of the one before only what that pass has named.
func (s *Sender) enter(space Space) {
	if !s.last || space == s.now.space {
		return
	}
	if s.now.pages != nil {
		s.known[s.now.space] = s.now.pages
	}
	s.now.space, s.now.pages = space, newTable[xxh3.Uint128]()
}

// Pages sends what the target does not have of neighbouring pages. Flags are CRIU's, for the last pass.
func (s *Sender) Pages(space Space, first uint64, data []byte, flags byte) error {
	s.enter(space)
	t := s.known[space]
	if t == nil {
		t = newTable[xxh3.Uint128]()
		s.known[space] = t
	}
	return s.runs(t, space, first, data, flags, func(page uint64, h xxh3.Uint128) {
		if s.last {
			s.now.pages.set(page, h)
		} else {
			t.set(page, h)
		}
	})
}

// Answer sends neighbouring pages of a process that stands still to a target that has asked for them. What the target has
// from the rounds it must not have changed.
func (s *Sender) Answer(w io.Writer, space Space, first uint64, data []byte) error {
	s.w, s.last = w, true
	t := s.known[space]
	if t == nil {
		t = newTable[xxh3.Uint128]()
	}
	return s.runs(t, space, first, data, pePresent, func(uint64, xxh3.Uint128) {})
}

// runs sends neighbouring pages as few records; note is told the hash of each.
func (s *Sender) runs(t *table[xxh3.Uint128], space Space, first uint64, data []byte, flags byte, note func(uint64, xxh3.Uint128)) error {
	n := len(data) / PageSize
	s.stats.Pages += n
	var run record // neighbours of which the same is said
	flush := func(end int) error {
		if run.n == 0 || run.what == recHave && !s.last {
			return nil
		}
		if run.what != recData {
			return s.write(run, nil)
		}
		s.stats.Sent += int(run.n)
		return s.write(run, data[(end-int(run.n))*PageSize:end*PageSize])
	}
	for i := range n {
		r := record{flags: flags, n: 1, space: space, page: first + uint64(i)}
		h := s.hash(data[i*PageSize : (i+1)*PageSize])
		r.what, r.from = s.judge(t, r, h)
		note(r.page, h)
		if run.n > 0 && run.what == r.what && run.from == r.from && run.n < maxRun {
			run.n++
			continue
		}
		if err := flush(i); err != nil {
			return err
		}
		run = r
	}
	return flush(n)
}

// has says whether the target has some content of a page.
func (s *Sender) has(space Space, page uint64) bool {
	t := s.known[space]
	return t != nil && t.get(page) != xxh3.Uint128{}
}

// Same says in the last pass that neighbouring pages, which the target has, are as they were sent.
func (s *Sender) Same(space Space, first, n uint64) error {
	s.enter(space)
	s.stats.Pages += int(n)
	for page := first; page < first+n; page++ {
		s.now.pages.set(page, s.known[space].get(page))
	}
	for n > 0 {
		run := record{what: recHave, n: uint32(min(n, maxRun)), space: space, page: first}
		if err := s.write(run, nil); err != nil {
			return err
		}
		first, n = first+uint64(run.n), n-uint64(run.n)
	}
	return nil
}

// judge says how the target comes to a page. A process that was just forked has the pages of its parent at the same
// addresses, so that is where other spaces are looked at.
func (s *Sender) judge(t *table[xxh3.Uint128], r record, h xxh3.Uint128) (what, Space) {
	known := t.get(r.page)
	switch {
	case known == h:
		return recHave, 0
	case h == s.zero:
		return recZero, 0
	case known != xxh3.Uint128{}:
		return recData, 0
	}
	if twin := s.known[s.twin.of]; twin != nil && s.twin.of != r.space && twin.get(r.page) == h {
		return recCopy, s.twin.of
	}
	if at := (place{r.space, r.page / regionPages}); at != s.twin.searched {
		s.twin.searched, s.twin.misses = at, 0
	}
	if s.twin.misses < maxMisses {
		for other, pages := range s.known {
			if other != r.space && pages.get(r.page) == h {
				s.twin.of = other
				return recCopy, other
			}
		}
		s.twin.misses++
	}
	return recData, 0
}

// twins remembers where a page was found that another space has too.
type twins struct {
	of       Space
	searched place // where all spaces were looked at last
	misses   int   // for nothing
}

// maxMisses is how many pages of a region are looked for everywhere, which takes a while: of a process that was just
// forked, the first of them may have changed in its parent.
const maxMisses = 8

type place struct {
	space  Space
	region uint64
}

func (s *Sender) write(r record, data []byte) error {
	head := r.encode()
	if _, err := s.w.Write(head[:]); err != nil {
		return fmt.Errorf("send memory: %w", err)
	}
	if _, err := s.w.Write(data); err != nil {
		return fmt.Errorf("send memory: %w", err)
	}
	s.stats.Bytes += int64(headSize + len(data))
	return nil
}
