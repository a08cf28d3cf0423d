package main

import (
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestCreateManyWithRules(t *testing.T) {
	f := newFake(t, map[string]any{
		api.RouteTemplates: []cluster.Template{{Name: "deb"}},
		api.RouteCreateMany: []api.Created{
			{ID: 101, Name: "web-1", Host: "h1", Why: "h1 has the most room", Addresses: []string{"10.0.0.2/16"}},
			{ID: 102, Name: "web-2", Why: "no host can take it"},
		},
	})
	r := f.run("create", "web", "--count", "2", "--wait-for-room", "--constraint", "zone=a,b", "--constraint", "!slow", "--affinity", "ssd:20",
		"--group", "web", "--max-per-host", "1", "--priority", "7", "--policy", "pack", "--pin", "h1", "--guarantee", "64M", "--stay", "--window", "sat 22:00-04:00")
	for _, part := range []string{
		`"name":"web"`, `"count":2`, `"wait_for_room":true`, `{"key":"zone","op":"in","values":["a","b"]}`, `{"key":"slow","op":"absent"}`,
		`"weight":20`, `"group":"web"`, `"max_per_host":1`, `"priority":7`, `"policy":"pack"`, `"pinned":"h1"`, `"guarantee":67108864`, `"stay":true`, `"from":1320`,
	} {
		if !strings.Contains(f.last(), part) {
			t.Errorf("the request lacks %s: %s", part, f.last())
		}
	}
	if r.code != 0 || !strings.Contains(r.stdout, "web-2") || !strings.Contains(r.stderr, "1 of them wait for room") {
		t.Errorf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	for _, bad := range [][]string{
		{"--count", "0"},
		{"--constraint", "=x"},
		{"--affinity", "ssd:much"},
		{"--window", "late"},
		{"--guarantee", "lots"},
	} {
		asked := len(f.asked)
		if r := f.run(append([]string{"create", "web"}, bad...)...); r.code != 2 || len(f.asked) != asked {
			t.Errorf("%v: exit %d, asked %d: %s", bad, r.code, len(f.asked)-asked, r.stderr)
		}
	}
}

// Of a container's rules `set` changes only what is said, and takes away what is none.
func TestSetRules(t *testing.T) {
	old := api.Container{Container: cluster.Container{ID: 101, Name: "web", Rules: cluster.Rules{
		Group: "web", MaxPerHost: 2, Pinned: "h1", Constraints: []cluster.Constraint{{Key: "ssd", Op: cluster.OpExists}},
	}}}
	f := newFake(t, map[string]any{api.RouteContainer: old, api.RouteSet: old})
	if r := f.run("set", "web", "--max-per-host", "1", "--constraint", "none", "--pin", "none"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	if got := f.last(); !strings.Contains(got, `"rules":{"group":"web","max_per_host":1}`) {
		t.Errorf("the request is %s", got)
	}
	if r := f.run("show", "web"); !strings.Contains(r.stdout, "only on h1") || !strings.Contains(r.stdout, "at most 2 containers of its group on a host") {
		t.Errorf("show says %s", r.stdout)
	}
}
