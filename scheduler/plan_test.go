package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// What is known to be in the way of a live move is known to every plan.
func TestPlansKnowWhatCannotMove(t *testing.T) {
	verdict := cluster.NewVerdict([]cluster.Blocker{{Process: "12 dockerd", What: "it has a BPF program open", Remedy: "stop it"}})
	room := cluster.Resources{MilliCPU: 8000, RAM: 8 << 30, Disk: 8 << 30}
	var s Snapshot
	for _, h := range []string{"host1", "host2", "host3"} {
		s.Hosts = append(s.Hosts, HostView{Name: h, State: cluster.HostActive, Alive: true, Capacity: many(room)})
	}
	for id := 101; id <= 103; id++ {
		c := cluster.Container{ID: id, Name: fmt.Sprintf("ct%d", id), Host: "host3", State: cluster.Running, Desired: cluster.WantRunning, Limits: cluster.Limits{RAM: 1 << 20}}
		if id > 101 {
			c.Verdict = &verdict
		}
		s.Containers = append(s.Containers, c)
		s.Hosts[2].Reserved = s.Hosts[2].Reserved.Add(c.Limits.Resources())
	}
	p := Drain(s, "host3")
	if len(p.Moves) != 1 || len(p.Unplaced) != 2 {
		t.Fatalf("%d move and %d stay", len(p.Moves), len(p.Unplaced))
	}
	for _, want := range []string{"2 containers must stay", "ct102: it cannot be moved live: 12 dockerd: it has a BPF program open", "ct103: it cannot"} {
		if !strings.Contains(p.Why, want) {
			t.Errorf("want %q in %q", want, p.Why)
		}
	}
	if p := Consolidate(s, 0); len(p.Moves) != 0 || !strings.Contains(p.Why, "host3 holds ct102: it cannot be moved live") {
		t.Errorf("a consolidation moves %v: %s", p.Moves, p.Why)
	}
	for i := range s.Containers {
		s.Containers[i].State = cluster.Stopped // whatever was in the way does not run
	}
	if p := Drain(s, "host3"); len(p.Moves) != 3 {
		t.Errorf("stopped containers must stay: %s", p.Why)
	}
}

func to(p Plan) string {
	var parts []string
	for _, m := range p.Moves {
		parts = append(parts, fmt.Sprintf("%s:%s>%s", m.Name, m.From, m.To))
	}
	return strings.Join(parts, " ")
}

func TestDrainBiggestFirst(t *testing.T) {
	s := snapshot(three, ct(101, "small", "host3", res(1, 1, 1)), ct(102, "big", "host3", res(1, 4, 1)), ct(103, "other", "host1", res(1, 1, 1)))
	p := Drain(s, "host3")
	if got, want := to(p), "big:host3>host2 small:host3>host1"; got != want {
		t.Errorf("moves %q, want %q", got, want)
	}
	if !slices.Equal(p.Freed, []string{"host3"}) || len(p.Unplaced) > 0 {
		t.Errorf("freed %v, unplaced %v", p.Freed, p.Unplaced)
	}
	if want := "host3 is drained: host2 has the most room of 2 hosts: 50% of its memory stays free, 0 containers"; p.Moves[0].Why != want {
		t.Errorf("why %q, want %q", p.Moves[0].Why, want)
	}
}

func TestDrainPacksWhenSpreadingFails(t *testing.T) {
	// Spread puts the two of 3 on different hosts, which leaves no room for the third of 6; only packing empties host3.
	s := snapshot(three, ct(101, "a", "host1", res(0, 2, 0)), ct(104, "x", "host3", res(0, 3, 0)), ct(105, "y", "host3", res(0, 3, 0)),
		ct(106, "z", "host3", res(0, 2, 0)))
	s.Hosts[1].Reserved = res(0, 1, 0)
	s.Hosts[0].Capacity, s.Hosts[1].Capacity = many(res(4, 5, 100)), many(res(4, 6, 100))
	p := Drain(s, "host3")
	if len(p.Unplaced) > 0 || len(p.Moves) != 3 {
		t.Fatalf("moves %q, unplaced %v; all three fit", to(p), p.Unplaced)
	}
	check(t, s, p)
}

func TestDrainSaysWhatStays(t *testing.T) {
	locked := ct(102, "locked", "host3", res(1, 1, 1))
	locked.Operation = "op1"
	starting := ct(103, "starting", "host3", res(1, 1, 1))
	starting.State = cluster.Starting
	s := snapshot([]string{"host1", "host3"}, locked, starting, ct(104, "huge", "host3", res(1, 5, 1)), ct(105, "full", "host1", res(1, 6, 1)))
	p := Drain(s, "host3")
	if len(p.Moves) != 0 || len(p.Unplaced) != 3 || len(p.Freed) != 0 {
		t.Fatalf("plan %+v", p)
	}
	want := []Unplaced{
		{102, "locked", "it is being migrated already"},
		{103, "starting", "it is starting"},
		{104, "huge", "no host can take it: memory: needs 5G, 2G free on host1"},
	}
	if !slices.Equal(p.Unplaced, want) {
		t.Errorf("unplaced %+v, want %+v", p.Unplaced, want)
	}
	s.Hosts[1].Alive = false
	if p := Drain(s, "host3"); len(p.Moves) != 0 || p.Unplaced[0].Why != "host3 is down" {
		t.Errorf("a host that is down was drained: %+v", p)
	}
	if p := Drain(s, "moon"); p.Why != "there is no host named moon" {
		t.Errorf("why %q", p.Why)
	}
}

func TestConsolidate(t *testing.T) {
	half := res(1, 2, 1)
	lock := func(c cluster.Container) cluster.Container { c.Operation = "op"; return c }
	cordon := func(s Snapshot, i int) Snapshot { s.Hosts[i].State = cluster.HostCordoned; return s }
	down := func(s Snapshot, i int) Snapshot { s.Hosts[i].Alive = false; return s }
	for _, c := range []struct {
		name  string
		snap  Snapshot
		limit int
		freed string
		moves string
		why   string
	}{
		{
			"the cheapest host is freed", snapshot(three, ct(101, "a", "host1", half), ct(102, "b", "host1", half), ct(103, "c", "host2", half),
				ct(104, "d", "host2", half), ct(105, "e", "host3", half)), 0,
			"host3", "e:host3>host1", "host3 can be freed by 1 move (2G of memory) to host1",
		},
		{
			"two hosts", snapshot(three, ct(101, "a", "host1", half), ct(103, "c", "host2", half), ct(105, "e", "host3", half)), 0,
			"host1 host2", "a:host1>host3 c:host2>host3", "host1 and host2 can be freed by 2 moves (4G of memory) to host3",
		},
		{
			"at most one", snapshot(three, ct(101, "a", "host1", half), ct(103, "c", "host2", half), ct(105, "e", "host3", half)), 1,
			"host1", "a:host1>host2", "host1 can be freed by 1 move (2G of memory) to host2",
		},
		{
			"an empty host stays empty", snapshot(three, ct(101, "a", "host1", half), ct(103, "c", "host2", half)), 0,
			"host1", "a:host1>host2", "host1 can be freed by 1 move (2G of memory) to host2",
		},
		{
			"a locked container keeps its host", snapshot(three[:2], lock(ct(101, "a", "host1", half)), ct(103, "c", "host2", res(1, 4, 1))), 0,
			"host2", "c:host2>host1", "host2 can be freed by 1 move (4G of memory) to host1",
		},
		{
			"a cordoned host is freed, not filled", cordon(snapshot(three[:2], ct(101, "a", "host1", half), ct(103, "c", "host2", res(1, 4, 1))), 1), 0,
			"host2", "c:host2>host1", "host2 can be freed by 1 move (4G of memory) to host1",
		},
		{
			"a host that is down is left alone", down(snapshot(three[:2], ct(101, "a", "host1", half), ct(103, "c", "host2", half)), 0), 0,
			"", "", "no host can be freed: what is on one does not fit on the others; host1 is down",
		},
		{
			"no room", snapshot(three[:2], ct(101, "a", "host1", res(3, 2, 1)), ct(103, "c", "host2", res(3, 2, 1))), 0,
			"", "", "no host can be freed: what is on one does not fit on the others",
		},
		{"nothing there", snapshot(three), 0, "", "", "no host can be freed: none has containers"},
	} {
		p := Consolidate(c.snap, c.limit)
		if got := strings.Join(p.Freed, " "); got != c.freed || to(p) != c.moves || p.Why != c.why {
			t.Errorf("%s:\n  freed %q, want %q\n  moves %q, want %q\n  why %q,\n want %q", c.name, got, c.freed, to(p), c.moves, p.Why, c.why)
		}
		check(t, c.snap, p)
	}
}

func TestConsolidateUsesAnEmptyHostWhenItPays(t *testing.T) {
	// Neither of host1 and host2 has room for the other's container; the big empty host3 has room for both.
	s := snapshot(three, ct(101, "a", "host1", res(3, 3, 1)), ct(102, "b", "host2", res(3, 3, 1)))
	s.Hosts[2].Capacity = many(res(8, 16, 100))
	p := Consolidate(s, 0)
	if !slices.Equal(p.Freed, []string{"host1", "host2"}) {
		t.Errorf("freed %v by %s", p.Freed, to(p))
	}
	check(t, s, p)
}

func TestConsolidateBacktracks(t *testing.T) {
	// Room for 6 and 7. Best fit puts 3 and 3 into 6; a packing that then fails has to go back.
	s := snapshot(three, ct(101, "p", "host1", res(0, 2, 0)), ct(102, "q", "host2", res(0, 1, 0)),
		ct(103, "w", "host3", res(0, 3, 0)), ct(104, "x", "host3", res(0, 3, 0)), ct(105, "y", "host3", res(0, 3, 0)),
		ct(106, "z", "host3", res(0, 2, 0)), ct(107, "v", "host3", res(0, 2, 0)))
	s.Hosts[2].Capacity = many(res(4, 16, 100))
	locked := s.Containers
	locked[0].Operation, locked[1].Operation = "op1", "op2"
	p := Consolidate(s, 0)
	if !slices.Equal(p.Freed, []string{"host3"}) {
		t.Errorf("13 fit into 6+7 as 3+3 and 3+2+2, but: %s", p.Why)
	}
	check(t, s, p)
}

func TestConsolidateManyHostsIsGreedyAndQuick(t *testing.T) {
	var names []string
	var cs []cluster.Container
	for i := range 40 {
		names = append(names, fmt.Sprintf("host%02d", i))
		for j := range 5 {
			cs = append(cs, ct(101+i*5+j, fmt.Sprintf("c%d-%d", i, j), names[i], res(0.3, 0.3+0.1*float64(j), 1)))
		}
	}
	s := snapshot(names, cs...)
	start := time.Now()
	p := Consolidate(s, 0)
	t.Logf("%d hosts freed by %d moves in %s", len(p.Freed), len(p.Moves), time.Since(start))
	if again := Consolidate(s.after(p.Moves), 0); len(again.Moves) > 0 {
		t.Errorf("a second plan right after the first: %s", to(again))
	}
	if len(p.Freed) < 20 { // 200 containers of 0.3 cores and 0.5 GiB need 15 hosts of 4 cores
		t.Errorf("only %d of 40 hosts freed", len(p.Freed))
	}
	check(t, s, p)
}

// What makes room for a step, or moves the same container before, is waited for; the rest goes on beside it.
func TestTraffic(t *testing.T) {
	steps := []cluster.Move{
		{Container: 1, From: "a", To: "b"}, // makes room on a
		{Container: 2, From: "c", To: "a"}, // waits for it
		{Container: 3, From: "c", To: "b"},
		{Container: 1, From: "b", To: "c"}, // waits for all before it
	}
	begun, ended := make([]bool, len(steps)), make([]bool, len(steps))
	for _, c := range []struct{ end, want int }{{-1, 0}, {-1, 2}, {-1, -1}, {0, 1}, {2, -1}, {1, 3}, {3, -1}} {
		if c.end >= 0 {
			ended[c.end] = true
		}
		got := Traffic{}.Next(steps, begun, ended)
		if got != c.want {
			t.Fatalf("after the end of step %d: step %d, want %d", c.end, got, c.want)
		}
		if got >= 0 {
			begun[got] = true
		}
	}
}
