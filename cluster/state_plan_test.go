package cluster

import (
	"errors"
	"testing"
)

func plan(id string, kind OperationKind, host string) BeginPlan {
	return BeginPlan{Operation{ID: id, Kind: kind, Host: host, Steps: []Move{{Container: 101}, {Container: 102}}, Started: at(1)}}
}

func TestPlansBesideEachOther(t *testing.T) {
	drain := must(t, must(t, NewState(), threeHosts()...), plan("a", OpDrain, "h1"))
	for name, tc := range map[string]struct {
		c       BeginPlan
		refused bool
	}{
		"the same host":     {plan("b", OpDrain, "h1"), true},
		"another host":      {plan("b", OpDrain, "h2"), false},
		"a consolidation":   {plan("b", OpConsolidate, ""), true},
		"a maintenance":     {plan("b", OpMaintain, ""), true},
		"one to be decided": {BeginPlan{Operation{ID: "b", Kind: OpRebalance, Status: OpProposed}}, false},
	} {
		_, _, err := drain.Apply(tc.c)
		if (err != nil) != tc.refused || err != nil && !errors.Is(err, ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	proposed := must(t, drain, BeginPlan{Operation{ID: "b", Kind: OpRebalance, Status: OpProposed}})
	if _, _, err := proposed.Apply(SetPlan{Operation: "b", Status: OpRunning}); !errors.Is(err, ErrConflict) {
		t.Errorf("a plan was approved beside another one: %v", err)
	}
	after := must(t, proposed, EndPlan{Operation: "a", Status: OpDone, At: at(2)}, SetPlan{Operation: "b", Status: OpRunning})
	if op := after.Operation("b"); op.Status != OpRunning {
		t.Errorf("the approved plan is %s", op.Status)
	}
}

func TestPlanIsPausedAndStopped(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), plan("a", OpDrain, "h1"),
		StepPlan{Operation: "a", Step: 0, Status: StepDone}, SetPlan{Operation: "a", Status: OpPaused})
	if _, _, err := s.Apply(plan("b", OpConsolidate, "")); !errors.Is(err, ErrConflict) {
		t.Errorf("a plan began beside a paused one: %v", err)
	}
	s = must(t, s, SetPlan{Operation: "a", Status: OpRunning}, SetPlan{Operation: "a", Status: OpPaused}, EndPlan{Operation: "a", Status: OpAborted, At: at(3)})
	op := s.Operation("a")
	if op.Steps[0].Status != StepDone || op.Steps[1].Status != StepWithdrawn || op.Steps[1].Reason == "" {
		t.Errorf("the stopped plan has the steps %+v", op.Steps)
	}
	for _, c := range []Command{SetPlan{Operation: "a", Status: OpRunning}, StepPlan{Operation: "a", Step: 1, Status: StepDone}, ExtendPlan{Operation: "a", Known: 2}} {
		if _, _, err := s.Apply(c); !errors.Is(err, ErrStale) {
			t.Errorf("%T after the end: %v", c, err)
		}
	}
}

func TestExtendPlan(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), plan("a", OpMaintain, ""))
	extend := ExtendPlan{Operation: "a", Known: 2, Steps: []Move{{Container: 103}}, Round: &Round{Stage: RoundHook}}
	s = must(t, s, extend)
	if op := s.Operation("a"); len(op.Steps) != 3 || op.Round.Stage != RoundHook {
		t.Errorf("the plan is %+v", op)
	}
	if _, _, err := s.Apply(extend); !errors.Is(err, ErrStale) {
		t.Errorf("the same steps came twice: %v", err)
	}
}

func TestProposalsAreBounded(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	for i := range keptProposals + 5 {
		s = must(t, s, BeginPlan{Operation{ID: string(rune('A' + i)), Kind: OpRebalance, Status: OpProposed, Started: at(i)}})
	}
	if n := len(s.Operations()); n != keptProposals || s.Operation("A") != nil {
		t.Errorf("%d proposals are kept", n)
	}
}

func TestParking(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"))
	for host, why := range map[string]string{"h1": "not empty", "h2": "a quorum"} {
		if _, _, err := s.Apply(SetHostState{Name: host, State: HostParking}); !errors.Is(err, ErrConflict) {
			t.Errorf("%s was parked (%s): %v", host, why, err)
		}
	}
	s = must(t, s, AddToken{token("t4")}, AddHost{Host: testHost(4), TokenID: "t4", At: at(1)},
		SetHostState{Name: "h2", State: HostParking, At: at(2), Detail: "it is free"}, SetHostState{Name: "h2", State: HostParked, At: at(3)})
	if h := s.Host("h2"); h.State != HostParked || !h.Since.Equal(at(3)) {
		t.Errorf("the host is %+v", h)
	}
	if _, _, err := s.Apply(create(0, "h2")); !errors.Is(err, ErrNoFit) {
		t.Errorf("a parked host took a container: %v", err)
	}
	if _, _, err := s.Apply(SetHostState{Name: "h3", State: HostParking}); !errors.Is(err, ErrConflict) {
		t.Errorf("a second host of four was parked: %v", err)
	}
}

// Room is made for what waits only, and only by what is less important.
func TestPreemption(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"), create(102, "h1"))
	waits := CreateContainers{At: at(4), Specs: []Container{{Template: "deb", Limits: Limits{RAM: gib}, Rules: Rules{Priority: 5}}}, Items: []NewContainer{{ID: 110, Waits: true}}}
	s = must(t, s, waits)
	room := plan("a", OpPreempt, "h1")
	room.Operation.Container = 110
	for name, tc := range map[string]struct {
		change func(*Operation)
		before []Command
		want   error
	}{
		"for what waits":          {},
		"for what is not there":   {change: func(o *Operation) { o.Container = 111 }, want: ErrNotFound},
		"for what is on a host":   {change: func(o *Operation) { o.Container = 101 }, want: ErrStale},
		"on no host":              {change: func(o *Operation) { o.Host = "h9" }, want: ErrNotFound},
		"by what is as important": {before: []Command{SetContainer{ID: 102, Rules: &Rules{Priority: 5}}}, want: ErrConflict},
		"beside another plan":     {before: []Command{plan("z", OpDrain, "h2")}, want: ErrConflict},
	} {
		c := room
		if tc.change != nil {
			tc.change(&c.Operation)
		}
		next, _, err := must(t, s, tc.before...).Apply(c)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		if err == nil && next.PreemptionFor(110) == nil {
			t.Errorf("%s: no plan is known for the container", name)
		}
	}
	s = must(t, s, room, EndPlan{Operation: "a", Status: OpDone, At: at(6)})
	if s.PreemptionFor(110) != nil {
		t.Error("the plan has ended, and yet the container waits for it")
	}
}
