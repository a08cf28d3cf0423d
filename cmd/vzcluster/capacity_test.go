package main

import (
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestCapacity(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteCapacity: api.CapacityReply{Now: 12, AfterLoss: 7, Worst: "host2"}})
	r := f.run("capacity", "--ram", "2G", "--cpus", "2", "--group", "web")
	if r.code != 0 || !strings.Contains(r.stdout, "12") || !strings.Contains(r.stdout, "7") || !strings.Contains(r.stdout, "host2") {
		t.Errorf("capacity: %+v", r)
	}
	if asked := f.last(); !strings.Contains(asked, `"ram":2147483648`) || !strings.Contains(asked, `"group":"web"`) {
		t.Errorf("it asked for %s", asked)
	}
	if r := f.run("capacity", "--ram", "much"); r.code != 2 {
		t.Errorf("a bad size: %+v", r)
	}
}

func TestWhatIf(t *testing.T) {
	reply := api.WhatIfReply{Host: "host2", Why: "it would be survived", Protected: 1, Homes: []cluster.Move{{Container: 101, Name: "web", To: "host1"}}}
	f := newFake(t, map[string]any{api.RouteWhatIf: func() any { return reply }})
	if r := f.run("whatif", "host-dies", "host2"); r.code != 0 || !strings.Contains(r.stdout, "host1") || !strings.Contains(r.stderr, "survived") {
		t.Errorf("a loss that would be survived: %+v", r)
	}
	reply.Why, reply.Unplaced = "db would fit nowhere", []api.Unplaced{{Container: 102, Name: "db", Why: "no room"}}
	if r := f.run("whatif", "host-dies", "host2"); r.code != 4 || !strings.Contains(r.stdout, "no room") || !strings.Contains(r.stderr, "db would fit nowhere") {
		t.Errorf("one that would not: %+v", r)
	}
}
