package migrate

import (
	"fmt"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// witness is what somebody outside knows: the container's client, and who counts how often it was started.
type witness struct {
	violations []string
	lineage    int  // of memory: every start from disk begins a new one
	acked      int  // the highest counter that the client was told
	ackedBy    int  // by which lineage
	synced     int  // the highest counter that the client was told to be on disk
	excused    int  // losses of memory that nobody need report: a loss of power, a stop
	hole       bool // the target lost power between the commit and the sync of the layer's last changes: see docs/migration.md
	loseNext   int  // answers of the ledger
	killed     bool // the container's init was ended by a fault
}

func (s *sim) violate(format string, args ...any) {
	v := fmt.Sprintf(format, args...)
	s.note("VIOLATION: %s", v)
	s.violations = append(s.violations, v)
}

// look checks what must be so at every instant.
func (s *sim) look() {
	able, owner := 0, s.container().Host
	durable := -1
	for _, h := range s.hosts {
		if h.able() {
			able++
			if h.name != owner {
				s.violate("the copy on %s can run, the owner is %s", h.name, owner)
			}
			if h.ct.holes {
				s.violate("the copy on %s can run without a part of its memory", h.name)
			}
		}
		if h.able() && h.ct.zeros {
			s.violate("the copy on %s can run, and what it lacks of its memory reads as zeros", h.name)
		}
		if h.ct != nil && h.open && h.name != owner {
			s.violate("the copy on %s is heard, the owner is %s", h.name, owner)
		}
		if l := h.layer; l != nil && l.durable {
			durable = max(durable, l.durableN)
		}
	}
	if able > 1 {
		s.violate("two copies run")
	}
	if durable < s.synced && !s.hole {
		s.violate("what is on disk everywhere ends at %d, %d was acknowledged", durable, s.synced)
	}
}

// tick lets a copy that can run do one step of its work: count, write the count, tell the client.
func (s *sim) tick(h *simHost) {
	if !h.able() {
		return
	}
	if h.ct.lacks && s.chance(50) {
		return // it waits for a page
	}
	l := h.layer
	if l == nil || !l.base {
		s.violate("the copy on %s runs without its whole layer", h.name)
		return
	}
	if l.n != h.ct.n {
		s.violate("the copy on %s has written %d, its disk has %d", h.name, h.ct.n, l.n)
		return
	}
	h.ct.n++
	l.n++
	if !h.open {
		return
	}
	if h.ct.lineage < s.ackedBy || h.ct.lineage == s.ackedBy && h.ct.n <= s.acked {
		s.violate("the client hears %d of lineage %d from %s after %d of lineage %d", h.ct.n, h.ct.lineage, h.name, s.acked, s.ackedBy)
	}
	s.acked, s.ackedBy = h.ct.n, h.ct.lineage
	if s.chance(20) { // fsync
		l.durableN, l.durable = l.n, l.durable || l.baseDurable
		s.synced = l.n
	}
}

// unsettled says what is not at rest; "" when everything is.
func (s *sim) unsettled() string {
	if s.moves > 0 {
		return "a migration is to come"
	}
	return s.atRest()
}

// atRest is the same of the migrations that have begun.
func (s *sim) atRest() string {
	op, ct := s.operation(), s.container()
	if !op.Final() || ct.Operation != "" {
		return fmt.Sprintf("the operation is %s, the lock %q", op.Status, ct.Operation)
	}
	for _, h := range s.hosts {
		if h.agent == nil {
			return "host " + h.name + " has no agent"
		}
		if len(h.criu) > 0 {
			return "criu works on " + h.name
		}
		if left := h.disk.left(); left != "" {
			return "host " + h.name + " has left " + left
		}
		if h.name == ct.Host {
			honest := s.killed && ct.State == cluster.Failed
			if !(h.able() && h.open && h.adopted) && !honest {
				return fmt.Sprintf("the owner %s has %s", h.name, h.describe())
			}
		} else if h.ct != nil || h.layer != nil {
			return fmt.Sprintf("the loser %s has %s", h.name, h.describe())
		}
	}
	return ""
}

// account compares the restarts that the state knows of with those that happened.
func (s *sim) account() {
	restarted, starts := s.container().Restarted, s.lineage-1
	if restarted > starts+s.excused { // one that did not come to its start is reported again by the next migration
		s.violate("%d restarts are reported, there were %d", restarted, starts)
	}
	if restarted < starts-s.excused {
		s.violate("%d restarts are reported, %d starts lost the memory in a migration", restarted, starts-s.excused)
	}
}

// fault lets something go wrong.
func (s *sim) fault() {
	s.faulted = time.Now()
	h := s.hosts[s.rng.IntN(2)]
	switch s.rng.IntN(16) {
	case 0, 1, 2, 3:
		s.note("FAULT: the agent on %s dies", h.name)
		h.die()
		h.back = time.Now().Add(s.between(100*time.Millisecond, 3*time.Second))
		if s.chance(20) {
			h.back = time.Now().Add(s.between(3*time.Second, 40*time.Second))
		}
		s.faulted = h.back
	case 4, 5:
		s.note("FAULT: %s loses power", h.name)
		h.powerLoss()
		h.back = time.Now().Add(s.between(time.Second, 20*time.Second))
		s.faulted = h.back
	case 6:
		s.note("FAULT: connections break")
		for _, c := range s.conns {
			c.cut()
		}
	case 7, 8:
		s.partition()
	case 9, 10:
		s.lose()
	case 11, 12:
		s.hurtCRIU(h)
	case 13:
		h.fails = []string{"dump", "restore"}[s.rng.IntN(2)]
		s.note("FAULT: the next %s on %s fails", h.fails, h.name)
	case 14:
		if h.agent != nil {
			s.note("FAULT: the agent on %s stands still", h.name)
			h.agent.stalled = time.Now().Add(s.between(time.Second, 8*time.Second))
			s.faulted = h.agent.stalled
		}
	case 15:
		s.killInit(h)
	}
}

// partition cuts links for a while; flapping is many of these.
func (s *sim) partition() {
	links := []string{"ab", "aL", "bL", "LL"}
	for range 1 + s.rng.IntN(2) {
		l := links[s.rng.IntN(len(links))]
		until := time.Now().Add(s.between(50*time.Millisecond, 3*time.Second))
		if s.chance(40) {
			until = time.Now().Add(s.between(3*time.Second, 30*time.Second))
		}
		s.note("FAULT: the link %s is down until %v", l, until.Sub(s.began))
		cut := []string{l}
		if l == "LL" { // there is no leader
			cut = []string{"aL", "bL"}
		}
		for _, l := range cut {
			if !s.down[l].After(time.Now()) {
				s.downSince[l] = time.Now()
			}
			s.down[l] = until
		}
		if until.After(s.faulted) {
			s.faulted = until
		}
	}
}

// lose loses one question or answer that is on its way to or from the ledger, or the next one.
func (s *sim) lose() {
	s.loseNext++
	s.note("FAULT: the next answer of the ledger is lost")
}

// hurtCRIU kills a CRIU that works now, or else the next one in its middle.
func (s *sim) hurtCRIU(h *simHost) {
	s.note("FAULT: criu on %s is killed", h.name)
	if len(h.criu) == 0 {
		h.killNext = true
		return
	}
	h.criu[0].kill()
}

// killInit ends the container's init where it runs during a migration.
func (s *sim) killInit(h *simHost) {
	if h.ct == nil || !h.able() || s.container().Operation == "" {
		return
	}
	s.note("FAULT: the container's init on %s is killed", h.name)
	s.killed = true
	s.excused++
	h.end()
}
