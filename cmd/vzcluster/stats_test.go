package main

import (
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
)

func TestStats(t *testing.T) {
	web := api.Stats{ID: 101, Name: "web", Host: "host1", At: at(0), CPUUsec: 1000, RAM: 64 << 20, RAMLimit: 1 << 30, MilliCPU: 1500, PIDs: 7}
	later := web
	later.At, later.CPUUsec = at(1), 1000+250_000
	moved := api.Stats{ID: 102, Name: "db", Host: "host2", At: at(1), RAM: 1 << 20, OOMKills: 2}
	answer := func() func() any { return sequence([]api.Stats{web}, []api.Stats{later, moved}) }
	f := newFake(t, map[string]any{api.RouteStats: answer()})
	want := `CTID  NAME  HOST   CPU %  CPUS  RAM  LIMIT  PIDS  OOM KILLS
101   web   host1  25.0   1.5   64M  1G     7     0
102   db    host2  -      -     1M   -      0     2
`
	if r := f.run("stats", "--interval", "100ms"); r.code != 0 || r.stdout != want {
		t.Errorf("%+v\nwant\n%s", r, want)
	}
	f = newFake(t, map[string]any{api.RouteStats: answer()})
	if r := f.run("stats", "101", "--interval", "100ms", "-o", "name"); r.code != 0 || r.stdout != "web\n" {
		t.Errorf("one: %+v", r)
	}
	if r := f.run("stats", "none"); r.code != 3 || !strings.Contains(r.stderr, "no container none runs") {
		t.Errorf("none: %+v", r)
	}
	if r := f.run("stats", "--interval", "1ms"); r.code != 2 {
		t.Errorf("too short: %+v", r)
	}
}
