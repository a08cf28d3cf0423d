package memory

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"
)

// pass is one pass on its way in. The records of a space follow each other.
type pass struct {
	*Store
	in   io.Reader
	last bool

	space Space // whose records come
	done  map[Space]bool
	next  uint64 // no page of the space below it may come
	file  *pages
	fresh fresh
	list  []entry // of the last pass: the pages that the space has
}

// fresh are new pages that lie between older ones. They wait in a file of their own until all are known.
type fresh struct {
	file  *os.File
	pages []uint64
}

func (p *pass) take(r record) error {
	if r.space != p.space {
		if err := p.enter(r.space); err != nil {
			return err
		}
	}
	if r.what == recOpen {
		return nil
	}
	if r.page < p.next {
		return fmt.Errorf("%w: pages of space %#x do not ascend", ErrProtocol, uint64(r.space))
	}
	p.next = r.page + uint64(r.n)
	p.stats.Pages += int(r.n)
	data, err := p.content(r)
	if err != nil {
		return err
	}
	for page := r.page; page < p.next; {
		n, err := p.keep(r, page, data)
		if err != nil {
			return err
		}
		if page += uint64(n); data != nil {
			data = data[n*PageSize:]
		}
	}
	return nil
}

// content returns the pages that a record brings, nil if it brings none.
func (p *pass) content(r record) ([]byte, error) {
	data := p.buf[:int(r.n)*PageSize]
	switch r.what {
	case recData:
		if _, err := io.ReadFull(p.in, data); err != nil {
			return nil, fmt.Errorf("receive memory: %w", err)
		}
		p.stats.Sent += int(r.n)
		p.stats.Bytes += int64(len(data))
		return data, nil
	case recCopy:
		return data, p.copy(r, data)
	}
	return nil, nil
}

// copy reads pages of another space.
func (p *pass) copy(r record, data []byte) error {
	from := p.files[r.from]
	if from == nil || r.from == r.space {
		return fmt.Errorf("%w: pages are copied from space %#x", ErrProtocol, uint64(r.from))
	}
	if _, err := p.open(r.from); err != nil {
		return err
	}
	for i := range uint64(r.n) {
		at := from.where.get(r.page + i)
		if at == 0 {
			return fmt.Errorf("%w: page %#x of space %#x was never sent", ErrProtocol, r.page+i, uint64(r.from))
		}
		if err := readPages(from.file, at-1, data[i*PageSize:(i+1)*PageSize]); err != nil {
			return err
		}
	}
	return nil
}

// enter ends the space before and begins the next one.
func (p *pass) enter(space Space) error {
	if err := p.leave(); err != nil {
		return err
	}
	if p.done[space] {
		return fmt.Errorf("%w: space %#x comes twice in a pass", ErrProtocol, uint64(space))
	}
	if err := p.charge(entryCost); err != nil {
		return err
	}
	p.done[space], p.space, p.next = true, space, 0
	var err error
	p.file, err = p.open(space)
	return err
}

// entryCost is what a space costs besides its pages.
const entryCost = 4096

// leave makes the file of the space whose records came what it must be, and in the last pass lists its pages.
func (p *pass) leave() error {
	if p.file == nil {
		return nil
	}
	f, list := p.file, p.list
	if !p.last && len(p.fresh.pages) > 0 {
		f.where.all(func(page uint64, at uint32) { list = append(list, entry{page: page, at: at - 1}) })
	}
	if len(p.fresh.pages) > 0 || p.last {
		if err := p.arrange(f, list); err != nil {
			return err
		}
	}
	if err := errors.Join(f.file.Truncate(int64(f.end)*PageSize), f.close()); err != nil {
		return fmt.Errorf("keep memory: %w", err)
	}
	p.file, p.list, p.space = nil, list[:0], 0
	return nil
}

// close closes the files. Those of which pages were copied are open until then.
func (p *pass) close() error {
	var errs []error
	for _, f := range p.files {
		errs = append(errs, f.close())
	}
	if p.fresh.file != nil {
		errs = append(errs, p.fresh.file.Close(), p.dir.Remove(freshName))
	}
	return errors.Join(errs...)
}

// keep writes the first pages of a record's rest, those that can be written together, and says how many those are.
func (p *pass) keep(r record, page uint64, data []byte) (n int, err error) {
	at := p.file.where.get(page)
	rest := int(p.next - page)
	if at == 0 {
		n, err = p.add(r, page, rest, data)
		return n, err
	}
	for n = 1; n < rest && p.file.where.get(page+uint64(n)) == at+uint32(n); {
		n++
	}
	for i := range n {
		p.note(r, entry{page: page + uint64(i), at: at - 1 + uint32(i)})
	}
	switch {
	case r.what == recHave:
		return n, nil
	case data != nil:
		return n, p.file.write(at-1, data[:n*PageSize])
	}
	for i := range n {
		if err := p.file.write(at-1+uint32(i), p.zeros[:]); err != nil {
			return n, err
		}
	}
	return n, nil
}

// note lists a page in the last pass.
func (p *pass) note(r record, e entry) {
	if p.last {
		e.flags = r.flags | pePresent
		p.list = append(p.list, e)
	}
}

// add writes pages that were not there before: at the end, if they come after all others.
func (p *pass) add(r record, page uint64, rest int, data []byte) (n int, err error) {
	if r.what == recHave {
		return 0, fmt.Errorf("%w: page %#x of space %#x was never sent", ErrProtocol, page, uint64(r.space))
	}
	f := p.file
	if f.end > 0 && page < f.last {
		return 1, p.wait(r, page, data)
	}
	if f.since >= spareEvery {
		f.end, f.since = f.end+spareRoom, 0
	}
	if f.end > maxPlace-maxRun-spareRoom {
		return 0, fmt.Errorf("%w: a space has too many pages", ErrProtocol)
	}
	first := f.end
	for n < rest { // none of them is there: they come after the last one
		if err := p.pay(f.where.set(page+uint64(n), f.end+1)); err != nil {
			return n, err
		}
		p.note(r, entry{page: page + uint64(n), at: f.end})
		f.last = page + uint64(n)
		f.end, f.since, n = f.end+1, f.since+1, n+1
	}
	if data == nil {
		return n, nil // nothing was ever written there, and the file gets its length in the end
	}
	return n, f.write(first, data[:n*PageSize])
}

// pay charges for a new page.
func (p *pass) pay(grown bool) error {
	cost := int64(PageSize)
	if grown {
		cost += int64(unsafe.Sizeof([regionPages]uint32{}))
	}
	return p.charge(cost)
}

// freshName is the file in which new pages wait.
const freshName = "fresh"

// wait puts a page aside that comes between others.
func (p *pass) wait(r record, page uint64, data []byte) (err error) {
	if p.fresh.file == nil {
		if p.fresh.file, err = p.create(freshName); err != nil {
			return err
		}
	}
	at := uint32(len(p.fresh.pages))
	if err := p.pay(at == 0 || p.fresh.pages[at-1]/regionPages != page/regionPages); err != nil {
		return err
	}
	content := p.zeros[:]
	if data != nil {
		content = data[:PageSize]
	}
	p.fresh.pages = append(p.fresh.pages, page)
	p.note(r, entry{page: page, at: at, fresh: true})
	return writePages(p.fresh.file, at, content)
}
