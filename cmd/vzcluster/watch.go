package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// watchEvery is how often a migration is looked at, for a line that moves.
const watchEvery = 250 * time.Millisecond

// follow waits until an operation has ended and calls back for every state of it that it sees, the last one included.
func (e *env) follow(ctx context.Context, cl *api.Client, op cluster.Operation, saw func(cluster.Operation)) (cluster.Operation, error) {
	ask := func() (api.Operation, error) {
		next, err := cl.Operation(ctx, op.ID, time.Second)
		return api.Operation{Operation: next}, err
	}
	return e.followBy(ctx, op, ask, func(op api.Operation) { saw(op.Operation) })
}

func (e *env) followBy(ctx context.Context, op cluster.Operation, ask func() (api.Operation, error), saw func(api.Operation)) (cluster.Operation, error) {
	now := api.Operation{Operation: op}
	for {
		saw(now)
		if now.Final() || op.ID == "" { // an operation with nothing to do may have no record
			return now.Operation, nil
		}
		asked := time.Now()
		next, err := ask()
		if err == nil && !next.Final() && time.Since(asked) < 100*time.Millisecond {
			err = e.pause(ctx, 200*time.Millisecond) // an agent that answers at once shall not be asked without end
		}
		if err != nil {
			e.progress("it goes on without being watched; `vzcluster operation show %s` shows how far it is", op.ID)
			return now.Operation, err
		}
		now = next
	}
}

// followMove follows a migration and shows how far it is: on a terminal in one line that changes, else in a line per stage.
// Formats for programs show nothing.
func (e *env) followMove(ctx context.Context, c *cli.Context, cl *api.Client, what string, op cluster.Operation) (cluster.Operation, error) {
	m := &meter{e: e, what: fmt.Sprintf("%s: %s -> %s", what, op.From, op.To), live: e.terminal(e.stderr)}
	saw := m.show
	if !forPeople(c) {
		saw = func(api.Operation) {}
	}
	op, err := e.followBy(ctx, op, func() (api.Operation, error) {
		next, err := cl.Watch(ctx, op.ID, watchEvery)
		if err != nil {
			m.clear()
		}
		return next, err
	}, saw)
	m.clear()
	return op, err
}

// meter shows a migration's progress on stderr.
type meter struct {
	e     *env
	what  string
	live  bool   // rewrite one line
	shown int    // stages
	last  string // line
}

func (m *meter) show(op api.Operation) {
	if op.Progress == nil {
		return
	}
	stages := op.Progress.Stages
	if m.live {
		if n := len(stages); n > 0 && !op.Final() {
			m.rewrite(m.what + ", " + stageText(stages[n-1]))
		}
		return
	}
	m.shown = min(m.shown, len(stages)) // another agent has taken over
	for _, s := range stages[m.shown:] {
		m.e.progress("%s, %s", m.what, s.Name)
	}
	m.shown = len(stages)
}

// lineWidth is how much of the line is used: a longer one would not be rewritten but scroll.
const lineWidth = 79

func (m *meter) rewrite(line string) {
	if text := []rune(line); len(text) > lineWidth {
		line = string(text[:lineWidth-1]) + "…"
	}
	if line != m.last {
		m.last = line
		fmt.Fprintf(m.e.stderr, "\r%s\x1b[K", line)
	}
}

// clear takes the line away, for what comes next.
func (m *meter) clear() {
	if m.last != "" {
		fmt.Fprint(m.e.stderr, "\r\x1b[K")
		m.last = ""
	}
}

// stageText is a stage with how much it has sent.
func stageText(s cluster.Stage) string {
	switch {
	case s.Of > 0:
		return fmt.Sprintf("%s, %s of %s", s.Name, mega(min(s.Bytes, s.Of)), mega(s.Of))
	case s.Bytes > 0:
		return fmt.Sprintf("%s, %s", s.Name, mega(s.Bytes))
	}
	return s.Name
}

// mega prints bytes that change while one looks.
func mega(n int64) string { return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20) }

// underWay is the stage of a migration, "" if none is known.
func underWay(p *cluster.Progress) string {
	if p == nil || len(p.Stages) == 0 {
		return ""
	}
	return stageText(p.Stages[len(p.Stages)-1])
}

// watch follows an operation that somebody has begun.
func (e *env) watch(ctx context.Context, c *cli.Context, cl *api.Client) error {
	op, err := cl.Operation(ctx, c.Args().First(), 0)
	if err != nil {
		return err
	}
	if op.Kind == cluster.OpMigrate {
		op, err = e.followMove(ctx, c, cl, fmt.Sprint(op.Container), op)
	} else {
		op, err = e.followPlan(ctx, cl, op)
	}
	if err != nil {
		return err
	}
	if err := e.show(c, op, operationRecord(api.Operation{Operation: op})); err != nil {
		return err
	}
	return opError(op, "operation "+op.ID)
}
