package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler"
)

// habits is what a leader remembers so that nothing flaps: since when there has been a reason. A new leader begins anew.
type habits struct {
	reason time.Time            // since when a plan would have moves
	empty  map[string]time.Time // since when a host has been free
}

// automate does what the cluster does by itself: at most one plan, when there has been a reason for long enough, in its
// window, and not too soon after the last.
func (m *member) automate(ctx context.Context, h *habits, now time.Time) error {
	s := m.store.State()
	a := s.Automation().WithDefaults()
	if err := m.automatePower(ctx, h, a, now); err != nil {
		return err
	}
	if !a.Rebalance && !a.Consolidate || !a.Window.Open(now) || !m.mayBegin(s, a, now) {
		h.reason = time.Time{}
		return nil
	}
	op, plan := cluster.Operation{Kind: cluster.OpRebalance, Automatic: true}, scheduler.Plan{}
	if a.Consolidate {
		op.Kind, op.Park = cluster.OpConsolidate, a.Park
		plan = m.automaticConsolidation(s, a, now)
	} else {
		plan = scheduler.Rebalance(m.restful(a, now), a.Imbalance)
	}
	switch {
	case len(plan.Moves) == 0:
		h.reason = time.Time{}
		return nil
	case h.reason.IsZero():
		h.reason = now
	}
	if now.Sub(h.reason) < time.Duration(a.HoldMS)*time.Millisecond {
		return nil
	}
	h.reason = time.Time{}
	op.ID, op.Started, op.Steps, op.Why, op.Freed, op.Kept = newOperationID(), now.UTC(), plan.Moves, plan.Why, plan.Freed, plan.Kept
	_, err := applyHere[*cluster.Operation](ctx, m, cluster.BeginPlan{Operation: op})
	return err
}

// mayBegin reports whether no plan is under way and the last one has been over for long enough.
func (m *member) mayBegin(s *cluster.State, a cluster.Automation, now time.Time) bool {
	for _, op := range s.Operations() {
		if op.IsPlan() && (op.Active() || op.Final() && now.Sub(op.Ended) < time.Duration(a.CoolDownMS)*time.Millisecond) {
			return false
		}
	}
	return true
}

// restful is the cluster as a plan sees it that nobody asked for: what has come where it is only lately is left alone,
// containers as well as hosts that have only just been switched on or opened.
func (m *member) restful(a cluster.Automation, now time.Time) scheduler.Snapshot {
	snap := m.snapshot("")
	snap.Now, snap.Rest = now, time.Duration(a.RestMS)*time.Millisecond
	s := m.store.State()
	for i := range snap.Hosts {
		v := &snap.Hosts[i]
		if h := s.Host(v.Name); h != nil && now.Sub(h.Since) < snap.Rest {
			v.Fresh = true
		}
	}
	return snap
}

// automaticConsolidation frees one host at a time, if enough is spared afterwards. Containers that are to stay keep
// their host in use.
func (m *member) automaticConsolidation(s *cluster.State, a cluster.Automation, now time.Time) scheduler.Plan {
	plan := scheduler.Consolidate(m.restful(a, now), 1)
	if len(plan.Freed) != 1 || m.spare(s, plan.Freed[0]) < a.Spare {
		return scheduler.Plan{}
	}
	return plan
}

// spare is how much is free, in points of a hundred, on the hosts that take containers, without one; of memory or of cores,
// whichever is less.
func (m *member) spare(s *cluster.State, without string) int {
	var offer, used cluster.Resources
	for _, h := range s.Hosts() {
		used = used.Add(s.Reserved(h.Name))
		if h.Name != without && h.State == cluster.HostActive && m.alive(h.Name) {
			offer = offer.Add(s.Policy().Offer(h))
		}
	}
	left := func(offer, used int64) int {
		if offer <= 0 {
			return 0
		}
		return int(max(offer-used, 0) * 100 / offer)
	}
	return min(left(offer.RAM, used.RAM), left(offer.MilliCPU, used.MilliCPU))
}

// automatePower parks a host that has been free for long enough, and wakes one when containers wait for room or less
// than half of what is to be spared is left. Half: so that what was just parked is not woken by the next container.
func (m *member) automatePower(ctx context.Context, h *habits, a cluster.Automation, now time.Time) error {
	s := m.store.State()
	if !a.Park {
		h.empty = nil
		return nil
	}
	if why := m.shortage(s, a); why != "" {
		for _, host := range s.Hosts() {
			switch host.State {
			case cluster.HostWaking:
				return nil // one at a time
			case cluster.HostParked:
				if m.alive(host.Name) && now.Sub(host.Since) < 2*m.timing.DeadHost {
					return nil // it is on its way down, and would not hear that it is woken
				}
				return m.setHostState(ctx, host.Name, cluster.HostWaking, why)
			}
		}
	}
	since := map[string]time.Time{}
	for _, host := range s.Hosts() {
		if host.State != cluster.HostActive || host.Power.Method == "" || !m.alive(host.Name) || s.Reserved(host.Name) != (cluster.Resources{}) {
			continue
		}
		since[host.Name] = now
		if t, ok := h.empty[host.Name]; ok {
			since[host.Name] = t
		}
	}
	h.empty = since
	for _, host := range s.Hosts() {
		t, free := since[host.Name]
		if !free || now.Sub(t) < time.Duration(a.IdleMS)*time.Millisecond || m.spare(s, host.Name) < a.Spare || len(s.Waiting()) > 0 {
			continue
		}
		parking := cluster.SetHostState{Name: host.Name, State: cluster.HostParking, At: now.UTC(), Detail: fmt.Sprintf("it was free for %s", now.Sub(t).Round(time.Second))}
		if _, _, err := s.Apply(parking); err == nil {
			_, err = applyHere[*cluster.Host](ctx, m, parking)
			return err
		}
	}
	return nil
}

// shortage says why another host is needed, "" when none is.
func (m *member) shortage(s *cluster.State, a cluster.Automation) string {
	if w := s.Waiting(); len(w) > 0 {
		return w[0].Ref() + " waits for room"
	}
	if free := m.spare(s, ""); free < a.Spare/2 {
		return fmt.Sprintf("only %d%% are free on the hosts that are on", free)
	}
	if last := m.refused.Load(); last != nil && time.Since(*last) < wakeAgain {
		return "a container found no room"
	}
	return ""
}
