package agent

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// surveyor keeps in the replicated state what would be in the way of moving this host's running containers live, so that
// plans know it beforehand. It looks about every Timing.Survey, and soon after something has happened to a container. Only
// changes are reported, and what is new only when it was seen twice: a command that exec runs for a moment is nobody's
// business.
type surveyor struct {
	m        *member
	happened chan int // CTIDs; when it is full, the regular look finds out
	looks    map[int]*look
}

// look is what is remembered of a container that can be looked at.
type look struct {
	due  time.Time
	seen *cluster.Verdict // found once, not yet confirmed
}

func newSurveyor(m *member) *surveyor {
	return &surveyor{m: m, happened: make(chan int, 64), looks: map[int]*look{}}
}

// confirm is when something new is looked at again, settle how long what has happened may take to be seen; no container is
// looked at more often.
func (v *surveyor) confirm() time.Duration { return min(v.m.timing.Survey/12, 2500*time.Millisecond) }

func (v *surveyor) settle() time.Duration { return min(v.m.timing.Survey/60, 500*time.Millisecond) }

// hurry has a container looked at soon: a session of exec began or ended, a migration has failed, or somebody has asked
// about one. A start and an arrival are seen in the replicated state.
func (v *surveyor) hurry(id int) {
	select {
	case v.happened <- id:
	default:
	}
}

// run looks at each container when it is due.
func (v *surveyor) run(ctx context.Context) error {
	for {
		changed := v.m.store.Changed()
		next := time.NewTimer(v.pass(ctx))
		select {
		case <-ctx.Done():
			next.Stop()
			return nil
		case <-changed:
		case <-next.C:
		case id := <-v.happened:
			if l := v.looks[id]; l != nil {
				l.due = earlier(l.due, time.Now().Add(v.settle()))
			}
		}
		next.Stop()
	}
}

// pass looks at the containers that are due and returns when the next one is. One that can be looked at for the first
// time, or again after a migration, is due at once.
func (v *surveyor) pass(ctx context.Context) time.Duration {
	next := time.Now().Add(v.m.timing.Survey)
	able := map[int]*look{}
	for _, c := range v.m.store.State().On(v.m.name) {
		if c.State != cluster.Running || c.Operation != "" {
			continue
		}
		l := v.looks[c.ID]
		if l == nil {
			l = &look{}
		}
		able[c.ID] = l
		if !time.Now().Before(l.due) {
			pause := v.look(ctx, c, l)
			l.due = time.Now().Add(pause)
		}
		next = earlier(next, l.due)
	}
	v.looks = able
	return max(time.Until(next), 0)
}

// look scans one container, and says after which time it is to be looked at again: by chance, so that many are not
// looked at at once.
func (v *surveyor) look(ctx context.Context, c *cluster.Container, l *look) time.Duration {
	pause := v.m.timing.Survey/2 + rand.N(v.m.timing.Survey)
	if v.m.migrator.Busy(c.ID) { // what is left of a migration is being cleared away
		return v.confirm()
	}
	found, err := v.m.migrator.Check(ctx, c.ID)
	if err != nil {
		v.m.log.Debug("a container cannot be looked at", "container", c.ID, "error", err)
		return v.confirm()
	}
	now, known := cluster.NewVerdict(found.Blockers), cluster.Verdict{}
	if c.Verdict != nil {
		known = *c.Verdict
		if now.Same(known) {
			l.seen = nil
			return pause
		}
	}
	if !now.Within(known) && (l.seen == nil || !now.Within(*l.seen)) {
		l.seen = &now
		return v.confirm()
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	if _, err = v.m.apply(ctx, cluster.ReportVerdict{ID: c.ID, Host: c.Host, Generation: c.Generation, Verdict: now}); err != nil {
		return v.confirm() // it may have been handed over, or there is no leader
	}
	l.seen = nil
	return pause
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
