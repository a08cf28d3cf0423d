package agent

import (
	"context"
	"errors"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// maxTries is how often a plan tries to move the same container to the same host.
const maxTries = 3

// toTryAgain are the moves of a plan that a fault has ended, as the restart of an agent, and that can still be made. What
// a container or a policy does not allow is not tried again.
func (m *member) toTryAgain(plan *cluster.Operation) (moves []cluster.Move) {
	s, tries := m.store.State(), map[int]int{}
	for _, step := range plan.Steps {
		if step.Status == cluster.StepFailed {
			tries[step.Container]++
		}
	}
	for _, step := range latest(plan.Steps) {
		c, op := s.Container(step.Container), s.Operation(step.Operation)
		if step.Status != cluster.StepFailed || tries[step.Container] >= maxTries || c == nil || c.Host != step.From || op == nil || op.Refused {
			continue
		}
		step.Operation, step.Status, step.Reason = "", "", ""
		moves = append(moves, step)
	}
	return moves
}

// abortLost gives up the migrations of hosts that have been down for long: nobody else would, and plans wait for them. One
// that is committed goes forward when its target is back.
func (m *member) abortLost(ctx context.Context, deadSince map[string]time.Time) error {
	for host, since := range deadSince {
		if time.Since(since) < m.timing.DeadHost {
			continue
		}
		if err := m.abortMovesOf(ctx, host); err != nil {
			return err
		}
	}
	return nil
}

// abortMovesOf gives up the migrations from and to a host that is down.
func (m *member) abortMovesOf(ctx context.Context, host string) error {
	for _, op := range m.store.State().Operations() {
		if op.Kind != cluster.OpMigrate || op.Status != cluster.OpRunning || op.From != host && op.To != host {
			continue
		}
		_, err := m.apply(ctx, cluster.AbortMigration{Operation: op.ID, Reason: "host " + host + " went down", At: time.Now().UTC()})
		if err != nil && !errors.Is(err, cluster.ErrStale) {
			return err
		}
		m.spread()
	}
	return nil
}

// latest are the last steps of a plan for each of its containers, in their order.
func latest(steps []cluster.Move) (out []cluster.Move) {
	last := map[int]int{}
	for i, step := range steps {
		last[step.Container] = i
	}
	for i, step := range steps {
		if last[step.Container] == i {
			out = append(out, step)
		}
	}
	return out
}

// awaitHosts waits for hosts that are down, for as long as the restart of an agent may take. One that has been missed for
// longer is not waited for again.
func (m *member) awaitHosts(ctx context.Context, plan string, hosts ...string) {
	for _, host := range hosts {
		for !m.alive(host) && m.runs(plan) {
			since, _ := m.missed.LoadOrStore(host, time.Now())
			if time.Since(since.(time.Time)) >= m.timing.DeadHost {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(m.timing.Retry):
			}
		}
		if m.alive(host) {
			m.missed.Delete(host)
		}
	}
}
