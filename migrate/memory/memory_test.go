package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// space is a space's memory as a test knows it.
type content map[Space]map[uint64][]byte

func page(b ...byte) []byte { return append(b, make([]byte, PageSize-len(b))...) }

func free(int64) error { return nil }

func newStore(t *testing.T, charge func(int64) error) (*Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(dir, charge)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s, dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// round sends what is there now as one round of reading, in runs.
func (c content) round(s *Sender) error {
	for space, pages := range c {
		err := ascending(pages, func(first uint64, data []byte) error { return s.Pages(space, first, data, pePresent) })
		if err != nil {
			return err
		}
	}
	return nil
}

func ascending(pages map[uint64][]byte, f func(first uint64, data []byte) error) error {
	t := newTable[uint8]()
	for at := range pages {
		t.set(at, 1)
	}
	var first uint64
	var run []byte
	var err error
	flush := func() {
		if len(run) > 0 && err == nil {
			err = f(first, run)
		}
		run = nil
	}
	t.all(func(at uint64, _ uint8) {
		if len(run) > 0 && first+uint64(len(run)/PageSize) != at {
			flush()
		}
		if len(run) == 0 {
			first = at
		}
		run = append(run, pages[at]...)
	})
	flush()
	return err
}

// dump speaks CRIU's page protocol and returns the status that it was told.
func (c content) dump(conn net.Conn) (status int32, err error) {
	say := func(cmd uint32, pages, addr uint64, space Space) {
		var b [psSize]byte
		binary.NativeEndian.PutUint32(b[:], cmd)
		binary.NativeEndian.PutUint64(b[8:], pages)
		binary.NativeEndian.PutUint64(b[16:], addr)
		binary.NativeEndian.PutUint64(b[24:], uint64(space))
		_, werr := conn.Write(b[:])
		err = errors.Join(err, werr)
	}
	for space, pages := range c {
		say(psOpen2, 0, 0, space)
		answer := make([]byte, 1)
		if _, err := io.ReadFull(conn, answer); err != nil || answer[0] != 0 {
			return 0, fmt.Errorf("answer %v: %w", answer, err)
		}
		_ = ascending(pages, func(first uint64, data []byte) error {
			say(psAddFlags|pePresent<<psFlagShift, uint64(len(data)/PageSize), first*PageSize, space)
			_, werr := conn.Write(data)
			err = errors.Join(err, werr)
			return nil
		})
	}
	say(psForceClose, 0, 0, 0)
	return status, errors.Join(err, binary.Read(conn, binary.NativeEndian, &status))
}

// serve sends a dump as the last pass.
func serve(t *testing.T, c content, s *Sender) (status int32, err error) {
	t.Helper()
	theirs, ours := net.Pipe()
	done := make(chan error, 1)
	go func() {
		var err error
		status, err = c.dump(theirs)
		done <- err
	}()
	err = Serve(ours, s, nil)
	must(t, <-done)
	return status, err
}

// load reads a space as CRIU would: what the list names twice is in the end what the file has of it last.
func load(t *testing.T, dir string, space Space) map[uint64][]byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, space.image()))
	must(t, err)
	if binary.LittleEndian.Uint32(b) != magicImage || binary.LittleEndian.Uint32(b[4:]) != magicPagemap {
		t.Fatalf("%s begins with %x", space.image(), b[:8])
	}
	b = b[8:]
	message := func() map[uint64]uint64 {
		n := binary.LittleEndian.Uint32(b)
		m, rest := map[uint64]uint64{}, b[4:4+n]
		b = b[4+n:]
		for len(rest) > 0 {
			tag, n := binary.Uvarint(rest)
			v, k := binary.Uvarint(rest[n:])
			m[tag>>3], rest = v, rest[n+k:]
		}
		return m
	}
	number := message()[1]
	data, _ := os.ReadFile(filepath.Join(dir, fmt.Sprintf("pages-%d.img", number)))
	out, last, end := map[uint64][]byte{}, uint64(0), uint64(0)
	for len(b) > 0 {
		m := message()
		first := m[1] / PageSize
		if once := first == last && end == first+1; m[1]%PageSize != 0 || first < end && !once || m[4] != pePresent {
			t.Fatalf("the list has %#x after %#x to %#x, with flags %#x", m[1], last, end, m[4])
		}
		last, end = first, first+m[5]
		for at := first; at < end; at++ {
			if len(data) < PageSize {
				t.Fatalf("page %#x is beyond the end of the pages", at)
			}
			out[at], data = data[:PageSize], data[PageSize:]
		}
	}
	if len(data) > 0 {
		t.Fatalf("%d bytes of pages are not in the list", len(data))
	}
	return out
}

func (c content) same(t *testing.T, dir string) {
	t.Helper()
	for space, pages := range c {
		got := load(t, dir, space)
		if len(got) != len(pages) {
			t.Errorf("space %#x has %d pages, want %d", space, len(got), len(pages))
		}
		for at, want := range pages {
			if !bytes.Equal(got[at], want) {
				t.Errorf("page %#x of space %#x is wrong", at, space)
			}
		}
	}
}

// Whatever happens between the rounds, the images hold what the dump saw, and what had not changed was not sent again.
func TestRoundsAndDump(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 3))
		c := content{ProcessSpace(1): {}, ProcessSpace(7): {}, SharedSpace(99): {}}
		change := func(n int) {
			for space, pages := range c {
				for range r.IntN(n) {
					at := 0x7f0000000 + uint64(r.IntN(1500))
					switch r.IntN(4) {
					case 0:
						delete(pages, at)
					case 1:
						pages[at] = page()
					default:
						pages[at] = page(byte(space), byte(r.Uint32()), byte(r.Uint32()))
					}
				}
			}
		}
		s := NewSender()
		store, dir := newStore(t, free)
		for i := range r.IntN(4) {
			change(600 >> (2 * i))
			var wire bytes.Buffer
			s.Begin(&wire, false)
			must(t, c.round(s))
			must(t, store.Receive(&wire, false))
		}
		change(20)
		if seed%3 == 0 {
			c[ProcessSpace(8)] = map[uint64][]byte{4: page(1)} // it was started meanwhile
			delete(c, ProcessSpace(7))
			c[ProcessSpace(9)] = maps.Clone(c[ProcessSpace(1)]) // it was forked
		}
		var wire bytes.Buffer
		s.Begin(&wire, true)
		status, err := serve(t, c, s)
		if err != nil || status != 0 {
			t.Fatalf("seed %d: status %d, %v", seed, status, err)
		}
		must(t, store.Receive(&wire, true))
		c.same(t, dir)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestOnlyChangesCrossTheWire(t *testing.T) {
	c := content{ProcessSpace(1): {}}
	for i := range uint64(1000) {
		c[ProcessSpace(1)][i] = page(byte(i), byte(i>>8), 1)
	}
	s := NewSender()
	store, dir := newStore(t, free)
	var wire bytes.Buffer
	s.Begin(&wire, false)
	must(t, c.round(s))
	if n := s.Stats().Bytes; n > 1000*PageSize*101/100 {
		t.Errorf("the first round took %d bytes", n)
	}
	must(t, store.Receive(&wire, false))
	c[ProcessSpace(2)] = maps.Clone(c[ProcessSpace(1)]) // it was just forked
	for i := range uint64(10) {
		c[ProcessSpace(1)][i*50] = page(2, byte(i))
	}
	s.Begin(&wire, true)
	_, err := serve(t, c, s)
	must(t, err)
	// Where the parent is dumped first, its child has the only copy left of what changed.
	if got := s.Stats(); got.Pages != 2000 || got.Sent != 10 && got.Sent != 20 || got.Bytes > 21*PageSize {
		t.Errorf("the last pass: %+v", got)
	}
	must(t, store.Receive(&wire, true))
	c.same(t, dir)
}

// New pages in the last pass must not cost a copy of everything behind them, nor must those that are gone.
func TestLittleMovesForNewPages(t *testing.T) {
	const pages = 5000
	space := ProcessSpace(1)
	c := content{space: {}}
	for i := range uint64(pages) {
		c[space][1000+i*2] = page(byte(i), byte(i>>8), 1)
	}
	s := NewSender()
	store, dir := newStore(t, free)
	var wire bytes.Buffer
	s.Begin(&wire, false)
	must(t, c.round(s))
	must(t, store.Receive(&wire, false))
	before := maps.Clone(store.files[space].where.regions)
	for _, at := range []uint64{1001, 1003, 5001, 9001} {
		c[space][at] = page(7, byte(at))
	}
	for i := range uint64(20) {
		delete(c[space], 3000+i*2)
	}
	s.Begin(&wire, true)
	_, err := serve(t, c, s)
	must(t, err)
	must(t, store.Receive(&wire, true))
	c.same(t, dir)
	moved := 0
	store.files[space].where.all(func(page uint64, at uint32) {
		if r := before[page/regionPages]; r != nil && r[page%regionPages] != 0 && r[page%regionPages] != at {
			moved++
		}
	})
	if moved > 4*(spareEvery+maxRun) {
		t.Errorf("%d of %d pages were moved for four new ones", moved, pages)
	}
}

// A wire that breaks in the middle must not leave CRIU hanging: it ends in order, and hears that it was in vain.
func TestPageServerGoesOnWithoutAWire(t *testing.T) {
	s := NewSender()
	s.Begin(broken{}, true)
	status, err := serve(t, content{ProcessSpace(1): {4: page(1), 5: page(2), 9: page(3)}}, s)
	if status == 0 || err == nil {
		t.Errorf("status %d, %v", status, err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("the wire is broken") }

func TestHostileStream(t *testing.T) {
	one, two := ProcessSpace(1), ProcessSpace(2)
	data := record{what: recData, n: 1, space: one, page: 5}
	for name, tt := range map[string]struct {
		last bool
		rows []record
	}{
		"unknown kind":           {false, []record{{what: 9, n: 1, space: one, page: 1}}},
		"no such space":          {false, []record{{what: recZero, n: 1, space: 3, page: 1}}},
		"pid out of range":       {false, []record{{what: recZero, n: 1, space: ProcessSpace(1 << 30), page: 1}}},
		"address out of range":   {false, []record{{what: recZero, n: 2, space: one, page: maxPage - 1}}},
		"too many pages":         {false, []record{{what: recZero, n: maxRun + 1, space: one, page: 1}}},
		"parent flag":            {true, []record{{what: recZero, n: 1, flags: peParent, space: one, page: 1}}},
		"back in the space":      {false, []record{data, data}},
		"back to the space":      {false, []record{data, {what: recZero, n: 1, space: two, page: 1}, {what: recZero, n: 1, space: one, page: 9}}},
		"opened in a round":      {false, []record{{what: recOpen, space: one}}},
		"opened twice":           {true, []record{{what: recOpen, space: one}, {what: recOpen, space: two}, {what: recOpen, space: one}}},
		"had, but never sent":    {true, []record{{what: recHave, n: 1, space: one, page: 5}}},
		"copied from itself":     {false, []record{data, {what: recCopy, n: 1, space: one, page: 6, from: one}}},
		"copied from nowhere":    {false, []record{data, {what: recCopy, n: 2, space: two, page: 5, from: one}}},
		"more than there's room": {false, []record{data, {what: recZero, n: 256, space: one, page: 512}, {what: recZero, n: 256, space: one, page: 1024}}},
	} {
		t.Run(name, func(t *testing.T) {
			room := int64(1 << 20)
			store, _ := newStore(t, func(n int64) error {
				if room -= n; room < 0 {
					return errors.New("full")
				}
				return nil
			})
			var wire bytes.Buffer
			for _, r := range tt.rows {
				head := r.encode()
				wire.Write(head[:])
				if r.what == recData {
					wire.Write(make([]byte, int(r.n)*PageSize))
				}
			}
			if err := store.Receive(&wire, tt.last); err == nil {
				t.Error("was taken")
			}
		})
	}
	store, _ := newStore(t, free)
	head := data.encode()
	if err := store.Receive(bytes.NewReader(append(head[:], 1, 2, 3)), false); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
}
