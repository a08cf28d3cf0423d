package memory

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Store writes what a Sender sends as CRIU's images. Each round that brings pages which were not there before makes a
// directory, the parent of the next one; pages that came again are written over their older content. In the last pass
// the images directory itself is written, whose list of pages refers to the parents wherever nothing has changed.
type Store struct {
	dir    *os.Root
	charge func(bytes int64) error // what comes costs room here; an error refuses it
	levels []*level
	where  map[Space]*table[slot]
	files  int // pages files so far, to number them
	buf    []byte
	zeros  [PageSize]byte
	stats  Stats
}

// level is one directory of pages.
type level struct {
	dir   *os.Root
	pages map[Space]*pages
}

// pages is the pages file of one space in one directory.
type pages struct {
	number uint32
	n      uint32 // pages in it
	file   *os.File
}

// slot says where a page is: the level in the upper bits, counted from one, and its place in the pages file.
type slot uint32

const (
	placeBits = 28
	maxPlace  = 1<<placeBits - 1
	// MaxRounds is how many passes with new pages may come before the last.
	MaxRounds = 12
)

func slotOf(level int, place uint32) slot { return slot(uint32(level+1)<<placeBits | place) }
func (s slot) level() int                 { return int(s>>placeBits) - 1 }
func (s slot) place() uint32              { return uint32(s) & maxPlace }

// Open returns a store that writes into the images directory. Charge is asked before room is taken.
func Open(images string, charge func(bytes int64) error) (*Store, error) {
	dir, err := os.OpenRoot(images)
	if err != nil {
		return nil, fmt.Errorf("keep memory: %w", err)
	}
	return &Store{dir: dir, charge: charge, where: map[Space]*table[slot]{}, buf: make([]byte, maxRun*PageSize)}, nil
}

func levelName(i int) string { return fmt.Sprintf("parent%d", i) }

// Stats returns what the last pass that was received has brought.
func (s *Store) Stats() Stats { return s.stats }

// Receive takes one pass. Whatever comes is hostile until proven.
func (s *Store) Receive(in io.Reader, last bool) (err error) {
	p := &pass{Store: s, in: in, done: map[Space]bool{}}
	s.stats = Stats{}
	if last {
		if err := s.seal(); err != nil {
			return err
		}
		p.final = &level{s.dir, map[Space]*pages{}}
	}
	defer func() { err = errors.Join(err, p.leave()) }()
	for {
		r, err := readRecord(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if (r.what == recOpen || r.what == recHave) && !last {
			return fmt.Errorf("%w: record of kind %d in a round", ErrProtocol, r.what)
		}
		if err := p.take(r); err != nil {
			return err
		}
	}
}

// seal lists the pages of every level and makes each the parent of the next.
func (s *Store) seal() error {
	dirs := make([]*os.Root, 0, len(s.levels)+1)
	for i, l := range s.levels {
		for space, t := range s.where {
			if err := s.sealSpace(l, i, space, t); err != nil {
				return err
			}
		}
		dirs = append(dirs, l.dir)
	}
	dirs = append(dirs, s.dir)
	for i, d := range dirs[1:] {
		target := levelName(i)
		if i+1 < len(s.levels) {
			target = "../" + target
		}
		if err := d.Symlink(target, "parent"); err != nil {
			return fmt.Errorf("keep memory: %w", err)
		}
	}
	return nil
}

func (s *Store) sealSpace(l *level, at int, space Space, t *table[slot]) error {
	var list *pagemap
	var err error
	t.all(func(page uint64, where slot) {
		if where.level() > at || err != nil {
			return
		}
		if list == nil {
			number := uint32(0)
			if f := l.pages[space]; f != nil {
				number = f.number
			}
			if list, err = createPagemap(l.dir, space.image(), number); err != nil {
				return
			}
		}
		if where.level() == at {
			list.add(page, 1, pePresent)
		} else {
			list.add(page, 1, peParent)
		}
	})
	if list != nil {
		err = errors.Join(err, list.close())
	}
	return err
}

// Close closes the directories.
func (s *Store) Close() error {
	errs := []error{s.dir.Close()}
	for _, l := range s.levels {
		errs = append(errs, l.dir.Close())
	}
	return errors.Join(errs...)
}
