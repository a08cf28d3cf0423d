package agent

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// leaderTick is how often the leader looks around when nothing changes: a host's death has no other signal.
const leaderTick = time.Second

// emptyEvery is how often the leader looks through the trash: what is in it stays for hours.
const emptyEvery = time.Minute

// watchLeadership starts the leader's duties when this host gains leadership and stops them, and waits for their end,
// when it loses it. It is the only one to do so.
func (m *member) watchLeadership(ctx context.Context) error {
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case leads, ok := <-m.store.LeaderCh():
			stop()
			stop = func() {}
			if !ok {
				return nil // the store has stopped; "close" says why
			}
			if leads {
				stop = m.rule(ctx)
			}
		}
	}
}

// rule runs the leader's duties until the returned function is called.
func (m *member) rule(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { m.duties(ctx, &done) })
	return func() {
		m.ruling.Store(false)
		cancel()
		done.Wait()
	}
}

// duties is the leader's one loop. Before the first barrier it knows nothing for certain and decides nothing.
func (m *member) duties(ctx context.Context, done *sync.WaitGroup) {
	for m.store.Barrier(ctx) != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(m.timing.Retry):
		}
	}
	if ctx.Err() != nil {
		return
	}
	m.ruling.Store(true)
	m.log.Info("this host leads the cluster")
	started := time.Now()
	var habits habits
	var emptied time.Time
	defer m.beside.Wait()
	deadSince := map[string]time.Time{}
	tick := time.NewTicker(leaderTick)
	defer tick.Stop()
	for {
		changed, seen := m.store.Changed(), m.gossip.Changed()
		m.noteDeaths(deadSince, started)
		if err := m.alignMembers(deadSince); err != nil && ctx.Err() == nil {
			m.log.Warn("the voters could not be brought in line", "error", err)
		}
		if err := m.abortLost(ctx, deadSince); err != nil && ctx.Err() == nil {
			m.log.Warn("the moves of hosts that are down could not be given up", "error", err)
		}
		m.carryOutPlans(ctx, done)
		if time.Since(emptied) > emptyEvery {
			emptied = time.Now()
			m.emptyTrash(ctx, emptied)
		}
		m.drivePower(ctx)
		if err := m.automate(ctx, &habits, time.Now()); err != nil && ctx.Err() == nil {
			m.log.Warn("what the cluster does by itself was not done", "error", err)
		}
		if err := m.placeWaiting(ctx); err != nil && ctx.Err() == nil {
			m.log.Warn("the containers that wait for room could not be looked at", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-seen:
		case <-tick.C:
		}
	}
}

// noteDeaths keeps since when hosts are down. A new leader gives everyone the time to be seen.
func (m *member) noteDeaths(deadSince map[string]time.Time, started time.Time) {
	for _, h := range m.store.State().Hosts() {
		if m.alive(h.Name) || !h.State.Awake() || time.Since(started) < m.timing.DeadHost/4 {
			delete(deadSince, h.Name)
		} else if _, known := deadSince[h.Name]; !known {
			deadSince[h.Name] = time.Now()
		}
	}
}

// alignMembers makes raft's members those of the state, and its voters those that chooseVoters names. Who gains a
// vote does so before another loses his, and who is dead or forgotten loses his first.
func (m *member) alignMembers(deadSince map[string]time.Time) error {
	s := m.store.State()
	hosts := s.Hosts()
	if len(hosts) == 0 {
		return nil
	}
	votes := map[string]bool{}
	members := m.store.Members()
	for _, r := range members {
		if r.Voter {
			votes[r.Name] = true
		}
	}
	dead := func(name string) bool {
		since, ok := deadSince[name]
		return ok && time.Since(since) >= m.timing.DeadHost
	}
	voters := chooseVoters(slices.DeleteFunc(slices.Clone(hosts), func(h *cluster.Host) bool { return !h.State.Awake() }), m.name, hostFacts{
		votes: func(name string) bool { return votes[name] }, alive: m.alive, dead: dead,
	})
	give := func(h *cluster.Host, vote bool) error {
		if slices.Contains(voters, h.Name) != vote {
			return nil
		}
		if err := m.store.SetMember(h.Name, h.Address, vote); err != nil || h.Voter == vote {
			return err
		}
		_, err := m.store.Apply(m.ctx, cluster.SetVoter{Name: h.Name, Voter: vote})
		return err
	}
	for _, h := range hosts {
		if err := give(h, true); err != nil {
			return err
		}
	}
	for _, r := range members {
		if s.Host(r.Name) == nil {
			if err := m.store.Remove(r.Name); err != nil {
				return err
			}
		}
	}
	for _, alive := range []bool{false, true} { // a living voter that went first could take the quorum with it
		for _, h := range hosts {
			if m.alive(h.Name) != alive {
				continue
			}
			if err := give(h, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// hostFacts is what chooseVoters asks about a host. Dead is down for long; neither alive nor dead is down just now.
type hostFacts struct{ votes, alive, dead func(name string) bool }

// zoneLabel names the label by which hosts say what they share the fate of: a room, a power line.
const zoneLabel = "zone"

// chooseVoters says who shall vote: the leader, then those who do and are not dead, then living others, those who
// joined first before the rest, then dead voters. A host in a zone that has no vote yet goes before one in a zone that
// has. A host that is down never gains a vote. As long as there are not enough to choose from nothing changes: two
// voters would be worse than one.
func chooseVoters(hosts []*cluster.Host, leader string, f hostFacts) []string {
	const dead, never = 3, 4
	rank := func(h *cluster.Host) int {
		switch votes := f.votes(h.Name); {
		case h.Name == leader:
			return 0
		case votes && !f.dead(h.Name):
			return 1
		case !votes && f.alive(h.Name):
			return 2
		case votes:
			return dead
		}
		return never
	}
	var left []*cluster.Host
	var now []string
	for _, h := range hosts {
		if rank(h) != never {
			left = append(left, h)
		}
		if f.votes(h.Name) {
			now = append(now, h.Name)
		}
	}
	want := cluster.VotersFor(len(hosts))
	if len(left) < want {
		return now
	}
	taken := map[string]bool{}
	again := func(h *cluster.Host) int { // a second vote in a zone, or a dead voter, who is no use anywhere
		switch zone := h.Labels[zoneLabel]; {
		case rank(h) == dead:
			return 2
		case zone != "" && taken[zone]:
			return 1
		}
		return 0
	}
	var out []string
	for range want {
		next := slices.MinFunc(left, func(a, b *cluster.Host) int {
			return cmp.Or(cmp.Compare(min(rank(a), 1), min(rank(b), 1)), cmp.Compare(again(a), again(b)), cmp.Compare(rank(a), rank(b)),
				a.Joined.Compare(b.Joined), strings.Compare(a.Name, b.Name))
		})
		out, left = append(out, next.Name), slices.DeleteFunc(left, func(h *cluster.Host) bool { return h == next })
		taken[next.Labels[zoneLabel]] = true
	}
	return out
}
