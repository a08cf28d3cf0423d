package migrate

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate/memory"
)

// defaultFixed is the part of a blackout that does not depend on the size of the memory, for a container that has never
// moved: a small Debian with systemd on a slow host.
const defaultFixed = time.Second

// minRate is assumed when nothing was measured, bytes per second.
const minRate = 100 << 20

// prediction is how long the container is going to stand still.
type prediction struct {
	fixed  time.Duration // learned from its last move, or the default
	memory time.Duration // to read all of it, to send the rest, to restore all of it
}

func (p prediction) total() time.Duration { return p.fixed + p.memory }

// memoryTime is what the size of the memory adds to the blackout, by what the rounds have measured: the dump reads what the
// last round has read, and the restore all of it, as quickly; what changed crosses the wire as quickly as in the first round.
func (r *rounds) memoryTime() time.Duration {
	if r == nil {
		return 0
	}
	return at(r.size+max(r.size, r.full), r.size, r.lastTook) + at(r.rest, r.all, r.took)
}

// at is the time for some bytes if others took that long.
func at(bytes, others int64, took time.Duration) time.Duration {
	rate := float64(minRate)
	if took > 0 && others > memory.PageSize {
		rate = max(rate, float64(others)/took.Seconds())
	}
	return time.Duration(float64(bytes) / rate * float64(time.Second))
}

// predict refuses a migration whose blackout is going to be longer than is wanted.
func (m *move) predict(context.Context) error {
	if !m.live {
		return nil
	}
	m.predicted = prediction{fixed: defaultFixed}
	if !m.later {
		m.predicted.memory = m.rounds.memoryTime()
	}
	if m.LastMove != nil {
		if last := m.LastMove(m.op.Container); last != nil && last.FixedMS > 0 {
			m.predicted.fixed = time.Duration(last.FixedMS * float64(time.Millisecond))
		}
	}
	if budget := m.budget(); budget > 0 && m.predicted.total() > budget {
		return fmt.Errorf("%w: it would stand still for about %s, of which %s are due to its memory, and at most %s are wanted",
			ErrRefused, roughly(m.predicted.total()), roughly(m.predicted.memory), budget)
	}
	return nil
}

func roughly(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

// budget is the longest blackout that is wanted; zero: any.
func (m *move) budget() time.Duration { return time.Duration(m.op.MaxDowntimeMS) * time.Millisecond }

// deadline ends a migration whose container has stood still for as long as is wanted.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	allowed bool // the target may commit: only the ledger can stop it
	late    bool
}

// watch begins with the freeze. Before the target may commit, it is enough to hang up; later the abort must win against the
// commit. A commit that was first stands, and the result says how long it took.
func (m *move) watch(ctx context.Context) {
	budget := m.budget()
	if budget == 0 || !m.live {
		return
	}
	d := &m.deadline
	d.timer = time.AfterFunc(budget, func() {
		d.mu.Lock()
		allowed := d.allowed
		d.mu.Unlock()
		if allowed {
			if fate, err := m.Ledger.Abort(ctx, m.op.ID, m.tooLong().Error()); err != nil || fate != Aborted {
				return
			}
		}
		d.mu.Lock()
		d.late = true
		d.mu.Unlock()
		m.hangUp()
	})
}

func (m *move) tooLong() error {
	return fmt.Errorf("%w: it had stood still for %s, and at most that is wanted", ErrRefused, m.budget())
}

// inTime replaces an error that only follows from the deadline, and ends the watch.
func (m *move) inTime(err error) error {
	d := &m.deadline
	if d.timer != nil {
		d.timer.Stop()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.late && err != nil {
		return fmt.Errorf("%w (%w)", m.tooLong(), err)
	}
	return err
}

// budgeted adds to a result what was predicted and wanted.
func (m *move) budgeted(r *cluster.MoveResult) {
	if !m.live {
		return
	}
	r.PredictedMS, r.MaxDowntimeMS = milliseconds(m.predicted.total()), m.op.MaxDowntimeMS
	r.FixedMS = max(r.BlackoutMS-milliseconds(m.predicted.memory), r.BlackoutMS/10)
	r.Layer = m.need.Disk
	if m.rounds != nil {
		r.Memory, r.DirtyRate = m.rounds.full, m.rounds.dirty
	}
}
