package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate/transfer"
)

// A connection that breaks before anything is frozen is made again, and the copy goes on where it was: maxDials times
// at most, with a pause that doubles.
const (
	maxDials   = 6
	firstPause = 200 * time.Millisecond
)

// copyOver reaches the target and copies the private layer while the container runs.
func (m *move) copyOver(ctx context.Context) error {
	pause := firstPause
	for {
		err := m.tryCopy(ctx)
		var lost *lostError
		var there *remoteError
		// After a first try, the target may say no only because it has not noticed yet that the connection broke.
		again := errors.As(err, &lost) || m.dialled > 1 && errors.As(err, &there)
		if err == nil || !again || m.dialled >= maxDials {
			return err
		}
		m.Log.Warn("the connection of a migration broke and is made again", "operation", m.op.ID, "container", m.op.Container, "error", err)
		m.hangUp()
		if m.s != nil {
			m.s, m.sent = nil, m.s.n
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause *= 2
	}
}

func (m *move) tryCopy(ctx context.Context) error {
	if err := m.Hook.at(PointSourceHello, m.op.ID); err != nil {
		return err
	}
	if m.s == nil { // it broke
		if err := m.dial(ctx); err != nil {
			return err
		}
	}
	if err := m.hello(); err != nil {
		return err
	}
	m.clock.lap("hello")
	if err := m.Hook.at(PointSourceCopy, m.op.ID); err != nil {
		return err
	}
	if err := m.sendSaved(ctx); err != nil {
		return err
	}
	if err := m.copyWhileRunning(ctx); err != nil {
		return err
	}
	m.clock.lap("copy")
	return nil
}

func (m *move) dial(ctx context.Context) error {
	m.dialled++
	conn, err := m.Dial(ctx, m.op.To)
	if err != nil {
		return &lostError{"reach host " + m.op.To, err}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conn, m.s = conn, newStream(conn)
	m.s.n, m.s.sent = m.sent, m.shown.sent
	if ctx.Err() != nil {
		conn.Close()
	}
	return nil
}

// hangUp closes the connection, if there is one.
func (m *move) hangUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.conn.Close()
	}
}

// hello names the operation, and finds out what the target has of the layer already.
func (m *move) hello() error {
	msg := helloMsg{Version: Version, Operation: m.op.ID, Session: fmt.Sprintf("%s.%d", m.op.ID, m.dialled)}
	old := m.common
	if old != nil {
		msg.Base = old.session
	}
	if m.Offer != nil {
		offer, err := m.Offer(m.spec.ID, m.live)
		offer.Later = m.later
		if err != nil {
			return err
		}
		msg.Offer, m.need = &offer, offer.Need
	}
	m.shown.stage(0, "asking %s", m.op.To)
	if err := m.s.send(msgHello, msg); err != nil {
		return err
	}
	ready, err := m.ready()
	if err != nil {
		return err
	}
	m.common = &shared{session: msg.Session}
	if old != nil && ready.Base == old.session {
		m.common.done = old.base(ready.Passes, ready.Entries)
	}
	return nil
}

// ready waits until the target can take the container.
func (m *move) ready() (ready readyMsg, err error) {
	for {
		k, body, err := m.s.receive()
		if err != nil {
			return ready, err
		}
		var fetch fetchMsg
		if k != msgFetch {
			return ready, m.s.is(k, body, msgReady, &ready, m.op.To)
		}
		if err := m.s.is(k, body, msgFetch, &fetch, m.op.To); err != nil {
			return ready, err
		}
		m.shown.stage(0, "%s gets the template, %s", m.op.To, cluster.Bytes(fetch.Size))
	}
}

// pass sends what changed in the private layer since the pass before. In the last one the container stands still.
func (m *move) pass(ctx context.Context, last bool) (int64, error) {
	layer, err := m.Host.Layer(m.spec.ID)
	if err != nil {
		return 0, err
	}
	if err := m.s.send(msgPass, passMsg{last}); err != nil {
		return 0, err
	}
	w := bulkWriter{m.s}
	next, stats, err := m.Copy.Send(ctx, w, layer, m.common.done, last)
	m.common.broken, m.common.frozen, m.common.whole = next, last, err == nil
	if err != nil {
		return 0, fmt.Errorf("copy the private layer of container %d: %w", m.spec.ID, err)
	}
	return stats.Bytes, w.Close()
}

func (m *move) passDone() error {
	var done doneMsg
	if err := m.s.expect(msgPassDone, &done, m.op.To); err != nil {
		return err
	}
	m.common = &shared{session: m.common.session, passes: m.common.passes + 1, done: m.common.broken}
	return nil
}

func (m *move) copyWhileRunning(ctx context.Context) error {
	if m.op.Mode == cluster.ModeOffline { // nothing is copied while it runs
		if err := m.freeze(ctx); err != nil {
			return err
		}
	}
	for i := range maxPasses {
		of := int64(0) // of what has changed, nobody knows how much it is
		if m.common.done == nil {
			of = m.need.Disk
		}
		m.shown.stage(of, "copying the layer%s", nth("pass", i))
		n, err := m.pass(ctx, false)
		if err != nil {
			return err
		}
		if err := m.passDone(); err != nil {
			return err
		}
		if n < smallDelta {
			break
		}
	}
	return nil
}

// leave takes the container off this host after it was handed over. Its layer is kept aside for a while if there is
// room: it may come back.
func (m *move) leave(ctx context.Context) {
	last := &shared{session: m.common.session, done: m.common.broken, memory: m.kept}
	m.kept = nil // the shelf's, whatever comes of it
	kept, err := m.Shelf.park(ctx, m.spec.ID, last)
	if !kept {
		err = errors.Join(err, m.Host.Destroy(ctx, m.spec.ID))
	}
	if err != nil {
		m.Log.Error("remove the source's copy", "container", m.spec.ID, "error", err)
	}
}

// keep notes, on the target, what is shared with the source of a layer that is now a container's here.
func (a *arrival) keep() {
	a.Shelf.put(a.spec.ID, &shared{session: a.session, done: a.have})
}

// park keeps aside what came of a layer whose migration failed before the commit was asked for: the source may try
// again, or only the connection broke.
func (a *arrival) park(ctx context.Context) (bool, error) {
	if a.have == nil || a.passes == 0 && a.have.Ended() == 0 {
		return false, nil
	}
	return a.Shelf.park(ctx, a.spec.ID, &shared{session: a.session, passes: a.passes, done: a.have})
}

// welcome makes the layer that was kept aside the container's, if the source knows it, and says how much of it is what
// the source thinks.
func (a *arrival) welcome(ctx context.Context, hello helloMsg) (readyMsg, error) {
	a.session = hello.Session
	k, err := a.Shelf.unpark(ctx, a.spec.ID, hello.Base)
	if err != nil {
		return readyMsg{}, err
	}
	if k == nil { // what is there is none that the source knows
		return readyMsg{}, a.Host.Destroy(ctx, a.spec.ID)
	}
	a.have, a.kept = k.done, k.memory
	return readyMsg{Base: k.session, Passes: k.passes, Entries: k.done.Ended()}, nil
}

// ended counts a pass that is complete.
func (a *arrival) ended(have *transfer.Manifest, err error) {
	a.have = have
	if err == nil {
		a.passes++
	}
}
