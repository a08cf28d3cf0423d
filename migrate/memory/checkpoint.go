package memory

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// run is a row of neighbouring pages and its place in a pages file.
type run struct {
	page  uint64
	n, at uint32
	flags byte
}

// maxMessage bounds a message of an image: one lists all mappings of a process.
const maxMessage = 64 << 20

// readImage calls f for each message of an image of CRIU's.
func readImage(dir *os.Root, name string, f func(message []byte) error) error {
	file, err := dir.Open(name)
	if err != nil {
		return fmt.Errorf("read the checkpoint: %w", err)
	}
	defer file.Close()
	in := bufio.NewReader(file)
	if _, err := in.Discard(8); err != nil { // magic numbers
		return fmt.Errorf("read the checkpoint's %s: %w", name, err)
	}
	var buf []byte
	for {
		var size uint32
		if err := binary.Read(in, binary.LittleEndian, &size); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the checkpoint's %s: %w", name, err)
		}
		if size > maxMessage {
			return fmt.Errorf("read the checkpoint's %s: a message of %d bytes", name, size)
		}
		buf = slices.Grow(buf[:0], int(size))[:size]
		if _, err := io.ReadFull(in, buf); err != nil {
			return fmt.Errorf("read the checkpoint's %s: %w", name, err)
		}
		if err := f(buf); err != nil {
			return fmt.Errorf("read the checkpoint's %s: %w", name, err)
		}
	}
}

// fields calls f for each field of a protobuf message: with its number, and its value, or its content.
func fields(b []byte, f func(number int, v uint64, content []byte) error) error {
	take := func() (v uint64) {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			b = nil
			return 0
		}
		b = b[n:]
		return v
	}
	for len(b) > 0 {
		tag := take()
		var v uint64
		var content []byte
		size := uint64(0)
		switch tag & 7 {
		case 0:
			v = take()
		case 1:
			size = 8
		case 2:
			size = take()
		case 5:
			size = 4
		default:
			return fmt.Errorf("%w: a field of type %d", ErrProtocol, tag&7)
		}
		if size > uint64(len(b)) {
			return fmt.Errorf("%w: a message was cut off", ErrProtocol)
		}
		content, b = b[:size], b[size:]
		if err := f(int(tag>>3), v, content); err != nil {
			return err
		}
	}
	return nil
}

// values returns the numbers in a message, by field; the last one of each counts.
func values(b []byte) (map[int]uint64, error) {
	m := map[int]uint64{}
	return m, fields(b, func(number int, v uint64, _ []byte) error { m[number] = v; return nil })
}

// readPagemap returns the pages file of a space, and what its list says in the end of each page.
func readPagemap(dir *os.Root, name string) (number uint32, runs []run, err error) {
	at, first := uint64(0), true
	err = readImage(dir, name, func(message []byte) error {
		var page, n, flags, file uint64
		err := fields(message, func(field int, v uint64, _ []byte) error {
			switch field {
			case 1:
				file, page = v, v/PageSize
			case 4:
				flags = v
			case 5:
				n = v
			}
			return nil
		})
		if first {
			number, first = uint32(file), false
			return err
		}
		if n == 0 || n > maxPlace || at+n > maxPlace || page > maxPage || flags&pePresent == 0 {
			return errors.Join(err, fmt.Errorf("%w: %d pages from page %#x on with flags %#x", ErrProtocol, n, page, flags))
		}
		if last := len(runs) - 1; last >= 0 && runs[last].page == page {
			runs = runs[:last] // it was listed only to pass over a place
		}
		runs = append(runs, run{page, uint32(n), uint32(at), byte(flags)})
		at += n
		return err
	})
	return number, runs, err
}

// process is what a checkpoint says of a process's memory.
type process struct {
	pid, parent int
	threads     []uint64
	maps        []area
}

// area is a mapping.
type area struct {
	start, end          uint64
	prot, flags, status uint64
}

// readProcesses lists the processes of a checkpoint that have memory.
func readProcesses(dir *os.Root) (map[int]*process, error) {
	all := map[int]*process{}
	err := readImage(dir, "pstree.img", func(message []byte) error {
		p := &process{}
		err := fields(message, func(field int, v uint64, _ []byte) error {
			switch field {
			case 1:
				p.pid = int(v)
			case 2:
				p.parent = int(v)
			case 5:
				p.threads = append(p.threads, v)
			}
			return nil
		})
		all[p.pid] = p
		return err
	})
	if err != nil {
		return nil, err
	}
	for pid, p := range all {
		if err := p.readMaps(dir); errors.Is(err, os.ErrNotExist) { // it has ended
			delete(all, pid)
		} else if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (p *process) readMaps(dir *os.Root) error {
	return readImage(dir, fmt.Sprintf("mm-%d.img", p.pid), func(message []byte) error {
		return fields(message, func(field int, _ uint64, content []byte) error {
			if field != 14 {
				return nil
			}
			v, err := values(content)
			p.maps = append(p.maps, area{v[1], v[2], v[5], v[6], v[7]})
			return err
		})
	})
}

// rseq returns the pages in which CRIU itself leaves something for the threads, after it has restored them.
func (p *process) rseq(dir *os.Root) (map[uint64]bool, error) {
	pages := map[uint64]bool{}
	take := func(_ int, _ uint64, content []byte) error {
		v, err := values(content)
		pages[v[1]/PageSize], pages[(v[1]+v[2])/PageSize] = true, true
		return err
	}
	for _, tid := range p.threads {
		err := readImage(dir, fmt.Sprintf("core-%d.img", tid), func(message []byte) error {
			return fields(message, within(threadCore, func(_ int, _ uint64, content []byte) error {
				return fields(content, within(threadRseq, take))
			}))
		})
		if err != nil {
			return nil, err
		}
	}
	return pages, nil
}

// Fields of a thread's image.
const (
	threadCore = 5
	threadRseq = 15
)

// within calls f for one field only.
func within(field int, f func(int, uint64, []byte) error) func(int, uint64, []byte) error {
	return func(number int, v uint64, content []byte) error {
		if number != field {
			return nil
		}
		return f(number, v, content)
	}
}

// What a mapping is, in a checkpoint.
const (
	vmaRegular  = 1 << 0
	vmaHeap     = 1 << 5
	vmaFile     = 1 << 6
	vmaAnon     = 1 << 9
	protWrite   = 1 << 1
	mapPrivate  = 1 << 1
	mapGrowDown = 1 << 8
	mapHuge     = 1 << 18
)

// writable says that a mapping can be written from outside once it is restored, and is nothing special.
func (a area) writable() bool {
	return a.status&vmaRegular != 0 && a.status&(vmaFile|vmaAnon) != 0 && a.status&^(vmaRegular|vmaHeap|vmaFile|vmaAnon) == 0 &&
		a.prot&protWrite != 0 && a.flags&mapPrivate != 0 && a.flags&(mapGrowDown|mapHuge) == 0
}
