// Package transfer copies a container's private layer to another host over a stream, in passes: the first carries
// everything while the container runs, each further one what changed since, the last one while it is frozen.
//
// It owns the stream's format and what a copy keeps: contents with their holes, types, owners, modes, times, hard
// links, extended attributes and ACLs, overlay's whiteouts and opaque marks. It does not own connections, the
// container or the overlay. The one rule for callers: a pass that failed leaves a layer that is good for nothing but
// a first pass again; a layer is complete after a SendFinal whose Receive returned no error.
//
// The stream is hostile input to Receive: it is bounded, and nothing is written outside the layer's directory.
//
// # Format
//
// A pass is a sequence of blocks: length, CRC-32C, bytes; a block of no bytes ends it. Receive reads to the end of
// that block and no further, so passes may follow each other in one stream. The bytes of all blocks together are
// records: a letter, a length, a body. The letters are the record constants below.
package transfer

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	format    = 1         // of the stream; the receiver refuses any other
	maxBlock  = 512 << 10 // bytes of a block
	maxHeader = 64 << 10  // bytes of a JSON body
	chunk     = 128 << 10 // bytes of a data record, and of what a large file is compared by
	maxXattr  = 64 << 10  // bytes of an extended attribute, as much as the kernel takes
)

// The records of a pass, in the order in which they may come: a start; entries, each followed by its attributes, then
// its data and holes; removals; an end.
const (
	recStart  = 'S' // JSON start
	recEntry  = 'E' // JSON entry
	recXattr  = 'X' // length of the name (2 bytes), name, value: an attribute of the last entry
	recData   = 'D' // offset (8 bytes), bytes of the last entry
	recHole   = 'H' // offset, length (8 bytes each) that became a hole in the last entry, which is a patch
	recRemove = 'R' // the path itself
	recEnd    = 'Z' // JSON Stats
)

// maxBody bounds each record's body.
func maxBody(kind byte) int {
	switch kind {
	case recXattr:
		return 2 + 255 + maxXattr
	case recData:
		return 8 + chunk
	case recHole:
		return 16
	case recRemove:
		return maxPath
	}
	return maxHeader
}

// start opens a pass.
type start struct {
	Format int  `json:"format"`
	Full   bool `json:"full"` // the first pass: what the receiver has is removed before
}

// entry is a file of any type. Paths are bytes, since not every file name is UTF-8.
type entry struct {
	Path  []byte `json:"path"`           // relative to the layer, "." is the layer itself
	Mode  uint32 `json:"mode"`           // type and permissions, as in stat(2)
	UID   uint32 `json:"uid,omitempty"`  // as on disk
	GID   uint32 `json:"gid,omitempty"`  //
	MTime int64  `json:"mtime"`          // nanoseconds
	Size  int64  `json:"size,omitempty"` // of a regular file
	Rdev  uint64 `json:"rdev,omitempty"` // of a device
	Link  []byte `json:"link,omitempty"` // target of a symbolic link
	Hard  []byte `json:"hard,omitempty"` // a path sent before in this pass that is the same file
	Patch bool   `json:"patch,omitempty"`
}

// Stats count what a pass carried.
type Stats struct {
	Files   int64 `json:"files"`   // entries, directories and links too
	Bytes   int64 `json:"bytes"`   // of data
	Deleted int64 `json:"deleted"` // paths
}

var errShort = errors.New("the stream ends in the middle of a pass")

// blockWriter packs what is written into checked blocks.
type blockWriter struct {
	w   io.Writer
	buf []byte // header and bytes of the block that is being filled
}

const blockHeader = 8

func newBlockWriter(w io.Writer) *blockWriter {
	return &blockWriter{w: w, buf: make([]byte, blockHeader, blockHeader+maxBlock)}
}

func (b *blockWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := min(len(p), cap(b.buf)-len(b.buf))
		b.buf, p = append(b.buf, p[:n]...), p[n:]
		if len(b.buf) == cap(b.buf) {
			if err := b.flush(); err != nil {
				return total - len(p), err
			}
		}
	}
	return total, nil
}

func (b *blockWriter) flush() error {
	body := b.buf[blockHeader:]
	binary.BigEndian.PutUint32(b.buf, uint32(len(body)))
	binary.BigEndian.PutUint32(b.buf[4:], crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	_, err := b.w.Write(b.buf)
	b.buf = b.buf[:blockHeader]
	return err
}

// Close sends what is left and the block that ends the pass.
func (b *blockWriter) Close() error {
	if len(b.buf) > blockHeader {
		if err := b.flush(); err != nil {
			return err
		}
	}
	return b.flush()
}

// blockReader reads and checks blocks; io.EOF after the one that ends the pass.
type blockReader struct {
	r    io.Reader
	buf  []byte
	rest []byte
	done bool
}

func (b *blockReader) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.done {
			return 0, io.EOF
		}
		if err := b.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *blockReader) next() error {
	var h [blockHeader]byte
	if _, err := io.ReadFull(b.r, h[:]); err != nil {
		return short(err)
	}
	n := binary.BigEndian.Uint32(h[:])
	if n > maxBlock {
		return fmt.Errorf("the stream is damaged: a block of %d bytes", n)
	}
	if b.buf == nil {
		b.buf = make([]byte, maxBlock)
	}
	if _, err := io.ReadFull(b.r, b.buf[:n]); err != nil {
		return short(err)
	}
	if crc32.Checksum(b.buf[:n], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(h[4:]) {
		return errors.New("the stream is damaged: a block has the wrong checksum")
	}
	b.rest, b.done = b.buf[:n], n == 0
	return nil
}

func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errShort
	}
	return err
}

// recordWriter writes records.
type recordWriter struct{ *blockWriter }

func (w recordWriter) put(kind byte, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > maxBody(kind) {
		return fmt.Errorf("a record %c of %d bytes is too long for the stream", kind, n)
	}
	var h [5]byte
	h[0] = kind
	binary.BigEndian.PutUint32(h[1:], uint32(n))
	if _, err := w.Write(h[:]); err != nil {
		return err
	}
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

func (w recordWriter) json(kind byte, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.put(kind, body)
}

// recordReader reads records.
type recordReader struct {
	r   *bufio.Reader
	buf []byte
}

func newRecordReader(r io.Reader) *recordReader {
	return &recordReader{r: bufio.NewReaderSize(&blockReader{r: r}, 64<<10), buf: make([]byte, maxBody(recData))}
}

// next returns a record; its body is valid until the next call.
func (r *recordReader) next() (kind byte, body []byte, err error) {
	var h [5]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return 0, nil, short(err)
	}
	n := int(binary.BigEndian.Uint32(h[1:]))
	if n > maxBody(h[0]) {
		return 0, nil, fmt.Errorf("the stream is damaged: a record %q of %d bytes", h[0], n)
	}
	if _, err := io.ReadFull(r.r, r.buf[:n]); err != nil {
		return 0, nil, short(err)
	}
	return h[0], r.buf[:n], nil
}

// end reads the block that ends the pass.
func (r *recordReader) end() error {
	switch _, err := r.r.ReadByte(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return errors.New("the stream is damaged: there is more after the end of the pass")
}
