package memory

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Store writes what a Sender sends as CRIU's images: one list and one file of pages for each space, without parents, so
// that CRIU reads them in large pieces. The file keeps its pages in ascending order from the first round on, with a little
// room between them. The last pass changes what has changed, in place, and moves only what stands in the way of new pages.
type Store struct {
	dir    *os.Root
	charge func(bytes int64) error // what comes costs room here; an error refuses it
	files  map[Space]*pages
	buf    []byte
	zeros  [PageSize]byte
	stats  Stats
}

// pages is the file with the pages of one space. Their order in it is that of their numbers.
type pages struct {
	number uint32
	where  *table[uint32] // the place of each page in the file, counted from one
	last   uint64         // page of the highest number, if there is any
	end    uint32         // places that are taken, up to the last one
	since  uint32         // pages since room was left
	file   *os.File       // while it is needed
}

// In the file, spareRoom places are left free after about spareEvery pages.
const (
	spareEvery = 256
	spareRoom  = 4
	maxPlace   = 1<<31 - 1
)

// Open returns a store that writes into the images directory. Charge is asked before room is taken.
func Open(images string, charge func(bytes int64) error) (*Store, error) {
	dir, err := os.OpenRoot(images)
	if err != nil {
		return nil, fmt.Errorf("keep memory: %w", err)
	}
	return &Store{dir: dir, charge: charge, files: map[Space]*pages{}, buf: make([]byte, maxRun*PageSize)}, nil
}

// Stats returns what the last pass that was received has brought.
func (s *Store) Stats() Stats { return s.stats }

// Receive takes one pass. Whatever comes is hostile until proven.
func (s *Store) Receive(in io.Reader, last bool) (err error) {
	p := &pass{Store: s, in: in, last: last, done: map[Space]bool{}}
	s.stats = Stats{}
	defer func() { err = errors.Join(err, p.close()) }()
	for {
		r, err := readRecord(in)
		if errors.Is(err, io.EOF) {
			return p.leave()
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

// Close closes the directory.
func (s *Store) Close() error { return s.dir.Close() }

// open opens the file of a space, or creates it.
func (s *Store) open(space Space) (*pages, error) {
	f := s.files[space]
	if f == nil {
		f = &pages{number: uint32(len(s.files) + 1), where: newTable[uint32]()}
	}
	if f.file != nil {
		return f, nil
	}
	var err error
	if f.file, err = s.create(fmt.Sprintf("pages-%d.img", f.number)); err != nil {
		return nil, err
	}
	s.files[space] = f
	return f, nil
}

func (s *Store) create(name string) (*os.File, error) {
	f, err := s.dir.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("keep memory: %w", err)
	}
	return f, nil
}

func (f *pages) close() error {
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}

// write writes neighbouring pages; places count from zero.
func (f *pages) write(place uint32, data []byte) error { return writePages(f.file, place, data) }

func writePages(f *os.File, place uint32, data []byte) error {
	if _, err := f.WriteAt(data, int64(place)*PageSize); err != nil {
		return fmt.Errorf("keep memory: %w", err)
	}
	return nil
}

// readPages reads neighbouring pages. Zeros at the end of a file need not have been written.
func readPages(f *os.File, place uint32, data []byte) error {
	n, err := f.ReadAt(data, int64(place)*PageSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("keep memory: %w", err)
	}
	clear(data[n:])
	return nil
}
