package cluster

import (
	"fmt"
	"testing"
)

func TestMigration(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"))
	need := Resources{MilliCPU: 1000, RAM: gib, Disk: 10 * gib, Containers: 1}

	s, op := apply[*Operation](t, s, begin("m", 101, "h1", "h2", 1))
	if op.Status != OpRunning || op.Kind != OpMigrate || op.Mode != ModeLive || s.ActiveMigration(101) != op {
		t.Errorf("began %+v", op)
	}
	if ct := s.Container(101); ct.Operation != "m" || ct.Host != "h1" || ct.Generation != 1 {
		t.Errorf("while it runs the container is %+v", ct)
	}
	if s.Reserved("h1") != need || s.Reserved("h2") != need {
		t.Errorf("while it runs %+v and %+v are reserved, want %+v on both", s.Reserved("h1"), s.Reserved("h2"), need)
	}

	s, ct := apply[*Container](t, s, CommitMigration{"m"})
	if ct.Host != "h2" || ct.Generation != 2 || ct.Operation != "m" || s.Operation("m").Status != OpCommitted {
		t.Errorf("committed as %+v", ct)
	}
	if s.ActiveMigration(101) == nil || s.LastMove(101) != nil {
		t.Error("a committed migration counts as finished")
	}
	if s.Reserved("h1") != (Resources{}) || s.Reserved("h2") != need {
		t.Errorf("after the commit %+v and %+v are reserved", s.Reserved("h1"), s.Reserved("h2"))
	}
	if got := unchanged(t, s, CommitMigration{"m"}); got != ct {
		t.Errorf("a repeated commit returned %v", got)
	}

	fin := FinishMigration{Operation: "m", Result: MoveResult{From: "h1", To: "h2", BlackoutMS: 80}, At: at(6)}
	s, op = apply[*Operation](t, s, fin)
	if op.Status != OpDone || !op.Ended.Equal(at(6)) || op.Result.BlackoutMS != 80 || s.LastMove(101).To != "h2" {
		t.Errorf("finished %+v", op)
	}
	if ct := s.Container(101); ct.Operation != "" || ct.Restarted != 0 || s.ActiveMigration(101) != nil {
		t.Errorf("after the end the container is %+v", ct)
	}
	unchanged(t, s, fin)

	s = must(t, s, begin("back", 101, "h2", "h1", 2), CommitMigration{"back"})
	s = must(t, s, FinishMigration{Operation: "back", Result: MoveResult{Restarted: true}, At: at(7)})
	if ct := s.Container(101); ct.Restarted != 1 || ct.Detail == "" || ct.Generation != 3 || ct.Host != "h1" {
		t.Errorf("after a restart the container is %+v", ct)
	}
}

func TestAbort(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"), begin("m", 101, "h1", "h2", 1))
	abort := AbortMigration{"m", "the target went away", at(6), false}
	s, op := apply[*Operation](t, s, abort)
	if op.Status != OpAborted || op.Error != "the target went away" || !op.Ended.Equal(at(6)) {
		t.Errorf("aborted %+v", op)
	}
	if ct := s.Container(101); ct.Operation != "" || ct.Host != "h1" || ct.Generation != 1 || s.Reserved("h2") != (Resources{}) {
		t.Errorf("after the abort the container is %+v and %+v is reserved", ct, s.Reserved("h2"))
	}
	unchanged(t, s, abort)
	must(t, s, begin("again", 101, "h1", "h2", 1))
}

// TestRestartIsCountedOnce: the owner reports it until it has an answer, and after a commit the result says it again.
func TestRestartIsCountedOnce(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"), begin("m", 101, "h1", "h2", 1), AbortMigration{Operation: "m"})
	starting := ReportContainer{ID: 101, Host: "h1", Generation: 1, State: Starting, Detail: "a fault", Restarted: true, Operation: "m"}
	s = must(t, s, starting, starting)
	if ct := s.Container(101); ct.Restarted != 1 || !s.Operation("m").Restarted {
		t.Errorf("after an abort it counts %d restarts", ct.Restarted)
	}
	starting.Host, starting.Generation, starting.Operation = "h2", 2, "n"
	s = must(t, s, begin("n", 101, "h1", "h2", 1), CommitMigration{"n"}, starting, FinishMigration{Operation: "n", Result: MoveResult{Restarted: true}})
	if ct := s.Container(101); ct.Restarted != 2 || !s.Operation("n").Result.Restarted {
		t.Errorf("after a commit it counts %d restarts", ct.Restarted)
	}
}

// TestALossIsCountedOnce: the migration that met the fault ends before the start, and the next one has to do it.
func TestALossIsCountedOnce(t *testing.T) {
	report := func(state ContainerState, restarted bool, op string) ReportContainer {
		return ReportContainer{ID: 101, Host: "h1", Generation: 1, State: state, Restarted: restarted, Operation: op}
	}
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"),
		begin("m", 101, "h1", "h2", 1), AbortMigration{Operation: "m"}, report(Starting, true, "m"), report(Running, false, ""), report(Failed, false, ""), // it runs, broken, and ends
		begin("n", 101, "h1", "h2", 1), AbortMigration{Operation: "n"}, report(Starting, true, "n"))
	if ct := s.Container(101); ct.Restarted != 1 || ct.Lost != "m" {
		t.Errorf("before the start it counts %d restarts, the last by %q", ct.Restarted, ct.Lost)
	}
	again := []Command{begin("o", 101, "h1", "h2", 1), AbortMigration{Operation: "o"}, report(Starting, true, "o")}
	for _, started := range []ReportContainer{report(Running, true, "n"), report(Starting, false, ""), report(Starting, true, ""), report(Stopped, false, "")} {
		if ct := must(t, must(t, s, started), again...).Container(101); ct.Restarted != 2 || ct.Lost != "o" {
			t.Errorf("after %s it counts %d restarts, the last by %q", started.State, ct.Restarted, ct.Lost)
		}
	}
}

func TestMigrationRefusals(t *testing.T) {
	one := []Command{create(101, "h1")}
	running := append(one[:1:1], begin("m", 101, "h1", "h2", 1))
	committed := append(running[:2:2], CommitMigration{"m"})
	done := append(committed[:3:3], FinishMigration{Operation: "m"})
	aborted := append(running[:2:2], AbortMigration{Operation: "m"})
	full := create(102, "h2")
	full.Container.Limits.RAM = 3*gib + 1
	promised := create(102, "h3") // a second migration to h2 does not fit beside the first
	promised.Container.Limits.RAM = 3*gib + 1
	with := func(change func(*Operation)) BeginMigration {
		c := begin("m", 101, "h1", "h2", 1)
		change(&c.Operation)
		return c
	}
	drain := BeginPlan{Operation{ID: "d", Kind: OpDrain, Host: "h1"}}
	testRefusals(t, []refused{
		{"no id", one, with(func(o *Operation) { o.ID = "" }), ErrInvalid, "id"},
		{"id taken", done, begin("m", 101, "h2", "h1", 2), ErrConflict, `"m"`},
		{"other kind", one, with(func(o *Operation) { o.Kind = OpDrain }), ErrInvalid, "drain"},
		{"mode", one, with(func(o *Operation) { o.Mode = "beam" }), ErrInvalid, "beam"},
		{"unknown container", nil, with(func(*Operation) {}), ErrNotFound, "101"},
		{"not the owner", one, with(func(o *Operation) { o.From = "h3" }), ErrStale, `"h1"`},
		{"old generation", done, begin("n", 101, "h2", "h1", 1), ErrStale, "generation 2"},
		{"to itself", one, with(func(o *Operation) { o.To = "h1" }), ErrInvalid, "already"},
		{"unknown target", one, with(func(o *Operation) { o.To = "h9" }), ErrNotFound, `"h9"`},
		{"cordoned target", append(one[:1:1], SetHostState{Name: "h2", State: HostCordoned}), with(func(*Operation) {}), ErrNoFit, "cordoned"},
		{"full target", append(one[:1:1], full), with(func(*Operation) {}), ErrNoFit, "memory"},
		{"target full of promises", append(running[:2:2], promised), begin("n", 102, "h3", "h2", 1), ErrNoFit, "memory"},
		{"create on a promise", running, func() Command { c := full; c.Container.ID = 0; return c }(), ErrNoFit, "memory"},
		{"migrating already", running, begin("n", 101, "h1", "h3", 1), ErrLocked, "operation m"},
		{"committed but not finished", committed, begin("n", 101, "h2", "h3", 2), ErrLocked, "operation m"},
		{"destroyed", append(one[:1:1], SetDesired{ID: 101, Desired: WantDestroyed}), with(func(*Operation) {}), ErrConflict, "destroyed"},
		{"commit unknown", nil, CommitMigration{"m"}, ErrNotFound, `"m"`},
		{"commit after abort", aborted, CommitMigration{"m"}, ErrStale, "aborted"},
		{"commit after the end", done, CommitMigration{"m"}, ErrStale, "done"},
		{"commit a drain", []Command{drain}, CommitMigration{"d"}, ErrInvalid, "drain"},
		{"abort unknown", nil, AbortMigration{Operation: "m"}, ErrNotFound, `"m"`},
		{"abort after commit", committed, AbortMigration{Operation: "m"}, ErrStale, "committed"},
		{"abort after the end", done, AbortMigration{Operation: "m"}, ErrStale, "done"},
		{"finish unknown", nil, FinishMigration{Operation: "m"}, ErrNotFound, `"m"`},
		{"finish before commit", running, FinishMigration{Operation: "m"}, ErrStale, "not committed"},
		{"finish after abort", aborted, FinishMigration{Operation: "m"}, ErrStale, "aborted"},
	})
}

func TestOldOperationsAreDropped(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"))
	s = must(t, s, begin("kept", 101, "h1", "h2", 1), CommitMigration{"kept"},
		FinishMigration{Operation: "kept", Result: MoveResult{To: "h2"}, At: at(5)})
	s = must(t, s, BeginPlan{Operation{ID: "active", Kind: OpDrain, Host: "h3", Started: at(0)}})
	for i := range keptOperations {
		id := fmt.Sprintf("m%d", i)
		b := begin(id, 101, "h2", "h1", 2)
		b.Operation.Started = at(10 + i)
		s = must(t, s, b, AbortMigration{Operation: id, At: at(10 + i)})
	}
	if s.Operation("kept") != nil || s.Operation("m0") == nil || len(s.Operations()) != keptOperations+1 {
		t.Errorf("%d operations are kept, the oldest ended one: %v", len(s.Operations()), s.Operation("kept"))
	}
	if s.Operation("active") == nil {
		t.Error("an operation that is under way was dropped")
	}
	if s.LastMove(101) == nil {
		t.Error("the last move was dropped with its operation")
	}
}

func TestPlan(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	steps := []Move{{Container: 101, From: "h1", To: "h2"}, {Container: 102, From: "h1", To: "h3"}}
	s, op := apply[*Operation](t, s, BeginPlan{Operation{ID: "d", Kind: OpDrain, Host: "h1", Steps: steps, Started: at(5)}})
	if op.Status != OpRunning || len(op.Steps) != 2 {
		t.Errorf("began %+v", op)
	}
	must(t, s, BeginPlan{Operation{ID: "d2", Kind: OpDrain, Host: "h2"}})

	s2, step := apply[*Operation](t, s, StepPlan{Operation: "d", Step: 1, Migration: "m", Status: "running"})
	if step.Steps[1].Operation != "m" || step.Steps[1].Status != "running" || step.Steps[0].Status != "" {
		t.Errorf("the step gave %+v", step.Steps)
	}
	if op.Steps[1].Status != "" || steps[1].Status != "" {
		t.Error("the step changed the old state")
	}
	unchanged(t, s2, StepPlan{Operation: "d", Step: 1, Migration: "m", Status: "running"})
	s2, step = apply[*Operation](t, s2, StepPlan{Operation: "d", Step: 1, Migration: "", Status: "done"})
	if step.Steps[1].Operation != "m" || step.Steps[1].Status != "done" {
		t.Errorf("the step forgot its migration: %+v", step.Steps[1])
	}

	end := EndPlan{"d", OpFailed, "h3 went away", at(9)}
	s2, op = apply[*Operation](t, s2, end)
	if op.Status != OpFailed || op.Error != "h3 went away" || !op.Ended.Equal(at(9)) {
		t.Errorf("ended %+v", op)
	}
	unchanged(t, s2, end)
	must(t, s2, BeginPlan{Operation{ID: "d3", Kind: OpDrain, Host: "h1"}})
}

func TestPlanRefusals(t *testing.T) {
	drain := BeginPlan{Operation{ID: "d", Kind: OpDrain, Host: "h1", Steps: []Move{{Container: 101}}}}
	running := []Command{drain}
	ended := append(running[:1:1], EndPlan{"d", OpDone, "", at(1)})
	testRefusals(t, []refused{
		{"no id", nil, BeginPlan{Operation{Kind: OpConsolidate}}, ErrInvalid, "id"},
		{"no kind", nil, BeginPlan{Operation{ID: "x"}}, ErrInvalid, "kind"},
		{"a migration", nil, BeginPlan{Operation{ID: "x", Kind: OpMigrate}}, ErrInvalid, "migrate"},
		{"unknown host", nil, BeginPlan{Operation{ID: "x", Kind: OpDrain, Host: "h9"}}, ErrNotFound, `"h9"`},
		{"id taken", running, drain, ErrConflict, `"d"`},
		{"second drain of a host", running, BeginPlan{Operation{ID: "d2", Kind: OpDrain, Host: "h1"}}, ErrConflict, "drain of host h1 is under way"},
		{"a consolidation beside a drain", running, BeginPlan{Operation{ID: "c2", Kind: OpConsolidate}}, ErrConflict, "plan stop d"},
		{"step of unknown", nil, StepPlan{Operation: "d", Step: 0, Migration: "", Status: "done"}, ErrNotFound, `"d"`},
		{"step below", running, StepPlan{Operation: "d", Step: -1, Migration: "", Status: "done"}, ErrInvalid, "no step -1"},
		{"step beyond", running, StepPlan{Operation: "d", Step: 1, Migration: "", Status: "done"}, ErrInvalid, "no step 1"},
		{"step after the end", ended, StepPlan{Operation: "d", Step: 0, Migration: "", Status: "done"}, ErrStale, "done"},
		{"end unknown", nil, EndPlan{Operation: "d", Status: OpDone}, ErrNotFound, `"d"`},
		{"end as running", running, EndPlan{Operation: "d", Status: OpRunning}, ErrInvalid, "running"},
		{"end otherwise", ended, EndPlan{Operation: "d", Status: OpFailed}, ErrStale, "done"},
	})
}
