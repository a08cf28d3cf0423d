package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler"
)

// Room that could not be made is made again after a while, each time a longer one.
const (
	preemptAgain = 10 * time.Second
	preemptRest  = 10 * time.Minute
	preemptLook  = 3 * time.Second // between two looks for moves, when there were none
	preemptTries = 8               // containers for which one round looks for moves
)

// mayPreempt reports whether lower ones may be moved for a container.
func mayPreempt(c *cluster.Container) bool { return c.Rules.Preempt != cluster.PreemptNever }

// canMakeRoom reports whether the whole order would have room after moves of lower ones. What was asked onto one host and
// finds no room there is refused: that wish is not kept while a container waits.
func (o *order) canMakeRoom(room *scheduler.Preempter) bool {
	for _, item := range o.items {
		c := &o.specs[item.Spec]
		if d := room.Place(request(c, item.Host)); d.Host != "" {
			room.Put(d)
		} else if item.Host != "" || !mayPreempt(c) || room.MakeRoom(request(c, "")).Host == "" {
			return false
		}
	}
	return true
}

// preempter is what the hosts have, to be changed by moves that make room.
func (m *member) preempter(silent ...string) *scheduler.Preempter {
	snap := m.snapshot("")
	for i, h := range snap.Hosts {
		snap.Hosts[i].Alive = h.Alive && !slices.Contains(silent, h.Name)
	}
	return scheduler.NewPreempter(snap)
}

// roomMaking is one look at the containers that wait.
type roomMaking struct {
	room   *scheduler.Preempter // nil until it is needed
	lowest int                  // priority of all containers
	tries  int                  // that are left: each may take some milliseconds
}

func (m *member) newRoomMaking() *roomMaking {
	maps.DeleteFunc(m.noRoomFor, func(_ int, at time.Time) bool { return time.Since(at) > preemptLook })
	making := &roomMaking{lowest: cluster.MaxPriority, tries: preemptTries}
	for _, c := range m.store.State().Containers() {
		making.lowest = min(making.lowest, c.Rules.Priority)
	}
	return making
}

// preempt begins a plan that makes room for a container which waits, if lower ones can be moved away for it. It returns
// why the container waits, now.
func (m *member) preempt(ctx context.Context, making *roomMaking, c *cluster.Container, why string) (string, error) {
	s, now := m.store.State(), time.Now()
	if op := s.PreemptionFor(c.ID); op != nil {
		return waitsFor(op), nil
	}
	if !mayPreempt(c) || c.Rules.Priority <= making.lowest {
		return why, nil
	}
	if slices.ContainsFunc(s.Operations(), func(o *cluster.Operation) bool { return o.IsPlan() && o.Active() }) {
		return why + "; whether moving lower ones helps is seen after the plan that is under way", nil
	}
	if again := mayTryAgain(s, c); now.Before(again) {
		return fmt.Sprintf("%s; room could not be made for it, that is tried again after %s", why, again.Format(time.RFC3339)), nil
	}
	if making.tries == 0 || now.Sub(m.noRoomFor[c.ID]) < preemptLook {
		return why, nil
	}
	making.tries--
	if making.room == nil {
		making.room = m.preempter()
	}
	made := making.room.MakeRoom(request(c, ""))
	if made.Host == "" {
		m.noRoomFor[c.ID] = now
		return why, nil
	}
	op := cluster.Operation{
		ID: newOperationID(), Kind: cluster.OpPreempt, Container: c.ID, Host: made.Host, Automatic: true, Started: now.UTC(),
		Steps: made.Moves, Why: fmt.Sprintf("%s for %s, whose priority is %d", made.Why, c.Ref(), c.Rules.Priority), Width: api.DefaultParallel,
	}
	begun, err := applyHere[*cluster.Operation](ctx, m, cluster.BeginPlan{Operation: op})
	switch {
	case errors.Is(err, cluster.ErrConflict), errors.Is(err, cluster.ErrNotFound), errors.Is(err, cluster.ErrStale):
		return why, nil // decided anew at the next change
	case err != nil:
		return why, err
	}
	m.log.Info("room is made for a container that waits", "container", c.Name, "host", op.Host, "moves", len(op.Steps), "operation", op.ID)
	return waitsFor(begun), nil
}

func waitsFor(op *cluster.Operation) string {
	return fmt.Sprintf("it waits for plan %s that makes room on %s by %s of lower priority", op.ID, op.Host, movesText(len(op.Steps)))
}

func movesText(n int) string {
	if n == 1 {
		return "moving 1 container"
	}
	return fmt.Sprintf("moving %d containers", n)
}

// mayTryAgain is when room may be made again for a container. It is read off the plans that did not succeed, so that a new
// leader knows it too.
func mayTryAgain(s *cluster.State, c *cluster.Container) (at time.Time) {
	wait := preemptAgain
	for _, op := range s.Operations() {
		if op.Kind != cluster.OpPreempt || op.Container != c.ID || !op.Final() {
			continue
		}
		switch op.Status {
		case cluster.OpDone:
			at, wait = time.Time{}, preemptAgain
			continue
		case cluster.OpAborted: // somebody has stopped it
			wait = preemptRest
		}
		at = op.Ended.Add(wait)
		wait = min(2*wait, preemptRest)
	}
	return at
}

// spokenFor is the room on hosts that is being made for containers which wait: nobody else gets it.
func spokenFor(s *cluster.State) map[string]cluster.Resources {
	spoken := map[string]cluster.Resources{}
	for _, op := range s.Preemptions() {
		if c := s.Container(op.Container); c != nil && c.Waits() {
			spoken[op.Host] = spoken[op.Host].Add(c.Need())
		}
	}
	return spoken
}

// pointless says why a plan that makes room makes no sense any more, "" when it does.
func (m *member) pointless(plan *cluster.Operation) string {
	s := m.store.State()
	c, h := s.Container(plan.Container), s.Host(plan.Host)
	switch {
	case c == nil:
		return "the container that room was made for is gone"
	case !c.Waits():
		return c.Name + " has found room on " + c.Host
	case h == nil || h.State != cluster.HostActive:
		return plan.Host + " takes no containers any more"
	case !m.alive(plan.Host):
		return plan.Host + ", where room was made, is down"
	}
	return ""
}

// useRoom puts the container onto the host that has room for it now, and ends the plan.
func (m *member) useRoom(ctx context.Context, plan *cluster.Operation) error {
	m.placing.Lock()
	defer m.placing.Unlock()
	c := m.store.State().Container(plan.Container)
	if why := m.pointless(plan); why != "" {
		status := cluster.OpDone
		if c != nil && c.Waits() {
			status = cluster.OpFailed
		}
		return m.endPlan(ctx, plan.ID, status, why)
	}
	if !m.answers(ctx, plan.Host) {
		return m.endPlan(ctx, plan.ID, cluster.OpFailed, plan.Host+" does not answer")
	}
	why := fmt.Sprintf("plan %s made room for it on %s: %s", plan.ID, plan.Host, plan.Why)
	_, err := m.apply(ctx, cluster.PlaceContainer{ID: plan.Container, Host: plan.Host, Why: why, At: time.Now().UTC()})
	switch {
	case errors.Is(err, cluster.ErrNoFit):
		why = "there is no room on " + plan.Host + " for " + c.Ref() + " yet"
		if left := withdrawnText(plan); left != "" {
			why += "; " + left
		}
		return m.endPlan(ctx, plan.ID, cluster.OpFailed, why)
	case errors.Is(err, cluster.ErrStale), errors.Is(err, cluster.ErrNotFound):
		return m.endPlan(ctx, plan.ID, cluster.OpDone, "the container has found room elsewhere, or is gone")
	case err != nil:
		return err
	}
	return m.endPlan(ctx, plan.ID, cluster.OpDone, withdrawnText(plan))
}
