package memory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/zeebo/xxh3"
)

// Kept is the memory that processes had when they left this host. When they come back, only what differs is sent: the
// host that they come from is told the hash of every page.
type Kept struct {
	store *Store
	send  *Sender
	dir   string
	bytes int64
}

// Keep reads the memory of processes that stand still into a folder, which is new and must be removed after an error. It
// takes at most limit bytes. Round is one over the memory.
func Keep(dir string, limit int64, round func(Visit) error) (*Kept, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep memory: %w", err)
	}
	k := &Kept{send: NewSender(), dir: dir}
	var err error
	k.store, err = Open(dir, func(bytes int64) error {
		if k.bytes += bytes; k.bytes > limit {
			return errors.New("keep memory: it is more than may be kept")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	in, out := io.Pipe()
	received := make(chan error, 1)
	go func() {
		err := k.store.Receive(in, false)
		in.CloseWithError(err) // whoever reads is told at once
		received <- err
	}()
	k.send.Begin(out, false)
	err = round(func(space Space, first uint64, data []byte) error { return k.send.Pages(space, first, data, 0) })
	out.CloseWithError(err)
	if err := errors.Join(<-received, err); err != nil {
		return nil, errors.Join(err, k.store.Close())
	}
	return k, nil
}

// Bytes is what it takes on disk.
func (k *Kept) Bytes() int64 { return k.bytes }

// Drop deletes it.
func (k *Kept) Drop() error { return errors.Join(k.store.Close(), os.RemoveAll(k.dir)) }

// Resume returns a store in another folder that has what was kept; nothing is left of it where it was.
func (k *Kept) Resume(images string, charge func(bytes int64) error) (*Store, error) {
	defer func() { _ = k.Drop() }()
	if err := charge(k.bytes); err != nil {
		return nil, err
	}
	s, err := Open(images, charge)
	if err != nil {
		return nil, err
	}
	for _, f := range k.store.files {
		name := fmt.Sprintf("pages-%d.img", f.number)
		file := filepath.Join(images, name)
		if err := errors.Join(os.Rename(filepath.Join(k.dir, name), file), os.Chmod(file, 0o644)); err != nil {
			return nil, errors.Join(fmt.Errorf("take up kept memory: %w", err), s.Close())
		}
	}
	s.files = k.store.files
	return s, nil
}

// Hashes writes the hash of every page that is kept, for Learn: the seed of the hashes, then runs of neighbouring pages,
// each with its space, its first page, its length and the hashes.
func (k *Kept) Hashes(w io.Writer) error {
	b := binary.LittleEndian.AppendUint64(nil, k.send.seed)
	var err error
	for space, t := range k.send.known {
		var first uint64
		var run []xxh3.Uint128
		flush := func() {
			if len(run) > 0 && err == nil {
				b = binary.LittleEndian.AppendUint64(b, uint64(space))
				b = binary.LittleEndian.AppendUint64(b, first)
				b = binary.LittleEndian.AppendUint32(b, uint32(len(run)))
				for _, h := range run {
					b = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, h.Hi), h.Lo)
				}
				_, err = w.Write(b)
			}
			b, run = b[:0], run[:0]
		}
		t.all(func(page uint64, h xxh3.Uint128) {
			if len(run) > 0 && (first+uint64(len(run)) != page || len(run) == maxRun) {
				flush()
			}
			if len(run) == 0 {
				first = page
			}
			run = append(run, h)
		})
		flush()
	}
	if err != nil {
		return fmt.Errorf("offer kept memory: %w", err)
	}
	return nil
}

// maxLearned bounds the pages that a peer may claim to have: their hashes take memory here.
const maxLearned = 1 << 28

// Learn reads what the target has kept, before anything was sent.
func (s *Sender) Learn(r io.Reader) error {
	var seed uint64
	if err := binary.Read(r, binary.LittleEndian, &seed); err != nil {
		return fmt.Errorf("learn what memory was kept: %w", err)
	}
	s.seed = seed
	s.zero = s.hash(make([]byte, PageSize))
	learned := 0
	for {
		var head struct {
			Space, First uint64
			N            uint32
		}
		err := binary.Read(r, binary.LittleEndian, &head)
		if errors.Is(err, io.EOF) {
			return nil
		}
		space := Space(head.Space)
		if learned += int(head.N); err == nil && (!space.valid() || head.N > maxRun || head.First > maxPage || learned > maxLearned) {
			err = ErrProtocol
		}
		hashes := make([]struct{ Hi, Lo uint64 }, min(head.N, maxRun))
		if err == nil {
			err = binary.Read(r, binary.LittleEndian, hashes)
		}
		if err != nil {
			return fmt.Errorf("learn what memory was kept: %w", err)
		}
		if s.known[space] == nil {
			s.known[space] = newTable[xxh3.Uint128]()
		}
		for i, h := range hashes {
			s.known[space].set(head.First+uint64(i), xxh3.Uint128{Hi: h.Hi, Lo: h.Lo})
		}
	}
}
