package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// bigHosts admits hosts that hold very many containers.
func bigHosts(tb testing.TB, hosts int) *State {
	tb.Helper()
	s := NewState()
	for i, c := range threeHosts() {
		if h, ok := c.(InitCluster); ok && i == 0 {
			h.Settings.Pool, h.Settings.PoolFirst, h.Settings.PoolLast, h.Settings.Gateway = "10.0.0.0/8", "10.1.0.0", "10.255.0.0", ""
			c = h
		}
		s, _, _ = s.Apply(c)
	}
	for i := range hosts {
		h := testHost(i + 1)
		h.State = HostActive
		h.Capacity = Resources{MilliCPU: 1 << 50, RAM: 1 << 50, Disk: 1 << 50}
		n := *s
		n.putHost(&h)
		s = &n
	}
	return s
}

// filled returns a state with so many containers.
func filled(tb testing.TB, s *State, containers, hosts int) *State {
	tb.Helper()
	for i := range containers {
		c := create(0, fmt.Sprintf("h%d", 1+i%hosts))
		c.Container.Limits = Limits{RAM: MinRAM, CPUUnits: 1024}
		var err error
		if s, _, err = s.Apply(c); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

// A creation costs the same with 100 and with 20,000 containers: what it needs is looked up, not searched for.
func TestCreationIsFlat(t *testing.T) {
	empty := bigHosts(t, 3)
	small := filled(t, empty, 100, 3)
	large := filled(t, small, 20_000, 3)
	cost := func(s *State) time.Duration {
		best := time.Hour
		for range 20 { // the least of many: the machine does other things too
			begin := time.Now()
			filled(t, s, 50, 3)
			best = min(best, time.Since(begin))
		}
		return best
	}
	before, after := cost(small), cost(large)
	t.Logf("50 creations take %s among 100 containers, %s among 20,000", before, after)
	if after > 5*before {
		t.Errorf("50 creations take %s among 100 containers and %s among 20,000", before, after)
	}
}

// What is derived is what one gets by counting, and a released number is the next one to be given out.
func TestReleasedNumbersComeBack(t *testing.T) {
	s := filled(t, bigHosts(t, 3), 10, 3)
	second := s.Container(102)
	for _, c := range []Command{
		SetDesired{ID: 102, Desired: WantDestroyed},
		RemoveContainer{ID: 102, Host: second.Host, Generation: second.Generation},
	} {
		var err error
		if s, _, err = s.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	if s.CountOn("h2") != 2 || len(s.On("h2")) != 2 || s.Find(second.Name) != nil {
		t.Errorf("h2 has %d containers, lists %d, and finds %v", s.CountOn("h2"), len(s.On("h2")), s.Find(second.Name))
	}
	s = filled(t, s, 1, 3)
	next := s.Container(111)
	if next.UIDBase != second.UIDBase || next.Addresses[0] != second.Addresses[0] {
		t.Errorf("the next container has %d and %v, not what was given back: %d and %v", next.UIDBase, next.Addresses, second.UIDBase, second.Addresses)
	}
}

func BenchmarkCreateAmong50000(b *testing.B) {
	s := filled(b, bigHosts(b, 3), 50_000, 3)
	for b.Loop() {
		filled(b, s, 1, 3)
	}
}

func TestChangedSince(t *testing.T) {
	old := must(t, NewState(), threeHosts()...)
	old = must(t, old, create(101, "h1"), create(102, "h1"))
	now := must(t, old, create(103, "h2"), SetDesired{ID: 101, Desired: WantDestroyed}, AddToken{token("t9")})
	if ids, known := now.ChangedSince(old); !known || !slices.Equal(ids, []int{101, 103}) {
		t.Errorf("%v have changed, %v", ids, known)
	}
	if ids, known := now.ChangedSince(now); !known || len(ids) != 0 {
		t.Errorf("%v have changed since now", ids)
	}
	if _, known := old.ChangedSince(now); known {
		t.Error("an older state comes from a newer one")
	}
	for range keptChanges {
		now = must(t, now, SetDesired{ID: 102, Desired: WantRunning, Restart: true})
	}
	if ids, known := now.ChangedSince(old); known {
		t.Errorf("%d changes are still known", len(ids))
	}
}
