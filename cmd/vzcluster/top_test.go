package main

import (
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
)

func TestTop(t *testing.T) {
	n := time.Duration(0)
	f := newFake(t, map[string]any{
		api.RouteProcesses: func() any {
			n += time.Second
			return []api.Running{{PID: 10, Inside: 1, State: "S", Command: "init"}, {PID: 12, Inside: 7, State: "R", CPU: n, RAM: 3 << 20, Threads: 2, Command: "busy"}}
		},
		api.RouteWhich: api.Which{Container: 101, Name: "web", Process: api.Running{Inside: 7, Command: "busy"}},
	})
	r := f.run("top", "web", "-d", "10ms")
	lines := strings.Split(r.stdout, "\n")
	if r.code != 0 || len(lines) < 3 || !strings.Contains(lines[1], "busy") || strings.Contains(lines[1], " 0.0 ") || !strings.Contains(lines[2], "init") {
		t.Errorf("got %+v", r)
	}
	if r := f.run("top", "web", "-o", "json"); r.code != 0 || !strings.Contains(r.stdout, `"inside": 7`) {
		t.Errorf("as JSON: %+v", r)
	}
	if r := f.run("which", "12", "-o", "name"); r.stdout != "web\n" || f.asked[len(f.asked)-1] != "GET /v1/pids/12" {
		t.Errorf("got %+v, asked %v", r, f.asked)
	}
	if r := f.run("pid", "12"); !strings.Contains(r.stdout, "101") || !strings.Contains(r.stdout, "busy") {
		t.Errorf("got %+v", r)
	}
	for _, bad := range [][]string{{"pid", "x"}, {"pid", "0"}, {"top", "web", "-d", "0s"}} {
		if r := f.run(bad...); r.code != 2 {
			t.Errorf("%v: %+v", bad, r)
		}
	}
}
