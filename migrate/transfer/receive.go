package transfer

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Limits bound what one pass may do. Zero means the default.
type Limits struct {
	MaxBytes   int64 // of data; default 1 TiB
	MaxEntries int64 // files and removals; default 16 million
	AnyDevice  bool  // take every device node; else only whiteouts and the harmless devices that containers have
}

// harmless has the device numbers that a layer may hold: overlay's whiteout, then null, zero, full, random, urandom, tty, console,
// ptmx, tun and fuse. A node of any other would open the host's hardware to the container.
func harmless() map[[2]uint32]bool {
	return map[[2]uint32]bool{
		{0, 0}: true, {1, 3}: true, {1, 5}: true, {1, 7}: true, {1, 8}: true, {1, 9}: true,
		{5, 0}: true, {5, 1}: true, {5, 2}: true, {10, 200}: true, {10, 229}: true,
	}
}

// Receive applies one pass to the layer in root, which must exist, and reads no further than to the end of the pass.
// Have is what the passes before returned, nil before the first; what is returned describes the layer as it is now. A
// first pass empties root before. An error means that the layer is incomplete: what is returned with it, if it is not
// nil, says how far the pass came (Ended), and the layer can be gone on with by a pass that begins there (Cut), a first
// pass, or not at all. Whatever the stream says, nothing outside root is touched.
func Receive(ctx context.Context, r io.Reader, root string, have *Manifest, l Limits) (*Manifest, Stats, error) {
	if l.MaxBytes == 0 {
		l.MaxBytes = 1 << 40
	}
	if l.MaxEntries == 0 {
		l.MaxEntries = 16 << 20
	}
	top, err := openRoot(root)
	if err != nil {
		return have, Stats{}, fmt.Errorf("receive layer: %w", err)
	}
	defer top.Close()
	if have == nil {
		have = newManifest()
	}
	have.ended = 0
	rc := &receiver{
		in: newRecordReader(r), walker: walker{root: top}, have: have, limits: l,
		times: map[string]int64{}, linked: map[string]bool{},
	}
	defer rc.walker.close()
	defer rc.forget()
	if err := rc.pass(ctx); err != nil {
		rc.doubt()
		return rc.have, rc.stats, fmt.Errorf("receive layer %s: %w", root, err)
	}
	return rc.have, rc.stats, nil
}

// receiver applies one pass.
type receiver struct {
	in     *recordReader
	walker walker
	have   *Manifest
	limits Limits
	stats  Stats
	times  map[string]int64 // of directories, to be set when nothing changes them any more
	linked map[string]bool  // names of files that got more names after they were noted
	cur    current
}

// current is the file whose attributes and data come in.
type current struct {
	entry entry
	f     *os.File // open for writing if it is regular, else as a path; nil between files
	attrs map[string][]byte
	// Of a large file, what its chunks hash to: the layer may be sent back one day, and then only what differs is.
	blocks []uint64
}

func (r *receiver) pass(ctx context.Context) error {
	kind, body, err := r.in.next()
	if err != nil {
		return err
	}
	var s start
	if kind != recStart || json.Unmarshal(body, &s) != nil || s.Format != format {
		return errors.New("the stream is no layer, or one of another version")
	}
	if s.Full {
		again, err := r.walker.root.sub(".")
		if err != nil {
			return err
		}
		if err := errors.Join(again.empty(), again.Close()); err != nil {
			return err
		}
		*r.have = *newManifest()
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		kind, body, err := r.in.next()
		if err != nil {
			return err
		}
		if kind == recEnd {
			return r.end(body)
		}
		if err := r.record(kind, body); err != nil {
			return err
		}
	}
}

func (r *receiver) record(kind byte, body []byte) error {
	switch kind {
	case recEntry:
		if err := r.finish(); err != nil {
			return err
		}
		return r.begin(body)
	case recXattr:
		return r.xattr(body)
	case recData, recHole:
		if err := r.write(kind, body); err != nil {
			return fmt.Errorf("%q: %w", r.cur.entry.Path, err)
		}
		return nil
	case recRemove:
		if err := r.finish(); err != nil {
			return err
		}
		return r.remove(body)
	}
	return fmt.Errorf("the stream is damaged: a record of the unknown kind %q", kind)
}

// end checks that everything arrived, and sets the directories' times.
func (r *receiver) end(body []byte) error {
	var sent Stats
	if err := json.Unmarshal(body, &sent); err != nil {
		return fmt.Errorf("the stream is damaged: %w", err)
	}
	if err := errors.Join(r.finish(), r.in.end()); err != nil {
		return err
	}
	if sent != r.stats {
		return fmt.Errorf("the pass is incomplete: sent %+v, received %+v", sent, r.stats)
	}
	for p, t := range r.times {
		d, err := r.walker.root.sub(p)
		if gone(err) {
			continue
		}
		if err == nil {
			err = errors.Join(setTime(d.File, t), d.Close())
		}
		if err != nil {
			return fmt.Errorf("set the time of %q: %w", p, err)
		}
	}
	return r.note()
}

// count bounds the pass.
func (r *receiver) count() error {
	if r.stats.Files+r.stats.Deleted > r.limits.MaxEntries {
		return fmt.Errorf("the pass holds more than %d files", r.limits.MaxEntries)
	}
	if r.stats.Bytes > r.limits.MaxBytes {
		return fmt.Errorf("the pass holds more than %d bytes", r.limits.MaxBytes)
	}
	return nil
}

// parent opens the directory of a path, and remembers its time before anything in it changes.
func (r *receiver) parent(p string) (dir, string, error) {
	d, base, err := r.walker.parent(p)
	if err != nil {
		return d, base, err
	}
	if _, ok := r.times[r.walker.name]; !ok {
		var st unix.Stat_t
		if err := unix.Fstat(d.fd(), &st); err != nil {
			return d, base, err
		}
		r.times[r.walker.name] = st.Mtim.Nano()
	}
	return d, base, nil
}

func (r *receiver) remove(body []byte) error {
	p, err := safePath(body)
	if err != nil || p == "." {
		return errors.Join(err, errors.New("the stream removes what it may not"))
	}
	r.stats.Deleted++
	if err := r.count(); err != nil {
		return err
	}
	r.lose(p)
	d, base, err := r.parent(p)
	if err == nil {
		err = d.remove(base)
	}
	if gone(err) { // with its directory, or because that became something else
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %q: %w", p, err)
	}
	return nil
}

// xattr keeps an attribute for finish.
func (r *receiver) xattr(body []byte) error {
	if r.cur.f == nil || len(body) < 2 {
		return errors.New("the stream is damaged: an attribute of no file")
	}
	n := int(binary.BigEndian.Uint16(body))
	if len(body) < 2+n || !carried(string(body[2:2+n])) {
		return fmt.Errorf("%q: the stream holds an attribute that no layer may have", r.cur.entry.Path)
	}
	if r.cur.attrs == nil {
		r.cur.attrs = map[string][]byte{}
	}
	if len(r.cur.attrs) >= 1024 {
		return fmt.Errorf("%q: more than 1024 attributes", r.cur.entry.Path)
	}
	r.cur.attrs[string(body[2:2+n])] = bytes.Clone(body[2+n:])
	return nil
}

// write puts data or a hole into the current file.
func (r *receiver) write(kind byte, body []byte) error {
	e := &r.cur.entry
	if r.cur.f == nil || e.Mode&unix.S_IFMT != unix.S_IFREG || len(body) < 8 || kind == recHole && len(body) != 16 {
		return errors.New("the stream is damaged: data of no file")
	}
	off := int64(binary.BigEndian.Uint64(body))
	n := int64(len(body) - 8)
	if kind == recHole {
		n = int64(binary.BigEndian.Uint64(body[8:]))
	}
	if off < 0 || n <= 0 || off > e.Size-n {
		return errors.New("the stream is damaged: data beyond the end of the file")
	}
	if kind == recHole {
		r.cur.hash(off, n, 0)
		return unix.Fallocate(int(r.cur.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	}
	r.stats.Bytes += n
	if err := r.count(); err != nil {
		return err
	}
	if r.cur.blocks != nil {
		r.cur.hash(off, n, max(maphash.Bytes(r.have.seed, body[8:]), 1))
	}
	_, err := r.cur.f.WriteAt(body[8:], off)
	return err
}
