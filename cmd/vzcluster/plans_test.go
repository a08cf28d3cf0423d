package main

import (
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestPlansAreSavedAndActedOn(t *testing.T) {
	op := cluster.Operation{ID: "p1", Kind: cluster.OpRebalance, Status: cluster.OpProposed, Steps: []cluster.Move{{Name: "web", From: "h1", To: "h2", Why: "h1 is 80% full", Status: cluster.StepWithdrawn, Reason: "web is on h3 now"}}}
	f := newFake(t, map[string]any{api.RouteRebalance: op, api.RoutePlanAction: op, api.RouteOperations: []cluster.Operation{op, {ID: "m", Kind: cluster.OpMigrate}}})
	r := f.run("rebalance", "--save", "--partial", "--imbalance", "7")
	if got := f.last(); r.code != 0 || !strings.Contains(got, `"save":true,"partial":true,"imbalance":7`) || !strings.Contains(r.stderr, "plan approve p1") {
		t.Errorf("exit %d: %s\n%s", r.code, got, r.stderr)
	}
	if r := f.run("plan", "ls", "-o", "name"); r.stdout != "p1\n" {
		t.Errorf("plan ls names %q", r.stdout)
	}
	for _, verb := range []string{"approve", "reject", "pause", "resume", "stop"} {
		r := f.run("plan", verb, "p1")
		if got := f.asked[len(f.asked)-1]; r.code != 0 || got != "POST /v1/plans/p1/"+verb || !strings.Contains(r.stdout, "web is on h3 now") {
			t.Errorf("%s: exit %d, asked %s: %s", verb, r.code, got, r.stdout)
		}
	}
	if r := f.run("rebalance", "--imbalance", "0"); r.code != 2 {
		t.Errorf("an imbalance of nothing: exit %d", r.code)
	}
}

func TestSettingsChangeWhatIsSaid(t *testing.T) {
	s := api.Settings{Policy: cluster.Policy{Placement: cluster.Pack}, Automation: cluster.Automation{Rebalance: true, Spare: 9}}
	f := newFake(t, map[string]any{api.RouteSettings: s, api.RouteSettingsWrite: s})
	r := f.run("settings", "set", "--rebalance=false", "--consolidate", "--hold", "30s", "--window", "22:00-04:00")
	if got := f.last(); r.code != 0 || !strings.Contains(got, `"placement":"pack"`) || !strings.Contains(got, `"automation":{"consolidate":true,"window":{"from":1320,"to":240},"hold_ms":30000,"spare":9}`) {
		t.Errorf("exit %d: %s%s", r.code, got, r.stderr)
	}
	if r := f.run("settings", "set"); r.code != 2 {
		t.Errorf("nothing to change: exit %d", r.code)
	}
}

func TestHostSet(t *testing.T) {
	h := api.Host{Host: cluster.Host{Name: "h1", Reserve: cluster.Resources{MilliCPU: 500}}}
	f := newFake(t, map[string]any{api.RouteHosts: []api.Host{h}, api.RouteHostSet: h, api.RouteHostPower: h, api.RouteHostRemove: struct{}{}})
	r := f.run("host", "set", "h1", "--label", "zone=b", "--reserve-ram", "2G", "--power", "command", "--power-hook", "switch")
	if got := f.last(); r.code != 0 || !strings.Contains(got, `"milli_cpu":500,"ram":2147483648`) || !strings.Contains(got, `"power":{"method":"command","hook":"switch"}`) {
		t.Errorf("exit %d: %s%s", r.code, got, r.stderr)
	}
	if r := f.run("host", "park", "h1"); r.code != 0 || f.last() != `{"on":false}` {
		t.Errorf("exit %d: %s", r.code, f.last())
	}
	if r := f.run("host", "leave", "h1", "--force", "-y"); r.code != 0 || f.asked[len(f.asked)-1] != "DELETE /v1/hosts/h1" {
		t.Errorf("exit %d: %v", r.code, f.asked)
	}
}
