package cluster

import (
	"errors"
	"testing"
	"time"
)

func TestConstraints(t *testing.T) {
	h := Host{Name: "h1", Labels: map[string]string{"zone": "a", "kernel": "6.12.3", "cpu": "x86-64-v3", "gpu": "yes"}}
	for text, want := range map[string]bool{
		"zone=a": true, "zone=b,a": true, "zone=b": false, "zone!=b": true, "zone!=a,b": false, "gpu": true, "!gpu": false,
		"ssd": false, "!ssd": true, "ssd=yes": false, "ssd!=yes": true, "kernel>=6.9": true, "kernel>=6.12.3": true, "kernel>=6.13": false,
		"kernel>=6.012": true, "cpu>=x86-64-v2": true, "cpu>=x86-64-v4": false, "ssd>=1": false, "name=h1": true, "name!=h1": false,
	} {
		c, err := ParseConstraint(text)
		if err != nil || c.String() != text {
			t.Errorf("%q was read as %q: %v", text, c, err)
		}
		if c.Holds(&h) != want {
			t.Errorf("%q holds: %v, want %v", text, !want, want)
		}
	}
	for _, bad := range []string{"", "!", "=a", "zone=", "zone=a,,b", "zone>=a,b", "zo ne=a", "a=b=c", "!a=b"} {
		if c, err := ParseConstraint(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q was read as %+v: %v", bad, c, err)
		}
	}
}

func TestAffinities(t *testing.T) {
	for text, weight := range map[string]int{"zone=a": 50, "zone=a:100": 100, "group=web:-20": -20, "!gpu:1": 1} {
		if a, err := ParseAffinity(text); err != nil || a.Weight != weight {
			t.Errorf("%q was read as %+v: %v", text, a, err)
		}
	}
	for _, bad := range []string{"zone=a:0", "zone=a:101", "zone=a:x", ":5", "group!=web"} {
		if a, err := ParseAffinity(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q was read as %+v: %v", bad, a, err)
		}
	}
}

func TestWindows(t *testing.T) {
	sunday := time.Date(2026, 1, 4, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		window string
		after  time.Duration // of Sunday's midnight
		open   bool
	}{
		{"always", 0, true},
		{"08:00-10:00", 9 * time.Hour, true},
		{"08:00-10:00", 10 * time.Hour, false},
		{"08:00-10:00", 7 * time.Hour, false},
		{"22:00-04:00", 23 * time.Hour, true},
		{"22:00-04:00", 3 * time.Hour, true},
		{"22:00-04:00", 5 * time.Hour, false},
		{"sun 22:00-04:00", 23 * time.Hour, true},
		{"sun 22:00-04:00", 27 * time.Hour, true},
		{"sun 22:00-04:00", 3 * time.Hour, false},
		{"sat,mon 22:00-04:00", 3 * time.Hour, true},
		{"sat,mon 22:00-04:00", 23 * time.Hour, false},
		{"00:00-00:00", time.Hour, true},
	} {
		w, err := ParseWindow(c.window)
		if err != nil || w.Open(sunday.Add(c.after)) != c.open {
			t.Errorf("%q after %s: open is not %v (%v)", c.window, c.after, c.open, err)
		}
		if again, err := ParseWindow(w.String()); err != nil || again.String() != w.String() {
			t.Errorf("%q is written as %q: %v", c.window, w, err)
		}
	}
	for _, bad := range []string{"8", "08:00", "08:00-25:00", "xyz 08:00-10:00", "08:00-10:00 sun", "-"} {
		if w, err := ParseWindow(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q was read as %+v: %v", bad, w, err)
		}
	}
}

func TestTallies(t *testing.T) {
	two := Tally{}.Add(0).Add(2)
	if two.Takes(0) || two.Takes(3) || !(Tally{}).Takes(1) || (Tally{}).Add(0).Takes(1) || !(Tally{}).Add(3).Takes(2) {
		t.Errorf("%+v: neither a newcomer's limit nor that of one that is there may be broken", two)
	}
}

func TestOffer(t *testing.T) {
	h := Host{Capacity: Resources{MilliCPU: 4000, RAM: 8 * gib, Disk: 100 * gib, Network: 1e9}, Reserve: Resources{RAM: gib, Network: 1e8}, MaxContainers: 3}
	got := Policy{CPUPercent: 400, RAMPercent: 150}.Offer(&h)
	if want := (Resources{16000, 7 * gib / 100 * 150, 100 * gib, 9e8, 3, 7 * gib}); got != want {
		t.Errorf("offers %+v, want %+v", got, want)
	}
	if got := (Policy{}).Offer(&Host{}); got.Network != unlimited || got.Containers != unlimited || got.RAM != 0 {
		t.Errorf("what is not declared is not counted: %+v", got)
	}
}

func grouped(id int, host string, limit int) CreateContainer {
	c := create(id, host)
	c.Container.Rules = Rules{Group: "web", MaxPerHost: limit}
	return c
}

func with(c CreateContainer, r Rules) CreateContainer { c.Container.Rules = r; return c }

func TestRulesAreKept(t *testing.T) {
	zones := []Command{
		UpdateHost{Name: "h1", Labels: map[string]string{"zone": "a"}}, UpdateHost{Name: "h2", Labels: map[string]string{"zone": "a"}},
	}
	one, many, room, small := int64(1), Rules{Group: "web"}, int64(1), Rules{Group: "web", MaxPerHost: 1}
	testRefusals(t, []refused{
		{"max per host", []Command{grouped(101, "h1", 1)}, grouped(102, "h1", 1), ErrNoFit, "group web has 1 on one host already"},
		{"the limit of the one that is there", []Command{grouped(101, "h1", 1)}, grouped(102, "h1", 0), ErrNoFit, "group web"},
		{
			"max per zone", append(zones, with(create(101, "h1"), Rules{Group: "web", MaxPerZone: 1})),
			with(create(102, "h2"), Rules{Group: "web", MaxPerZone: 1}), ErrNoFit, "group web has 1 in one zone already",
		},
		{"a move to another of the group", []Command{grouped(101, "h1", 1), grouped(102, "h2", 1)}, begin("m", 101, "h1", "h2", 1), ErrNoFit, "group web"},
		{"on its way counts", []Command{grouped(101, "h1", 1), begin("m", 101, "h1", "h2", 1)}, grouped(102, "h2", 1), ErrNoFit, "group web"},
		{"pinned", nil, with(create(101, "h1"), Rules{Pinned: "h2"}), ErrNoFit, "pinned to h2"},
		{"constraint", nil, with(create(101, "h1"), Rules{Constraints: []Constraint{{"zone", OpIn, []string{"a"}}}}), ErrNoFit, "zone=a not met"},
		{"new rules", []Command{grouped(101, "h1", 0), grouped(102, "h1", 0)}, SetContainer{ID: 101, Rules: &small}, ErrNoFit, "new rules do not allow"},
		{"containers", []Command{SetHost{Name: "h1", MaxContainers: &one}, create(101, "h1")}, create(102, "h1"), ErrNoFit, "there may be 0 more"},
		{"kept for the host", []Command{SetHost{Name: "h1", Reserve: &Resources{RAM: 7 * gib / 2}}}, create(101, "h1"), ErrNoFit, "memory"},
		{
			"guarantees",
			[]Command{SetPolicy{Policy{RAMPercent: 400}}, SetHost{Name: "h1", Reserve: &Resources{RAM: 3 * gib}}, with(create(101, "h1"), Rules{Guarantee: gib})},
			with(create(102, "h1"), Rules{Guarantee: gib}), ErrNoFit, "guaranteed memory: needs 1G, 0 free",
		},
		{"guarantee above the limit", nil, with(create(101, "h1"), Rules{Guarantee: 2 * gib}), ErrInvalid, "more than the container may use"},
		{"limit without a group", nil, with(create(101, "h1"), Rules{MaxPerHost: 1}), ErrInvalid, "name the group"},
		{"negative limit", nil, with(create(101, "h1"), Rules{Group: "a", MaxPerZone: -1}), ErrInvalid, "cannot be negative"},
		{"priority", nil, with(create(101, "h1"), Rules{Priority: 1001}), ErrInvalid, "priority"},
		{"policy", nil, with(create(101, "h1"), Rules{Policy: "tight"}), ErrInvalid, "no placement policy"},
		{"group as a constraint", nil, with(create(101, "h1"), Rules{Constraints: []Constraint{{"group", OpIn, []string{"a"}}}}), ErrInvalid, "affinity"},
		{"operator", nil, with(create(101, "h1"), Rules{Constraints: []Constraint{{"zone", "like", nil}}}), ErrInvalid, "no constraint"},
		{"weight", nil, with(create(101, "h1"), Rules{Affinities: []Affinity{{Constraint{"zone", OpExists, nil}, 0}}}), ErrInvalid, "weight"},
		{"window", nil, with(create(101, "h1"), Rules{Window: Window{From: 1440}}), ErrInvalid, "window"},
		{"cluster policy", nil, SetPolicy{Policy{Placement: "tight"}}, ErrInvalid, "no placement policy"},
		{"percent", nil, SetPolicy{Policy{CPUPercent: -5}}, ErrInvalid, "cannot be promised"},
		{"reserve", nil, SetHost{Name: "h1", Reserve: &Resources{RAM: -1}}, ErrInvalid, "negative"},
		{"host unknown", nil, SetHost{Name: "h9"}, ErrNotFound, "h9"},
	})
	s := must(t, NewState(), threeHosts()...)
	s = must(t, s, append(zones, grouped(101, "h1", 1), begin("m", 101, "h1", "h2", 1), CommitMigration{"m"}, FinishMigration{Operation: "m"})...)
	s = must(t, s, SetContainer{ID: 101, Rules: &many}, grouped(102, "h2", 0), SetHost{Name: "h3", MaxContainers: &room}, create(103, "h3"))
	s = must(t, s, with(create(104, "h1"), Rules{Group: "db", MaxPerZone: 1}), begin("n", 104, "h1", "h2", 1)) // it stays in its zone
	unchanged(t, s, SetContainer{ID: 101, Rules: &Rules{Group: "web"}})
	unchanged(t, s, SetPolicy{})
}
