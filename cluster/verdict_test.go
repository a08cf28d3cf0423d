package cluster

import (
	"strings"
	"testing"
)

func blocker(process, what string) Blocker {
	return Blocker{Process: process, What: what, Remedy: "stop it"}
}

func TestReportVerdict(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"))
	found := NewVerdict([]Blocker{blocker("12 dockerd", "it has a BPF program open")})
	report := ReportVerdict{ID: 101, Host: "h1", Generation: 1, Verdict: found}
	if _, ct := apply[*Container](t, s, report); ct.Verdict != nil {
		t.Error("a container that does not run has a verdict")
	}
	s = must(t, s, ReportContainer{ID: 101, Host: "h1", Generation: 1, State: Running})
	s, ct := apply[*Container](t, s, report)
	if ct.Immovable() != "12 dockerd: it has a BPF program open; stop it" {
		t.Errorf("it says %q", ct.Immovable())
	}
	unchanged(t, s, report)
	if _, _, err := s.Apply(ReportVerdict{ID: 101, Host: "h2", Generation: 1}); err == nil {
		t.Error("another host could judge it")
	}
	for _, bad := range []Verdict{{Blockers: make([]Blocker, MaxBlockers+1)}, {Blockers: []Blocker{blocker("", strings.Repeat("x", 10_000))}}} {
		if _, _, err := s.Apply(ReportVerdict{ID: 101, Host: "h1", Generation: 1, Verdict: bad}); err == nil {
			t.Error("a verdict without bounds was kept")
		}
	}
	if _, ct := apply[*Container](t, s, ReportVerdict{ID: 101, Host: "h1", Generation: 1, Verdict: NewVerdict(nil)}); ct.Verdict == nil || ct.Immovable() != "" {
		t.Errorf("after all was mended: %+v", ct.Verdict)
	}
	if _, ct := apply[*Container](t, s, ReportContainer{ID: 101, Host: "h1", Generation: 1, State: Stopped}); ct.Verdict != nil {
		t.Error("a stopped container keeps its verdict")
	}
}

func TestVerdictsAreBoundedAndCompared(t *testing.T) {
	many := NewVerdict([]Blocker{blocker("1 a", strings.Repeat("ä", 500)), {}, {}, {}, {}, {}, {}, {}, {}, {}})
	if len(many.Blockers) != MaxBlockers || many.More != 2 || len(many.Blockers[0].What) > maxBlockerText || !strings.HasSuffix(many.Blockers[0].What, "ä...") {
		t.Errorf("it was cut to %+v", many)
	}
	a := NewVerdict([]Blocker{blocker("1 a", "x"), blocker("2 b", "x")})
	b := NewVerdict([]Blocker{blocker("7 b", "x"), blocker("9 a", "x")})
	less := NewVerdict([]Blocker{blocker("9 a", "x")})
	if !a.Same(b) || a.Same(less) || !less.Within(a) || a.Within(less) {
		t.Error("verdicts are told apart by the numbers of processes, or not by their names")
	}
}
