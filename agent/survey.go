package agent

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// surveyor keeps in the replicated state what would be in the way of moving this host's running containers live, so that
// plans know it beforehand. Only changes are reported, and what is new only when it was seen twice: a command that exec
// runs for a moment is nobody's business.
type surveyor struct {
	m    *member
	due  map[int]time.Time
	seen map[int]cluster.Verdict // found once, not yet confirmed
}

func newSurveyor(m *member) *surveyor {
	return &surveyor{m: m, due: map[int]time.Time{}, seen: map[int]cluster.Verdict{}}
}

// soon is when something new is looked at again.
func (v *surveyor) soon() time.Duration { return v.m.timing.Survey / 6 }

// run looks at each container about every Timing.Survey, spread by chance so that many are not looked at at once.
func (v *surveyor) run(ctx context.Context) error {
	tick := time.NewTicker(max(v.soon()/2, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, c := range v.m.store.State().Containers() {
			if c.Host == v.m.name && c.State == cluster.Running && c.Operation == "" && !time.Now().Before(v.due[c.ID]) {
				v.look(ctx, c)
			}
		}
	}
}

// look scans one container, and says when it is to be looked at next.
func (v *surveyor) look(ctx context.Context, c *cluster.Container) {
	pause := v.m.timing.Survey/2 + rand.N(v.m.timing.Survey)
	defer func() { v.due[c.ID] = time.Now().Add(pause) }()
	if v.m.migrator.Busy(c.ID) {
		return
	}
	found, err := v.m.migrator.Check(ctx, c.ID)
	if err != nil {
		v.m.log.Debug("a container cannot be looked at", "container", c.ID, "error", err)
		return
	}
	now := cluster.NewVerdict(found.Blockers)
	if c.Verdict != nil && now.Same(*c.Verdict) {
		delete(v.seen, c.ID)
		return
	}
	known := cluster.Verdict{}
	if c.Verdict != nil {
		known = *c.Verdict
	}
	if before, ok := v.seen[c.ID]; !now.Within(known) && !(ok && now.Within(before)) {
		v.seen[c.ID], pause = now, v.soon()
		return
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	_, err = v.m.apply(ctx, cluster.ReportVerdict{ID: c.ID, Host: c.Host, Generation: c.Generation, Verdict: now})
	if err != nil {
		pause = v.soon() // it may have been handed over, or there is no leader
		return
	}
	delete(v.seen, c.ID)
}
