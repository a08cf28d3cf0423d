package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/vzcluster/vzcluster/migrate/memory"
	"github.com/vzcluster/vzcluster/runtime"
)

// Memory reads the memory of running processes for one migration; memory.Reader implements it. Without one, memory crosses
// the wire only as files of a checkpoint.
type Memory interface {
	Round(ctx context.Context, pids []int, visit memory.Visit) error
	// Tracks says whether the kernel tells what was written since the first round.
	Tracks() bool
	// Serve sends what a dumping CRIU says as the last pass.
	Serve(criu io.ReadWriter, send *memory.Sender) error
}

// PageStore takes the passes of a memory.Sender on the target; memory.Store implements it.
type PageStore interface {
	Receive(in io.Reader, last bool) error
	Close() error
}

// Rounds over the memory are made while the container runs, until the rest is small, or no longer gets much smaller.
const (
	maxMemoryRounds = 5
	smallRest       = 2 << 20 // bytes
)

// rounds is what the source knows of the memory that the target has.
type rounds struct {
	Memory
	send *memory.Sender
	rest int64         // bytes that the last round had to send: about what the dump will have to
	full int64         // bytes of memory that the first round has read: all
	size int64         // bytes of memory that the last round has read: all, or what was written since the first one began
	took time.Duration // for the first round, in which all of it was sent
	all  int64         // bytes of the first round

	lastTook time.Duration // for the last round
	dirty    float64       // bytes a second that were written while the round before the last was sent

	wire  sync.Mutex // held while something is sent that must not be interrupted, when the container stands still
	taken chan error // what became of the last pass
}

// copyMemory sends the memory in rounds while the container runs.
func (m *move) copyMemory(ctx context.Context) error {
	if m.rounds == nil {
		return nil
	}
	before := int64(math.MaxInt64)
	for i := range maxMemoryRounds {
		began := time.Now()
		of := int64(0)
		if i == 0 {
			of = m.need.RAM
		}
		m.shown.stage(of, "copying the memory%s", nth("round", i))
		if err := m.memoryRound(ctx); err != nil {
			return fmt.Errorf("copy the memory of container %d: %w", m.spec.ID, err)
		}
		s := m.rounds.send.Stats()
		if before := m.rounds.lastTook; i > 0 && before > 0 {
			m.rounds.dirty = float64(s.Bytes) / before.Seconds()
		}
		m.rounds.rest, m.rounds.size, m.rounds.lastTook = s.Bytes, int64(s.Pages)*memory.PageSize, time.Since(began)
		if i == 0 {
			m.rounds.all, m.rounds.full, m.rounds.took = s.Bytes, m.rounds.size, time.Since(began)
			continue
		}
		if s.Bytes < smallRest || s.Bytes > before/4*3 {
			break
		}
		before = s.Bytes
	}
	return nil
}

func (m *move) memoryRound(ctx context.Context) error {
	pids, err := m.Host.PIDs(m.spec.ID)
	if err != nil {
		return err
	}
	if err := m.s.send(msgMemory, passMsg{}); err != nil {
		return err
	}
	w := bulkWriter{m.s}
	m.rounds.send.Begin(w, false)
	err = m.rounds.Round(ctx, pids, func(space memory.Space, first uint64, data []byte) error {
		if m.later && space.Shared() {
			return nil // a part of the checkpoint
		}
		return m.rounds.send.Pages(space, first, data, 0)
	})
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return m.s.expect(msgPassDone, nil, m.op.To)
}

// pages is where the dump sends its pages; nil means into files.
func (m *move) pages() *runtime.Pages {
	if m.rounds == nil {
		return nil
	}
	serve := func(criu io.ReadWriter) error {
		w := &lastMemory{m: m}
		m.rounds.send.Begin(w, true)
		err := m.rounds.Serve(criu, m.rounds.send)
		err = errors.Join(err, w.close(err))
		m.rounds.taken <- err
		return err
	}
	return &runtime.Pages{Serve: serve, Marked: m.rounds.Tracks()}
}

// lastMemory sends the last pass over the memory. It begins with the first byte, and waits for the layer's last pass if
// that is under way.
type lastMemory struct {
	m     *move
	begun bool
}

func (l *lastMemory) Write(p []byte) (int, error) {
	if !l.begun {
		l.begun = true
		l.m.rounds.wire.Lock()
		if err := l.m.s.send(msgMemory, passMsg{Last: true}); err != nil {
			return 0, err
		}
	}
	return bulkWriter{l.m.s}.Write(p)
}

// close ends the pass; one that failed is left open, and the connection with it.
func (l *lastMemory) close(failed error) error {
	if !l.begun {
		return nil
	}
	defer l.m.rounds.wire.Unlock()
	if failed != nil {
		return nil
	}
	return bulkWriter{l.m.s}.Close()
}

func (a *arrival) closePages() {
	if a.pages != nil {
		_ = a.pages.Close()
	}
}

// memory takes a pass over the memory.
func (a *arrival) memory(body []byte, room *budget) error {
	var msg passMsg
	if err := json.Unmarshal(body, &msg); err != nil {
		return fmt.Errorf("read a message of %s: %w", a.peer, err)
	}
	if err := a.Hook.at(PointTargetMemory, a.op.ID); err != nil {
		return err
	}
	if a.Memory == nil || !a.prepared() {
		return fmt.Errorf("host %s sent memory, which %s did not prepare for", a.peer, a.Name)
	}
	if a.pages == nil {
		if err := a.openPages(room); err != nil {
			return err
		}
	}
	in := &bulkReader{s: a.s}
	if err := a.pages.Receive(in, msg.Last); err != nil {
		return fmt.Errorf("receive the memory of container %d: %w", a.spec.ID, err)
	}
	if err := in.drain(); err != nil {
		return err
	}
	if msg.Last {
		a.clock.lap("memory")
		return nil
	}
	return a.s.send(msgPassDone, doneMsg{})
}

// lastPass sends the layer's last changes while the dump, which sends pages, is under way.
func (m *move) lastPass(ctx context.Context) error {
	if m.rounds != nil {
		m.rounds.wire.Lock()
		defer m.rounds.wire.Unlock()
	}
	if !m.live {
		m.shown.stage(0, "copying the rest of the layer")
	}
	_, err := m.pass(ctx, true)
	return err
}
