package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate/memory"
	"github.com/vzcluster/vzcluster/runtime"
)

// simAgent is one life of a host's agent. It implements Agent and Cluster.
type simAgent struct {
	h       *simHost
	ctx     context.Context
	cancel  context.CancelFunc
	dead    bool
	stalled time.Time // it stands still until then
	mover   *Mover
	changed chan struct{}
	asked   map[string]int

	poked chan struct{}
	step  chan struct{} // closed when reconciliation's step under way has ended; nil between steps
}

// start starts an agent, with a replica that may be behind.
func (h *simHost) start() {
	s := h.s
	h.life++
	h.replica = s.rng.IntN(len(s.log))
	if s.chance(50) {
		h.replica = len(s.log) - 1
	}
	a := &simAgent{h: h, changed: make(chan struct{}), poked: make(chan struct{}, 1), asked: map[string]int{}}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	h.agent = a
	disk, log, ledger := agentDisk{a}, slog.New(slog.DiscardHandler), &ClusterLedger{Host: h.name, Cluster: a}
	source := &Source{
		Host: kernel{a, "source: "}, Ledger: ledger, Copy: kernel{a, "source: "}, Disk: disk, Dir: simDir, Log: log, Dial: a.dial,
		Spec: func(*cluster.Container) (runtime.Spec, error) { return spec(), nil },
	}
	target := &Target{
		Name: h.name, Host: kernel{a, "target: "}, Ledger: ledger, Copy: kernel{a, "target: "}, Fill: kernel{a, "target: "}, Disk: disk, Dir: simDir, Log: log,
		Spec: func(ctx context.Context, ct *cluster.Container) (runtime.Spec, error) {
			return spec(), a.Idle(ctx, ct.ID)
		},
	}
	source.Answers = func(*memory.Sender, []int) (Answerer, error) { return simAnswerer{kernel{a, "source: "}}, nil }
	target.Lazy = kernel{a, "target: "}.lazy
	a.mover = NewMover(a, source, target)
	go func() { _ = a.mover.Run(a.ctx) }()
	go a.reconcile()
}

// die kills the agent: its calls have no effect any more, and its connections end.
func (h *simHost) die() {
	a := h.agent
	if a == nil {
		return
	}
	s := h.s
	if h.ct != nil && h.ct.lacks { // the guard, which holds the memory too
		s.note("the guard ends the copy on %s", h.name)
		h.release()
	}
	s.mu.Lock()
	a.dead, h.agent = true, nil
	var others []*event
	for _, e := range s.parked {
		if e.agent != a {
			others = append(others, e)
		} else if e.dead != nil {
			e.dead()
		}
	}
	s.parked = others
	for _, c := range h.criu {
		c.answered = c.caller != a && c.answered || c.caller == a && len(c.answer) > 0
	}
	for _, c := range s.conns {
		for _, e := range c.ends {
			if e.agent == a {
				e.closed = true
				e.changed.Broadcast()
			}
		}
	}
	s.mu.Unlock()
	a.cancel()
}

// do has something done when the scheduler lets it.
func (a *simAgent) do(what string, f func() error) error {
	done := make(chan error, 1)
	e := &event{
		key: a.h.name + ": " + what, agent: a,
		run:  func() { done <- f() },
		dead: func() { done <- errDead },
	}
	if !a.h.s.park(e) {
		return errDead
	}
	return <-done
}

type asker struct{}

// ask sends a question to the leader and waits for the answer. The question arrives late, or never, or its answer
// does, and who asks may not live to see it.
func (a *simAgent) ask(ctx context.Context, what string, f func() (any, error)) (any, error) {
	type answer struct {
		v   any
		err error
	}
	s, got := a.h.s, make(chan answer, 1)
	who, _ := ctx.Value(asker{}).(string)
	what = who + what
	s.mu.Lock()
	a.asked[what]++
	key := fmt.Sprintf("%s.%d: %s %d", a.h.name, a.h.life, what, a.asked[what])
	dead := a.dead
	s.mu.Unlock()
	if dead {
		return nil, errDead
	}
	link := func() bool { return s.link(a.h.name, "L") }
	s.park(&event{key: key + " is asked", ready: link, run: func() {
		v, err := f()
		if err != nil {
			s.note("it is refused: %v", err)
		}
		if s.loseNext > 0 && s.chance(50) {
			s.loseNext--
			s.note("the answer is lost: %v", err)
			return
		}
		s.park(&event{key: key + " is answered", ready: link, agent: a, run: func() { got <- answer{v, err} }})
	}})
	select {
	case r := <-got:
		return r.v, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *simAgent) Apply(ctx context.Context, c cluster.Command) (any, error) {
	return a.ask(ctx, fmt.Sprintf("%T %v", c, commandOf(c)), func() (any, error) {
		s := a.h.s
		next, v, err := s.state().Apply(c)
		if next != s.state() {
			s.log = append(s.log, next)
		}
		return v, err
	})
}

// commandOf tells commands of the same type apart.
func commandOf(c cluster.Command) string {
	switch c := c.(type) {
	case cluster.CommitMigration:
		return c.Operation
	case cluster.AbortMigration:
		return c.Operation
	case cluster.FinishMigration:
		return c.Operation
	case cluster.ReportContainer:
		return string(c.State)
	}
	return ""
}

func (a *simAgent) Read(ctx context.Context, id int) (*cluster.Container, error) {
	v, err := a.ask(ctx, "read", func() (any, error) {
		if ct := a.h.s.state().Container(id); ct != nil {
			return ct, nil
		}
		return nil, cluster.ErrNotFound
	})
	if err != nil {
		return nil, err
	}
	return v.(*cluster.Container), nil
}

func (a *simAgent) State() *cluster.State { return a.h.s.log[a.h.replica] }

func (a *simAgent) Changed() <-chan struct{} { return a.changed }

func (a *simAgent) RestartDue(int) bool { return false }

func (a *simAgent) Poke(int) {
	select {
	case a.poked <- struct{}{}:
	default:
	}
}

func (a *simAgent) Idle(ctx context.Context, _ int) error {
	a.h.s.mu.Lock()
	step := a.step
	a.h.s.mu.Unlock()
	if step == nil {
		return nil
	}
	select {
	case <-step:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// confirmTimeout is how long reconciliation waits for the leader.
const confirmTimeout = 10 * time.Second

// reconcile does what agent/step.go does as far as migrations meet it: it removes a copy that is another host's, starts
// one that is this host's and does not run, and keeps away from one whose migration is under way.
func (a *simAgent) reconcile() {
	ctx := context.WithValue(a.ctx, asker{}, "reconcile: ")
	for a.ctx.Err() == nil {
		changed := a.changed
		step := make(chan struct{})
		a.h.s.mu.Lock()
		a.step = step
		a.h.s.mu.Unlock()
		pause := 30 * time.Second
		once, cancel := context.WithTimeout(ctx, confirmTimeout)
		if more, err := a.reconcileOnce(once); err != nil || more {
			pause = time.Second
		}
		cancel()
		a.h.s.mu.Lock()
		a.step = nil
		a.h.s.mu.Unlock()
		close(step)
		select {
		case <-a.ctx.Done():
		case <-changed:
		case <-a.poked:
		case <-time.After(pause):
		}
		select { // a select takes one of several at random, and the run must not depend on it
		case <-a.poked:
		default:
		}
	}
}

func (a *simAgent) reconcileOnce(ctx context.Context) (more bool, err error) {
	k := kernel{a, "reconcile: "}
	s := a.State()
	ct, op := s.Container(ctid), s.ActiveMigration(ctid)
	st, err := k.Status(ctid)
	if err != nil {
		return false, err
	}
	moving := a.mover.Busy(ctid) || op != nil
	switch {
	case moving || ct.Operation != "":
		if ct.Host == a.h.name && st.Running {
			return false, a.noteActed(ct)
		}
		return false, nil
	case ct.Host == a.h.name && a.h.acted > ct.Generation:
		return false, nil
	case ct.Host != a.h.name:
		if !st.Running && a.h.layer == nil && a.h.ct == nil {
			return false, nil
		}
		now, err := a.Read(ctx, ctid)
		if err != nil || now.Host == a.h.name || now.Operation != "" {
			return false, err
		}
		return false, k.Destroy(ctx, ctid)
	case st.Running:
		return false, a.noteActed(ct)
	case a.h.acted == ct.Generation: // its init ended by itself
		if ct.State == cluster.Failed {
			return false, nil
		}
		_, err := a.report(ctx, ct, cluster.Failed)
		return false, err
	}
	now, err := a.report(ctx, ct, cluster.Starting)
	if err != nil || now == nil || now.Operation != "" || now.Host != a.h.name || now.Generation != ct.Generation {
		return true, err
	}
	if err := k.Start(ctx, spec()); err != nil {
		return false, err
	}
	if err := a.noteActed(ct); err != nil {
		return false, err
	}
	_, err = a.report(ctx, ct, cluster.Running)
	return false, err
}

func (a *simAgent) noteActed(ct *cluster.Container) error {
	if a.h.acted == ct.Generation {
		return nil
	}
	return a.do("reconcile: note", func() error { a.h.acted = ct.Generation; return nil })
}

func (a *simAgent) report(ctx context.Context, ct *cluster.Container, state cluster.ContainerState) (*cluster.Container, error) {
	v, err := a.Apply(ctx, cluster.ReportContainer{ID: ctid, Host: a.h.name, Generation: ct.Generation, State: state})
	if errors.Is(err, cluster.ErrStale) {
		return nil, nil
	}
	now, _ := v.(*cluster.Container)
	return now, err
}
