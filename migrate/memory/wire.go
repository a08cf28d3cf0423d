package memory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A pass is a row of records, each with a head of headSize bytes: what, CRIU's flags, two bytes of nothing, the number of
// pages, their space, the number of the first page, and the space that they are copied from. Within a pass the pages of a space ascend.
type what byte

const (
	recOpen what = iota + 1 // last pass only: the space exists, even if it has no pages
	recData                 // the pages follow
	recZero                 // the pages are all zeros
	recHave                 // last pass only: the pages are as they were sent in a round before
	recCopy                 // the pages are as those of the same numbers in another space, as a round has left them
)

const headSize = 32

type record struct {
	what  what
	flags byte
	n     uint32
	space Space
	page  uint64
	from  Space // of recCopy
}

func (r record) encode() [headSize]byte {
	var b [headSize]byte
	b[0], b[1] = byte(r.what), r.flags
	binary.BigEndian.PutUint32(b[4:], r.n)
	binary.BigEndian.PutUint64(b[8:], uint64(r.space))
	binary.BigEndian.PutUint64(b[16:], r.page)
	binary.BigEndian.PutUint64(b[24:], uint64(r.from))
	return b
}

// readRecord reads and checks the head of a record; io.EOF is the end of the pass.
func readRecord(in io.Reader) (record, error) {
	var b [headSize]byte
	if _, err := io.ReadFull(in, b[:]); errors.Is(err, io.EOF) {
		return record{}, io.EOF
	} else if err != nil {
		return record{}, fmt.Errorf("receive memory: %w", err)
	}
	r := record{
		what: what(b[0]), flags: b[1], n: binary.BigEndian.Uint32(b[4:]),
		space: Space(binary.BigEndian.Uint64(b[8:])), page: binary.BigEndian.Uint64(b[16:]), from: Space(binary.BigEndian.Uint64(b[24:])),
	}
	return r, r.check()
}

func (r record) check() error {
	switch {
	case r.what < recOpen || r.what > recCopy:
		return fmt.Errorf("%w: record of kind %d", ErrProtocol, r.what)
	case !r.space.valid():
		return fmt.Errorf("%w: there is no space %#x", ErrProtocol, uint64(r.space))
	case r.what == recOpen:
		return nil
	case r.n == 0 || r.n > maxRun || r.page > maxPage || r.page+uint64(r.n) > maxPage:
		return fmt.Errorf("%w: %d pages from page %#x on", ErrProtocol, r.n, r.page)
	case r.flags&^(peLazy|pePresent) != 0:
		return fmt.Errorf("%w: pages with flags %#x", ErrProtocol, r.flags)
	}
	return nil
}
