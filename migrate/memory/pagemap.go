package memory

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
)

// Magic numbers at the beginning of a pagemap image.
const (
	magicImage   = 0x54564319
	magicPagemap = 0x56084025
)

// pagemap writes CRIU's list of the pages of one space: for each run of pages, that they are in the pages file beside
// it, where they follow each other in the order of the list.
type pagemap struct {
	f   *os.File
	w   *bufio.Writer
	run struct {
		page, n uint64
		flags   byte
	}
}

// createPagemap begins a list; pages is the number of its pages file.
func createPagemap(dir *os.Root, name string, pages uint32) (*pagemap, error) {
	f, err := dir.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("list pages: %w", err)
	}
	m := &pagemap{f: f, w: bufio.NewWriter(f)}
	m.uint32(magicImage)
	m.uint32(magicPagemap)
	m.message(field(nil, 1, uint64(pages)))
	return m, nil
}

// add lists pages; neighbours of which the same is said become one entry.
func (m *pagemap) add(page, n uint64, flags byte) {
	if m.run.n > 0 && m.run.flags == flags && m.run.page+m.run.n == page {
		m.run.n += n
		return
	}
	m.flush()
	m.run.page, m.run.n, m.run.flags = page, n, flags
}

// again lists a page that the next entry lists once more: what is there is read, and then what is behind it.
func (m *pagemap) again(page uint64) {
	m.flush()
	m.run.page, m.run.n, m.run.flags = page, 1, pePresent
	m.flush()
	m.run.n = 0
}

func (m *pagemap) flush() {
	if m.run.n == 0 {
		return
	}
	b := field(nil, 1, m.run.page*PageSize)
	b = field(b, 2, 0) // the number of pages in older versions, which may not be absent
	b = field(b, 4, uint64(m.run.flags))
	m.message(field(b, 5, m.run.n))
}

func (m *pagemap) close() error {
	m.flush()
	err := m.w.Flush()
	if cerr := m.f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("list pages: %w", err)
	}
	return nil
}

func (m *pagemap) message(b []byte) {
	m.uint32(uint32(len(b)))
	_, _ = m.w.Write(b) // close returns the writer's error
}

func (m *pagemap) uint32(v uint32) {
	_, _ = m.w.Write(binary.LittleEndian.AppendUint32(nil, v))
}

// field appends a field of a protobuf message, whose value is a varint.
func field(b []byte, number int, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(number)<<3), v)
}
