package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func batch(items ...NewContainer) CreateContainers {
	return CreateContainers{Specs: []Container{create(0, "").Container}, Items: items, At: at(3)}
}

func TestBatch(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	s, made := apply[[]Created](t, s, batch(
		NewContainer{Name: "web-1", Host: "h1"}, NewContainer{Name: "web-2", Host: "h2", Why: "room"},
		NewContainer{Name: "web-1", Host: "h2"}, NewContainer{Name: "web-3", Host: "h9"}, NewContainer{Host: "h3"},
	))
	for i, kind := range []error{nil, nil, ErrConflict, ErrNotFound, nil} {
		if !errors.Is(made[i].Err, kind) || (made[i].Container == nil) != (kind != nil) {
			t.Errorf("container %d: %+v", i, made[i])
		}
	}
	last := made[4].Container
	if last.ID != 103 || last.Name != "ct103" || last.State != Stopped || last.UIDBase != firstUID+2*uidsPerRange {
		t.Errorf("the last one is %+v; what was refused must leave no gap", last)
	}
	if c := s.Find("web-2"); c.Host != "h2" || c.Placement != "room" || !c.Created.Equal(at(3)) || c.Addresses[0] == last.Addresses[0] {
		t.Errorf("web-2 is %+v", c)
	}
}

// Each of a batch sees the room that the ones before it took.
func TestBatchDoesNotOvercommit(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	var items []NewContainer
	for range 6 {
		items = append(items, NewContainer{Host: "h1"})
	}
	s, made := apply[[]Created](t, s, batch(items...))
	for i, c := range made {
		if (i < 4) != (c.Err == nil) || i >= 4 && !errors.Is(c.Err, ErrNoFit) {
			t.Errorf("container %d of four that fit: %v", i, c.Err)
		}
	}
	if s.CountOn("h1") != 4 {
		t.Errorf("%d are on h1", s.CountOn("h1"))
	}
}

// Of a part of a batch all are made or none is, and a part that is refused leaves no trace.
func TestPartsOfABatch(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	c := batch(
		NewContainer{Name: "a1", Host: "h1"}, NewContainer{Name: "a2", Host: "h2"},
		NewContainer{Name: "b1", Host: "h1"}, NewContainer{Name: "a1", Host: "h1"}, NewContainer{Name: "b3", Host: "h1"},
		NewContainer{Name: "c1", Host: "h1"}, NewContainer{Name: "b1", Host: "h2"},
	)
	c.Parts = []int{2, 3, 2}
	without := batch(append(c.Items[:2:2], c.Items[5:]...)...)
	next, made := apply[[]Created](t, s, c)
	for i, m := range made {
		refused := i >= 2 && i < 5
		if errors.Is(m.Err, ErrConflict) != refused || (m.Container == nil) != refused {
			t.Errorf("container %d: %+v", i, m)
		}
	}
	text := func(s *State) string {
		var b strings.Builder
		if err := s.Snapshot(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if other := must(t, s, without); text(next) != text(other) || !sameTree(next.containers.byHost, other.containers.byHost) {
		t.Error("a part that was refused has left something")
	}
	if len(next.Containers()) != 4 || next.containers.len() != 4 {
		t.Errorf("there are %d containers", len(next.Containers()))
	}
	for _, parts := range [][]int{{2, 3}, {2, 3, 3}, {7, 1, -1}, {0, 7}} {
		c.Parts = parts
		if same, _, err := s.Apply(c); same != s || !errors.Is(err, ErrInvalid) {
			t.Errorf("parts %v: %v", parts, err)
		}
	}
}

func TestWaitingContainer(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	s, made := apply[[]Created](t, s, batch(NewContainer{Name: "late", Waits: true, Why: "no memory anywhere"}))
	c := made[0].Container
	if !c.Waits() || c.State != Pending || c.Detail != "no memory anywhere" || len(s.Waiting()) != 1 {
		t.Fatalf("it is %+v", c)
	}
	for _, h := range s.Hosts() {
		if s.Reserved(h.Name) != (Resources{}) {
			t.Errorf("what waits reserves %+v on %s", s.Reserved(h.Name), h.Name)
		}
	}
	if _, _, err := s.Apply(ReportContainer{ID: c.ID, Generation: 1, State: Running}); !errors.Is(err, ErrStale) {
		t.Errorf("nobody's container was reported running: %v", err)
	}
	gone := must(t, s, SetDesired{ID: c.ID, Desired: WantDestroyed})
	if gone.Container(c.ID) != nil {
		t.Error("what was destroyed still waits")
	}
	s, again := apply[*Container](t, s, PlaceContainer{ID: c.ID, Why: "no cpu anywhere", At: at(4)})
	if again.Detail != "no cpu anywhere" || !again.Waits() {
		t.Errorf("it is %+v", again)
	}
	full := must(t, s, SetHostState{Name: "h2", State: HostCordoned})
	if _, _, err := full.Apply(PlaceContainer{ID: c.ID, Host: "h2"}); !errors.Is(err, ErrNoFit) {
		t.Errorf("it was placed on a cordoned host: %v", err)
	}
	s, placed := apply[*Container](t, s, PlaceContainer{ID: c.ID, Host: "h2", Why: "h2 has room", At: at(5)})
	if placed.Host != "h2" || placed.Generation != 2 || placed.Placement != "h2 has room" || placed.History[0].What != EventPlaced {
		t.Errorf("it is %+v", placed)
	}
	if _, _, err := s.Apply(PlaceContainer{ID: c.ID, Host: "h3"}); !errors.Is(err, ErrStale) {
		t.Errorf("it was placed twice: %v", err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"))
	for i := range keptEvents + 3 {
		c := s.Container(101)
		to := map[string]string{"h1": "h2", "h2": "h1"}[c.Host]
		op := begin(fmt.Sprint("m", i), 101, c.Host, to, c.Generation)
		op.Operation.Why = fmt.Sprint("reason ", i)
		s = must(t, s, op, CommitMigration{op.Operation.ID}, FinishMigration{Operation: op.Operation.ID, At: at(i)})
	}
	h := s.Container(101).History
	if len(h) != keptEvents || h[len(h)-1].Why != fmt.Sprint("reason ", keptEvents+2) || h[len(h)-1].What != EventMoved {
		t.Errorf("it remembers %+v", h)
	}
}
