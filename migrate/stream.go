package migrate

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// kind is what a frame of the migration stream carries.
type kind byte

const (
	msgHello    kind = iota + 1 // source: helloMsg
	msgReady                    // target: the operation is real, and nothing is in its way there
	msgClock                    // source: what time is it; target: clockMsg
	msgPass                     // source: passMsg, chunks of one pass over the layer follow
	msgPassDone                 // target: doneMsg
	msgPrepare                  // source
	msgPrepared                 // target
	msgImage                    // source: imageMsg, chunks of the file follow
	msgRestore                  // source: all images were sent
	msgAllow                    // source: frozen and read back, the target may commit
	msgResumed                  // target: resumedMsg
	msgDone                     // target: the layer is on disk
	msgError                    // target: errorMsg, the last frame
	msgChunk                    // a part of a bulk transfer; an empty one ends it
	msgHeld                     // source: frames for the container that came meanwhile; an empty one ends them
	msgMemory                   // source: passMsg, chunks of one pass over the memory follow; target: msgPassDone, but not to the last
	msgFetch                    // target: fetchMsg, it will take longer until msgReady
	msgSaved                    // source: chunks of what the container keeps beside its layer follow; target: msgPassDone
	msgWant                     // target: memory.Want, pages that a running copy lacks
	msgPages                    // source: the answer to it
	msgWhole                    // target: all of the memory is there
)

// maxFrame bounds what a peer can make us allocate.
const maxFrame = 1 << 20

type helloMsg struct {
	Version   int    `json:"version"`
	Operation string `json:"operation"`
	Session   string `json:"session"`        // names what the two hosts have in common of the layer from now on
	Base      string `json:"base,omitempty"` // the session that the source remembers
	Offer     *Offer `json:"offer,omitempty"`
}

// readyMsg says what the target has of the layer, if anything.
type readyMsg struct {
	Base    string `json:"base,omitempty"` // the session in which it came, which is the source's
	Passes  int    `json:"passes"`         // that are complete
	Entries int    `json:"entries"`        // that are complete of the pass after those
}

// fetchMsg says that the target must get the container's template first.
type fetchMsg struct {
	Size int64 `json:"size"` // bytes
}

type clockMsg struct {
	Clock int64 `json:"clock"` // the target's, in Unix nanoseconds
}

type preparedMsg struct {
	Kept bool `json:"kept,omitempty"` // hashes of memory that the target has kept follow
}

type passMsg struct {
	Last bool `json:"last"` // the container stands still; no answer is waited for
}

type doneMsg struct {
	Bytes int64 `json:"bytes"`
}

type imageMsg struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

type resumedMsg struct {
	Clock  int64   `json:"clock"`  // when its first instruction was next, in the target's Unix nanoseconds
	Phases []phase `json:"phases"` // of the target
}

type phase struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

type errorMsg struct {
	Text string `json:"text"`
}

// stream is one migration's connection: frames of a kind, a length and a body.
type stream struct {
	r *bufio.Reader
	w *bufio.Writer
	n int64 // bytes of bulk data sent

	out        sync.Mutex  // of w: questions and answers are sent at any time
	aside      chan letter // what split has read, nil before
	copyBuffer []byte      // for images: fresh memory for each of a thousand sockets would cost more time than their content
	sent       func(n int) // told of bulk data as it is sent; nil: nobody is
}

func newStream(c io.ReadWriter) *stream {
	return &stream{r: bufio.NewReaderSize(c, 256<<10), w: bufio.NewWriterSize(c, 256<<10), copyBuffer: make([]byte, 256<<10)}
}

func (s *stream) frame(k kind, body []byte) error {
	s.out.Lock()
	defer s.out.Unlock()
	return s.write(k, body)
}

func (s *stream) write(k kind, body []byte) error {
	var head [5]byte
	head[0] = byte(k)
	binary.BigEndian.PutUint32(head[1:], uint32(len(body)))
	if _, err := s.w.Write(head[:]); err != nil {
		return &lostError{"write to the other host", err}
	}
	if _, err := s.w.Write(body); err != nil {
		return &lostError{"write to the other host", err}
	}
	return nil
}

// send writes a message and everything before it.
func (s *stream) send(k kind, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write to the other host: %w", err)
	}
	return s.post(k, body)
}

// post sends a frame and everything before it.
func (s *stream) post(k kind, body []byte) error {
	s.out.Lock()
	defer s.out.Unlock()
	if err := s.write(k, body); err != nil {
		return err
	}
	if err := s.w.Flush(); err != nil {
		return &lostError{"write to the other host", err}
	}
	return nil
}

// letter is a message that was read by split.
type letter struct {
	k    kind
	body []byte
	err  error
}

// maxAside bounds the messages that nobody has taken yet: held frames are most of them.
const maxAside = 4 * maxHeld

// split gives messages of one kind to take from now on, whatever else comes in between; receive gets the others. Lost is told
// when no more can come.
func (s *stream) split(one kind, take func(body []byte) error, lost func(error)) {
	aside := make(chan letter, maxAside)
	s.aside = aside
	go func() {
		for {
			k, body, err := s.read()
			switch {
			case err == nil && k == one:
				err = take(body)
			case err == nil && len(aside) < maxAside-1:
				aside <- letter{k: k, body: body}
			case err == nil:
				err = errors.New("the other host sent more messages than are waited for")
			}
			if err != nil {
				aside <- letter{err: err}
				close(aside)
				lost(err)
				return
			}
		}
	}()
}

func (s *stream) receive() (kind, []byte, error) {
	if s.aside == nil {
		return s.read()
	}
	l, ok := <-s.aside
	if !ok {
		return 0, nil, &lostError{"the other host hung up", io.ErrUnexpectedEOF}
	}
	return l.k, l.body, l.err
}

func (s *stream) read() (kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return 0, nil, &lostError{"the other host hung up", err}
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("the other host sent a frame of %d bytes, more than %d are never sent", n, maxFrame)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(s.r, body); err != nil {
		return 0, nil, &lostError{"the other host hung up", err}
	}
	return kind(head[0]), body, nil
}

// lostError says that the connection broke.
type lostError struct {
	what string
	err  error
}

func (e *lostError) Error() string { return e.what + ": " + e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// remoteError is what the other host says went wrong there.
type remoteError struct{ host, text string }

func (e *remoteError) Error() string { return e.host + ": " + e.text }

// expect reads the message that must come now; an error message of the peer becomes the error.
func (s *stream) expect(want kind, v any, peer string) error {
	k, body, err := s.receive()
	if err != nil {
		return err
	}
	return s.is(k, body, want, v, peer)
}

// is reads a message that must be of a kind.
func (s *stream) is(k kind, body []byte, want kind, v any, peer string) error {
	if k == msgError {
		var m errorMsg
		if err := json.Unmarshal(body, &m); err != nil {
			return fmt.Errorf("%s failed, and its reason cannot be read: %w", peer, err)
		}
		return &remoteError{peer, m.Text}
	}
	if k != want {
		return fmt.Errorf("%s sent message %d where %d was expected", peer, k, want)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("read a message of %s: %w", peer, err)
	}
	return nil
}

// bulkWriter sends what is written as chunks; Close ends the transfer.
type bulkWriter struct{ s *stream }

func (b bulkWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, maxFrame)
		if err := b.s.frame(msgChunk, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
		b.s.n += int64(n)
		if b.s.sent != nil {
			b.s.sent(n)
		}
	}
	return len(p), nil
}

func (b bulkWriter) Close() error {
	return b.s.post(msgChunk, nil)
}

// bulkReader reads the chunks of a transfer up to its end.
type bulkReader struct {
	s    *stream
	left int
	end  bool
}

func (b *bulkReader) Read(p []byte) (int, error) {
	for b.left == 0 {
		if b.end {
			return 0, io.EOF
		}
		var head [5]byte
		if _, err := io.ReadFull(b.s.r, head[:]); err != nil {
			return 0, &lostError{"the other host hung up", io.ErrUnexpectedEOF}
		}
		n := binary.BigEndian.Uint32(head[1:])
		if kind(head[0]) != msgChunk || n > maxFrame {
			return 0, fmt.Errorf("the other host broke a transfer off with message %d", head[0])
		}
		b.left, b.end = int(n), n == 0
	}
	n, err := b.s.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// drain reads a transfer to its end.
func (b *bulkReader) drain() error {
	_, err := io.Copy(io.Discard, b)
	return err
}
