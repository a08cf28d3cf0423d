package cluster

import (
	"errors"
	"fmt"
	"sync"
	"testing"
)

// The hand-over is small enough to try everything: all sequences of commands about one container, three hosts and two
// operations, each answer compared with a second, independent description of the rules.

// handover is that description: what the rules need to know, and nothing else.
type handover struct {
	exists     bool
	owner      string
	generation uint64
	desired    Desired
	lock       string // operation
	status     map[string]OperationStatus
	from, to   map[string]string
}

func describe(s *State, ops []string) handover {
	h := handover{status: map[string]OperationStatus{}, from: map[string]string{}, to: map[string]string{}}
	if c := s.Container(101); c != nil {
		h.exists, h.owner, h.generation, h.desired, h.lock = true, c.Host, c.Generation, c.Desired, c.Operation
	}
	for _, id := range ops {
		if o := s.Operation(id); o != nil {
			h.status[id], h.from[id], h.to[id] = o.Status, o.From, o.To
		}
	}
	return h
}

// expect says how a command must be answered, nil for success.
func (h handover) expect(c Command) error {
	switch c := c.(type) {
	case BeginMigration:
		return h.expectBegin(c.Operation)
	case CommitMigration:
		switch h.status[c.Operation] {
		case OpRunning, OpCommitted:
			return nil
		case "":
			return ErrNotFound
		}
		return ErrStale
	case AbortMigration:
		switch h.status[c.Operation] {
		case OpRunning, OpAborted:
			return nil
		case "":
			return ErrNotFound
		}
		return ErrStale
	case FinishMigration:
		switch h.status[c.Operation] {
		case OpCommitted, OpDone:
			return nil
		case "":
			return ErrNotFound
		}
		return ErrStale
	case SetDesired:
		switch {
		case !h.exists:
			return ErrNotFound
		case c.Desired == h.desired:
			return nil
		case h.desired == WantDestroyed:
			return ErrConflict
		case h.lock != "":
			return ErrLocked
		}
		return nil
	case RemoveContainer:
		switch {
		case !h.exists:
			return ErrNotFound
		case c.Host != h.owner || c.Generation != h.generation:
			return ErrStale
		case h.desired != WantDestroyed:
			return ErrConflict
		}
		return nil
	}
	panic(fmt.Sprintf("the model knows no %T", c))
}

func (h handover) expectBegin(o Operation) error {
	switch {
	case h.status[o.ID] != "":
		return ErrConflict
	case !h.exists:
		return ErrNotFound
	case o.From != h.owner || o.Generation != h.generation:
		return ErrStale
	case h.desired == WantDestroyed:
		return ErrConflict
	case h.lock != "":
		return ErrLocked
	case o.To == o.From:
		return ErrInvalid
	case o.To == "h3": // cordoned
		return ErrNoFit
	}
	return nil
}

// then says what a command that succeeded must have led to.
func (h handover) then(c Command) handover {
	n := h
	switch c := c.(type) {
	case BeginMigration:
		n.lock = c.Operation.ID
	case CommitMigration:
		if h.status[c.Operation] == OpRunning {
			n.owner = h.to[c.Operation]
			n.generation++
		}
	case AbortMigration:
		if h.status[c.Operation] == OpRunning {
			n.lock = ""
		}
	case FinishMigration:
		if h.status[c.Operation] == OpCommitted {
			n.lock = ""
		}
	case SetDesired:
		n.desired = c.Desired
	case RemoveContainer:
		n = handover{}
	}
	return n
}

func (h handover) String() string {
	return fmt.Sprint(h.exists, h.owner, h.generation, h.desired, h.lock)
}

func handoverCommands(ops []string) (commands []Command) {
	hosts := []string{"h1", "h2", "h3"}
	for _, op := range ops {
		for _, from := range hosts[:2] {
			for _, to := range hosts {
				for generation := uint64(1); generation <= 3; generation++ {
					commands = append(commands, begin(op, 101, from, to, generation))
				}
			}
		}
		commands = append(commands, CommitMigration{op}, AbortMigration{Operation: op}, FinishMigration{Operation: op})
	}
	for _, d := range []Desired{WantRunning, WantStopped, WantDestroyed} {
		commands = append(commands, SetDesired{ID: 101, Desired: d})
	}
	for _, host := range hosts[:2] {
		for generation := uint64(1); generation <= 3; generation++ {
			commands = append(commands, RemoveContainer{101, host, generation})
		}
	}
	return commands
}

func TestEveryHandoverFollowsTheModel(t *testing.T) {
	ops := []string{"a", "b"}
	commands := handoverCommands(ops)
	start := must(t, must(t, NewState(), threeHosts()...), SetHostState{Name: "h3", State: HostCordoned}, create(101, "h1"))
	identity := func(s *State) string { // epochs grow for ever, they do not matter here
		h := describe(s, ops)
		return fmt.Sprint(h, h.status, h.from, h.to)
	}
	seen, queue := map[string]bool{identity(start): true}, []*State{start}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		h := describe(s, ops)
		for _, c := range commands {
			next, _, err := s.Apply(c)
			want := h.expect(c)
			if (want == nil) != (err == nil) || !errors.Is(err, want) {
				t.Fatalf("in %s, %+v was answered %v, the model says %v", identity(s), c, err, want)
			}
			if err != nil {
				continue
			}
			if got, want := describe(next, ops).String(), h.then(c).String(); got != want {
				t.Fatalf("in %s, %+v led to %s, the model says %s", identity(s), c, got, want)
			}
			checkInvariants(t, next)
			if id := identity(next); !seen[id] {
				seen[id] = true
				queue = append(queue, next)
			}
		}
	}
	t.Logf("%d situations, %d commands in each", len(seen), len(commands))
	if len(seen) < 50 {
		t.Errorf("only %d situations were reached, the model is not exercised", len(seen))
	}
}

// A State may be read while others are derived from it; the race detector and the counts say so.
func TestReadersNeedNoLock(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), create(0, "h1"), create(0, "h2"))
	var wg sync.WaitGroup
	for reader := range 4 {
		wg.Go(func() {
			own := s
			for i := range 50 {
				if s.Reserved("h1") != (Resources{MilliCPU: 1000, RAM: gib, Disk: 10 * gib, Containers: 1}) || len(s.Containers()) != 2 || s.Find("ct102") == nil {
					t.Errorf("reader %d sees %+v reserved", reader, s.Reserved("h1"))
					return
				}
				own, _, _ = own.Apply(SetDesired{ID: 101, Desired: WantRunning, Restart: true})
				if got := own.Container(101).Epoch; got != uint64(i)+2 {
					t.Errorf("reader %d derived epoch %d after %d restarts", reader, got, i+1)
					return
				}
			}
		})
	}
	wg.Wait()
}

// The address pool against the plainest possible description of it.
func TestPoolAgainstModel(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	free := map[string]bool{}
	for last := 10; last <= 20; last++ {
		free[fmt.Sprintf("10.77.0.%d/24", last)] = true
	}
	lowest := func() string {
		for last := 10; last <= 20; last++ {
			if a := fmt.Sprintf("10.77.0.%d/24", last); free[a] {
				return a
			}
		}
		return ""
	}
	c := create(0, "h1")
	c.Container.Limits = Limits{RAM: MinRAM}
	var live []*Container
	for i := range 200 {
		if i%3 == 2 && len(live) > 0 { // free one somewhere in the middle
			victim := live[i%len(live)]
			live = append(live[:i%len(live):i%len(live)], live[i%len(live)+1:]...)
			s = must(t, s, SetDesired{ID: victim.ID, Desired: WantDestroyed}, RemoveContainer{victim.ID, "h1", victim.Generation})
			free[victim.Addresses[0]] = true
			continue
		}
		want := lowest()
		next, result, err := s.Apply(c)
		if want == "" {
			if !errors.Is(err, ErrConflict) {
				t.Fatalf("step %d: the pool is empty, but the answer is %v", i, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		ct := result.(*Container)
		if ct.Addresses[0] != want {
			t.Fatalf("step %d: got %s, want %s", i, ct.Addresses[0], want)
		}
		delete(free, want)
		live, s = append(live, ct), next
	}
}

// Every refusal is one sentence for a user: no prefix of ours, no line break, no sentinel's text behind it.
func TestRefusalsAreSentences(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	for _, c := range everyCommand() {
		_, _, err := s.Apply(c)
		if err == nil {
			continue
		}
		text := err.Error()
		for _, kind := range []error{ErrNotFound, ErrConflict, ErrNoFit, ErrInvalid, ErrStale, ErrLocked, ErrToken} {
			if errors.Is(err, kind) && len(text) < 20 {
				t.Errorf("%T: %q is no sentence", c, text)
			}
		}
		for _, r := range text {
			if r < ' ' {
				t.Errorf("%T: %q has a control character", c, text)
			}
		}
	}
}
