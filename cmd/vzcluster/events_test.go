package main

import (
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
)

func TestEvents(t *testing.T) {
	f := newFake(t, map[string]any{
		api.RouteEvents: []api.LimitEvent{{First: at(0), Last: at(5), Host: "host2", Container: 101, Name: "web", Resource: "numproc", What: "it could not make another process", Times: 3}},
		api.RouteBeans:  []api.Bean{{Name: "numproc", Held: 5, MaxHeld: 9, Barrier: 40, Limit: 40, Failures: 3}, {Name: "kmemsize", Held: 1, MaxHeld: 2, Barrier: -1, Limit: -1}},
	})
	want := `LAST                  CONTAINER  TIMES  WHAT
2026-03-01T12:00:05Z  web (101)  3      it could not make another process
`
	if r := f.run("events", "web"); r.stdout != want || r.code != 0 {
		t.Errorf("events: %+v", r)
	}
	want = `RESOURCE  HELD  MAXHELD  BARRIER    LIMIT      FAILCNT
numproc   5     9        40         40         3
kmemsize  1     2        unlimited  unlimited  0
`
	if r := f.run("ubc", "web"); r.stdout != want || r.code != 0 {
		t.Errorf("ubc: %+v", r)
	}
}
