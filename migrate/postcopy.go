package migrate

import (
	"context"
	"fmt"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate/memory"
)

// Answerer answers questions for pages of a copy that was frozen and handed over; memory.Answerer implements it.
type Answerer interface {
	Answer(question []byte) ([]byte, error)
}

// Lacking is the memory of a copy that runs without most of it; memory.Lazy implements it.
type Lacking interface {
	// Take takes an answer of the source, Lose is told that no more will come. Nobody who waits for memory goes on then.
	Take(answer []byte) error
	Lose(err error)
	// Err returns why it cannot become complete, nil if it can.
	Err() error
	// Rest returns nil when all of the memory is there; from then on the copy is like any other.
	Rest(ctx context.Context) error
	// Close lets go of the processes, which must have ended unless Rest has returned nil.
	Close() error
}

// laterDir is where the target keeps, in the images folder, the memory that came before the freeze.
const laterDir = "rounds"

// answerLater begins to answer the target's questions, which come at any time from the restore on.
func (m *move) answerLater() error {
	if !m.later {
		return nil
	}
	pids, err := m.Host.PIDs(m.spec.ID)
	if err != nil {
		return err
	}
	send := memory.NewSender()
	if m.rounds != nil {
		send = m.rounds.send
	}
	answers, err := m.Answers(send, pids)
	if err != nil {
		return err
	}
	m.s.split(msgWant, func(question []byte) error {
		answer, err := answers.Answer(question)
		if err != nil {
			return err
		}
		return m.s.post(msgPages, answer)
	}, func(error) { m.hangUp() }) // the target must not wait for an answer that never comes
	return nil
}

// untilComplete returns when the target has all of the memory of the copy that stands still here, or never will.
func (m *move) untilComplete() error {
	if !m.later {
		return nil
	}
	m.shown.stage(0, "on %s, the rest of the memory follows", m.op.To)
	err := m.s.expect(msgWhole, nil, m.op.To)
	if err != nil {
		m.Log.Error("the target did not get all of the container's memory", "container", m.spec.ID, "error", err)
	}
	m.clock.lap("memory later")
	return err
}

// later says that most of the memory comes when the copy runs.
func (a *arrival) later() bool { return a.op.Mode == cluster.ModePostCopy }

// restoreLazily restores the copy without most of its memory, which is looked after from the first of its processes on.
func (a *arrival) restoreLazily(ctx context.Context) (err error) {
	id := a.spec.ID
	a.lacking, err = a.Lazy(id, a.images, a.pages, func(question []byte) error { return a.s.post(msgWant, question) }, func(lost error) {
		a.Log.Error("a copy that lacks memory is ended", "container", id, "error", lost)
		if err := a.Host.Kill(context.WithoutCancel(ctx), id); err != nil {
			a.Log.Error("end a copy that lacks memory", "container", id, "error", err)
		}
	})
	if err != nil {
		return err
	}
	a.s.split(msgPages, a.lacking.Take, a.lacking.Lose)
	return a.Host.RestoreLazily(ctx, a.spec, a.images)
}

// bringRest brings what the running copy lacks, and tells the source that it is not needed any more.
func (a *arrival) bringRest(ctx context.Context) error {
	if a.lacking == nil {
		return nil
	}
	if err := a.Hook.at(PointTargetLacking, a.op.ID); err != nil {
		return err
	}
	began := time.Now()
	if err := a.lacking.Rest(ctx); err != nil {
		return err
	}
	a.complete = true
	a.Log.Info("all of the memory is here", "container", a.spec.ID, "after", time.Since(began))
	if err := a.Hook.at(PointTargetWhole, a.op.ID); err != nil {
		return err
	}
	return a.s.send(msgWhole, struct{}{})
}

// abandon ends a copy that will not get its memory, before anything else is done.
func (a *arrival) abandon(ctx context.Context, why error) error {
	if a.lacking == nil || a.complete {
		return nil
	}
	a.lacking.Lose(why)
	if err := a.Host.Kill(context.WithoutCancel(ctx), a.spec.ID); err != nil {
		return fmt.Errorf("end a copy that lacks memory: %w", err)
	}
	a.dead = true
	return nil
}

// letGo ends what looks after the memory, at the very end. A copy that lacks memory and could not be ended waits for it for ever,
// until this agent ends, and its guard ends the copy.
func (a *arrival) letGo() {
	if a.lacking == nil || !a.complete && !a.dead {
		return
	}
	if err := a.lacking.Close(); err != nil {
		a.Log.Warn("what looked after the memory of a copy does not end", "container", a.spec.ID, "error", err)
	}
}
