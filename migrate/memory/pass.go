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
	in    io.Reader
	final *level // nil in a round
	fresh *level // of a round, once there are new pages

	space Space // whose records come
	done  map[Space]bool
	next  uint64 // no page of the space below it may come
	list  *pagemap

	opened []*pages // files, until the space is left
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
	var data []byte
	if r.what == recData {
		data = p.buf[:int(r.n)*PageSize]
		if _, err := io.ReadFull(p.in, data); err != nil {
			return fmt.Errorf("receive memory: %w", err)
		}
		p.stats.Sent += int(r.n)
		p.stats.Bytes += int64(len(data))
	}
	if r.what == recCopy {
		data = p.buf[:int(r.n)*PageSize]
		if err := p.copy(r, data); err != nil {
			return err
		}
	}
	if p.final != nil {
		return p.conclude(r, data)
	}
	return p.keep(r, data)
}

// copy reads pages of another space as a round has left them.
func (p *pass) copy(r record, data []byte) error {
	from := p.where[r.from]
	if from == nil || r.from == r.space {
		return fmt.Errorf("%w: pages are copied from space %#x", ErrProtocol, uint64(r.from))
	}
	for i := range uint64(r.n) {
		at := from.get(r.page + i)
		if at == 0 {
			return fmt.Errorf("%w: page %#x of space %#x was never sent", ErrProtocol, r.page+i, uint64(r.from))
		}
		file, err := p.open(p.levels[at.level()], r.from)
		if err != nil {
			return err
		}
		content := data[i*PageSize : (i+1)*PageSize]
		n, err := file.file.ReadAt(content, int64(at.place())*PageSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("keep memory: %w", err)
		}
		clear(content[n:]) // zeros at the end are not written before the file is closed
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
	if p.where[space] == nil {
		p.where[space] = newTable[slot]()
	}
	if p.final == nil {
		return nil
	}
	file, err := p.open(p.final, space)
	if err != nil {
		return err
	}
	p.list, err = createPagemap(p.dir, space.image(), file.number)
	return err
}

// entryCost is what a space costs besides its pages.
const entryCost = 4096

// leave closes the files of the space whose records came.
func (p *pass) leave() error {
	var errs []error
	if p.list != nil {
		errs = append(errs, p.list.close())
		p.list = nil
	}
	for _, f := range p.opened {
		errs = append(errs, f.file.Truncate(int64(f.n)*PageSize), f.file.Close())
		f.file = nil
	}
	p.opened, p.space = nil, 0
	return errors.Join(errs...)
}

// conclude writes pages of the last pass.
func (p *pass) conclude(r record, data []byte) error {
	if r.what != recHave {
		if err := p.charge(int64(len(data))); err != nil {
			return err
		}
		file, err := p.open(p.final, r.space)
		if err != nil {
			return err
		}
		if err := file.write(file.n, data); err != nil {
			return err
		}
		file.n += r.n // zeros are a hole: the file gets its full length when it is closed
		p.list.add(r.page, uint64(r.n), r.flags|pePresent)
		return nil
	}
	for page := r.page; page < p.next; page++ {
		if p.where[r.space].get(page) == 0 {
			return fmt.Errorf("%w: page %#x of space %#x was never sent", ErrProtocol, page, uint64(r.space))
		}
	}
	p.list.add(r.page, uint64(r.n), peParent)
	return nil
}

// keep writes pages of a round: over their older content, or behind the new ones of this round.
func (p *pass) keep(r record, data []byte) error {
	t := p.where[r.space]
	for i := range uint64(r.n) {
		content := data
		if data != nil {
			content = data[i*PageSize : (i+1)*PageSize]
		}
		at := t.get(r.page + i)
		if at == 0 {
			var err error
			if at, err = p.append(r.space); err != nil {
				return err
			}
			cost := int64(PageSize)
			if t.set(r.page+i, at) {
				cost += int64(unsafe.Sizeof([regionPages]slot{}))
			}
			if err := p.charge(cost); err != nil {
				return err
			}
		} else if data == nil {
			content = p.zeros[:]
		}
		file, err := p.open(p.levels[at.level()], r.space)
		if err != nil {
			return err
		}
		if err := file.write(at.place(), content); err != nil {
			return err
		}
	}
	return nil
}

// append makes room for a page that was not there before.
func (p *pass) append(space Space) (slot, error) {
	if p.fresh == nil {
		if len(p.levels) == MaxRounds {
			return 0, fmt.Errorf("%w: more than %d rounds", ErrProtocol, MaxRounds)
		}
		name := levelName(len(p.levels))
		if err := p.dir.Mkdir(name, 0o755); err != nil {
			return 0, fmt.Errorf("keep memory: %w", err)
		}
		dir, err := p.dir.OpenRoot(name)
		if err != nil {
			return 0, fmt.Errorf("keep memory: %w", err)
		}
		p.fresh = &level{dir, map[Space]*pages{}}
		p.levels = append(p.levels, p.fresh)
	}
	file, err := p.open(p.fresh, space)
	if err != nil {
		return 0, err
	}
	if file.n == maxPlace {
		return 0, fmt.Errorf("%w: a space has too many pages", ErrProtocol)
	}
	file.n++
	return slotOf(len(p.levels)-1, file.n-1), nil
}

// open opens the pages file of a space, or creates it, until the space is left.
func (p *pass) open(l *level, space Space) (*pages, error) {
	f := l.pages[space]
	if f == nil {
		p.files++
		f = &pages{number: uint32(p.files)}
		l.pages[space] = f
	}
	if f.file != nil {
		return f, nil
	}
	var err error
	f.file, err = l.dir.OpenFile(fmt.Sprintf("pages-%d.img", f.number), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("keep memory: %w", err)
	}
	p.opened = append(p.opened, f)
	return f, nil
}

// write writes pages at a place.
func (f *pages) write(place uint32, data []byte) error {
	if _, err := f.file.WriteAt(data, int64(place)*PageSize); err != nil {
		return fmt.Errorf("keep memory: %w", err)
	}
	return nil
}
