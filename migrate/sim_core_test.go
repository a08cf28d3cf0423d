package migrate

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// errDead is what a dead agent's calls return: they have no effect, and only let its goroutines end.
var errDead = errors.New("the agent is dead")

// event is something that can happen next.
type event struct {
	key   string
	agent *simAgent   // who waits for it and takes it to the grave; nil: it happens all the same
	ready func() bool // nil: always
	run   func()
	dead  func() // the agent died; nil: nobody waits
}

// sim is a world of two hosts and a ledger.
type sim struct {
	rng     *rand.Rand
	verbose bool
	trace   []byte
	began   time.Time
	steps   int

	mu     sync.Mutex // for agents' goroutines, which run side by side between two events; the scheduler then waits
	parked []*event

	hosts []*simHost
	conns []*simConn
	conn  int              // how many there have been
	log   []*cluster.State // every state that was committed
	mode  string
	moves int // migrations that are still to be begun
	begun int

	faults    []int // the steps at which one happens
	faulted   time.Time
	down      map[string]time.Time // "ab", "aL", "bL": the link is down until then
	downSince map[string]time.Time

	witness
}

func newSim(seed uint64) *sim {
	s := &sim{
		rng: rand.New(rand.NewPCG(seed, 1)), began: time.Now(), faulted: time.Now(),
		down: map[string]time.Time{}, downSince: map[string]time.Time{},
	}
	s.mode = cluster.ModeLive
	if s.chance(15) {
		s.mode = cluster.ModeOffline
	} else if seed%5 == 0 {
		s.mode = cluster.ModePostCopy
	}
	s.moves = 1
	if s.chance(30) {
		s.moves = 2
	}
	for range s.rng.IntN(5) {
		s.faults = append(s.faults, s.rng.IntN(250))
	}
	slices.Sort(s.faults)
	s.log = []*cluster.State{firstState()}
	for i, name := range []string{"a", "b"} {
		s.hosts = append(s.hosts, newSimHost(s, i, name))
	}
	s.hosts[0].layer = &simLayer{base: true, baseDurable: true, durable: true}
	s.hosts[0].ct = &simProc{lineage: 1}
	s.hosts[0].adopted, s.hosts[0].open = true, true
	s.lineage = 1
	return s
}

func (s *sim) chance(percent int) bool { return s.rng.IntN(100) < percent }

func (s *sim) between(from, to time.Duration) time.Duration {
	return from + time.Duration(s.rng.Int64N(int64(to-from)))
}

func (s *sim) note(format string, args ...any) {
	if s.verbose {
		s.trace = append(s.trace, fmt.Sprintf("%4d %9s ", s.steps, time.Since(s.began).Round(time.Millisecond))...)
	}
	s.trace = fmt.Appendf(s.trace, format, args...)
	s.trace = append(s.trace, '\n')
}

// park has an event wait for the scheduler. It returns false when the agent is dead.
func (s *sim) park(e *event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.agent != nil && e.agent.dead {
		return false
	}
	s.parked = append(s.parked, e)
	return true
}

// state is what is committed.
func (s *sim) state() *cluster.State         { return s.log[len(s.log)-1] }
func (s *sim) container() *cluster.Container { return s.state().Container(ctid) }
func (s *sim) operation() *cluster.Operation {
	return s.state().Operation(fmt.Sprintf("op%d", s.begun))
}
func (s *sim) host(name string) *simHost   { return s.hosts[name[0]-'a'] }
func (s *sim) link(one, other string) bool { return time.Now().After(s.down[one+other]) }

// settleTime is how long the world may take to come to rest after the last fault.
const settleTime = 3 * time.Minute

// run lets events happen until the world is at rest.
func (s *sim) run() {
	for _, h := range s.hosts {
		h.start()
	}
	rest := 0
	for rest < 20 {
		s.step()
		if len(s.violations) > 0 {
			break
		}
		if why := s.unsettled(); why == "" {
			rest++
			s.faults = nil // they would hit nothing
		} else if rest = 0; time.Since(s.faulted) > settleTime {
			s.violate("the world did not come to rest: %s", why)
			break
		}
	}
	if len(s.violations) == 0 {
		s.account()
	}
	for _, h := range s.hosts {
		h.die()
	}
	synctest.Wait()
}

// step lets one event happen, or time pass.
func (s *sim) step() {
	synctest.Wait()
	s.steps++
	for len(s.faults) > 0 && s.steps >= s.faults[0] {
		s.faults = s.faults[1:]
		s.fault()
		synctest.Wait()
	}
	s.begin()
	events := s.enabled()
	if len(events) == 0 || s.chance(6) {
		d := s.between(time.Millisecond, 200*time.Millisecond)
		if s.chance(20) || len(events) == 0 && s.chance(50) {
			d = s.between(200*time.Millisecond, 4*time.Second)
		}
		s.note("time passes: %v", d)
		time.Sleep(d)
	} else {
		e := events[s.rng.IntN(len(events))]
		s.note("%s", e.key)
		s.mu.Lock()
		if i := slices.Index(s.parked, e); i >= 0 {
			s.parked = slices.Delete(s.parked, i, i+1)
		}
		s.mu.Unlock()
		e.run()
	}
	synctest.Wait()
	for _, h := range s.hosts {
		if s.chance(50) {
			s.tick(h)
		}
	}
	s.look()
}

// enabled lists what can happen now, in an order that does not depend on the Go scheduler.
func (s *sim) enabled() []*event {
	var out []*event
	for _, e := range s.parked {
		if (e.ready == nil || e.ready()) && (e.agent == nil || time.Now().After(e.agent.stalled)) {
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(x, y *event) int { return strings.Compare(x.key, y.key) })
	for _, c := range s.conns {
		out = append(out, c.events()...)
	}
	for _, h := range s.hosts {
		out = append(out, h.events()...)
	}
	return out
}

// begin begins the next migration, now or later.
func (s *sim) begin() {
	if s.moves == 0 || s.begun > 0 && !(s.operation().Final() && (s.chance(3) || s.atRest() == "")) {
		return
	}
	ct := s.container()
	to := map[string]string{"a": "b", "b": "a"}[ct.Host]
	op := cluster.Operation{
		ID: fmt.Sprintf("op%d", s.begun+1), Kind: cluster.OpMigrate, Container: ctid, Generation: ct.Generation, From: ct.Host, To: to,
		Mode: s.mode, Started: time.Now(),
	}
	next, _, err := s.state().Apply(cluster.BeginMigration{Operation: op})
	if err != nil {
		s.violate("a migration cannot begin: %v", err)
		return
	}
	s.log = append(s.log, next)
	s.moves--
	s.begun++
	s.faulted = time.Now()
	s.note("%s begins: %s to %s, %s", op.ID, op.From, op.To, op.Mode)
}
