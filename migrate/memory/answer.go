package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Want names neighbouring pages of a process that a target asks for: its copy runs there without them. Page is the number
// that they have on the source.
type Want struct {
	Space Space
	Page  uint64
	N     uint32
}

const (
	wantSize = 20
	maxWant  = 64 // pages: whoever waits for another page waits for no more than these
)

func (w Want) Encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(w.Space))
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, w.Page), w.N)
}

func DecodeWant(b []byte) (Want, error) {
	if len(b) < wantSize {
		return Want{}, fmt.Errorf("%w: a question for pages was cut off", ErrProtocol)
	}
	w := Want{Space(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[16:])}
	if !w.Space.valid() || w.N == 0 || w.N > maxWant || w.Page > maxPage {
		return w, fmt.Errorf("%w: a question for %d pages from page %#x on", ErrProtocol, w.N, w.Page)
	}
	return w, nil
}

// Answerer answers questions for pages of processes that stand still.
type Answerer struct {
	send *Sender
	pids map[Space]int
	buf  []byte
}

// NewAnswerer answers from these processes. Send knows what the target has.
func NewAnswerer(send *Sender, pids []int) (*Answerer, error) {
	a := &Answerer{send: send, pids: map[Space]int{}, buf: make([]byte, maxWant*PageSize)}
	for _, pid := range pids {
		inside, err := insidePID(pid)
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("look at process %d: %w", pid, err)
		}
		if err == nil {
			a.pids[ProcessSpace(inside)] = pid
		}
	}
	return a, nil
}

// Answer returns the answer to a question: the question, and records of its pages, all of them.
func (a *Answerer) Answer(question []byte) ([]byte, error) {
	w, err := DecodeWant(question)
	if err != nil {
		return nil, err
	}
	pid := a.pids[w.Space]
	if pid == 0 {
		return nil, fmt.Errorf("%w: pages of space %#x are asked for, which is no process", ErrProtocol, uint64(w.Space))
	}
	out, read := bytes.NewBuffer(w.Encode()), uint64(0)
	err = readRun(pid, w.Page*PageSize, uint64(w.N), a.buf, func(addr uint64, data []byte) error {
		read += uint64(len(data) / PageSize)
		return a.send.Answer(out, w.Space, addr/PageSize, data)
	})
	if err == nil && read != uint64(w.N) {
		err = errors.New("some of its pages cannot be read")
	}
	if err != nil {
		return nil, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	return out.Bytes(), nil
}
