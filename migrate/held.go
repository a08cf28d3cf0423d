package migrate

import (
	"encoding/binary"
	"errors"

	"github.com/vzcluster/vzcluster/runtime"
)

// Holder is what a source's host may be able to do besides: keep the frames that come for a container that is nowhere.
type Holder interface {
	Hold(s runtime.Spec) (runtime.Held, error)
}

// Replayer is its counterpart on the target.
type Replayer interface {
	Replay(s runtime.Spec, frames [][]byte) error
}

// hold begins to keep frames. Without it their senders would repeat them, some time later.
func (m *move) hold() {
	h, ok := m.Host.(Holder)
	if !ok {
		return
	}
	held, err := h.Hold(m.spec)
	if err != nil {
		m.Log.Warn("what is sent to the container while it moves will have to be sent again", "container", m.spec.ID, "error", err)
		return
	}
	m.held = held
}

// handHeld gives the target the frames that were held, as soon as the copy there is open.
func (m *move) handHeld() error {
	if !m.live {
		return nil
	}
	var frames [][]byte
	if m.held != nil {
		frames = m.held.Take()
	}
	return sendFrames(m.s, frames)
}

// sendFrames sends frames and an empty message, which ends them.
func sendFrames(s *stream, frames [][]byte) error {
	var body []byte
	for _, f := range frames {
		if len(f) > maxFrame/4 {
			continue // no network has it
		}
		if len(body)+4+len(f) > maxFrame {
			if err := s.frame(msgHeld, body); err != nil {
				return err
			}
			body = body[:0]
		}
		body = append(binary.BigEndian.AppendUint32(body, uint32(len(f))), f...)
	}
	if len(body) > 0 {
		if err := s.frame(msgHeld, body); err != nil {
			return err
		}
	}
	return s.post(msgHeld, nil)
}

// maxHeld bounds the messages of held frames.
const maxHeld = 16

// replay hands the copy, which goes on already, what the source has held for it. A fault in here costs no more than
// that senders have to repeat themselves.
func (a *arrival) replay() {
	for range maxHeld {
		k, body, err := a.s.receive()
		if err == nil && k != msgHeld {
			err = errors.New("held frames were expected")
		}
		if err == nil && len(body) == 0 {
			return
		}
		var frames [][]byte
		if err == nil {
			frames, err = splitFrames(body)
		}
		if r, ok := a.Host.(Replayer); ok && err == nil {
			err = r.Replay(a.spec, frames)
		}
		if err != nil {
			a.Log.Warn("what was sent to the container while it moved may have to be sent again", "container", a.spec.ID, "error", err)
		}
		if frames == nil {
			return // the stream is of no use any more
		}
	}
}

func splitFrames(body []byte) ([][]byte, error) {
	frames := [][]byte{}
	for len(body) > 0 {
		if len(body) < 4 {
			return nil, errors.New("a held frame is cut off")
		}
		n := binary.BigEndian.Uint32(body)
		if body = body[4:]; uint64(n) > uint64(len(body)) {
			return nil, errors.New("a held frame is cut off")
		}
		frames, body = append(frames, body[:n]), body[n:]
	}
	return frames, nil
}
