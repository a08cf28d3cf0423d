package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// hooks gives every host a hook that writes down how it was called.
func (l *testCluster) hooks(t *testing.T) (calls func() string) {
	dir := t.TempDir()
	log := filepath.Join(dir, "calls")
	must(t, os.WriteFile(filepath.Join(dir, "switch"), []byte("#!/bin/sh\necho \"$@\" >>"+log+"\n"), 0o755))
	l.hooksDir = dir
	return func() string {
		b, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		return string(b)
	}
}

func (l *testCluster) byHost(t *testing.T) map[string]int {
	t.Helper()
	hs, err := l.hosts[0].Hosts(t.Context())
	must(t, err)
	on := map[string]int{}
	for _, h := range hs {
		on[h.Name] = h.Containers
	}
	return on
}

func TestPlanIsSavedApprovedPausedAndStopped(t *testing.T) {
	l, hosts := newCluster(t, 3)
	ctx := t.Context()
	for i := range 6 {
		hosts[0].create(fmt.Sprintf("web%d", i), 64<<20)
	}
	saved, err := hosts[1].Drain(ctx, "host2", api.PlanRequest{Save: true})
	must(t, err)
	if saved.Status != cluster.OpProposed || len(saved.Steps) != 2 || l.byHost(t)["host2"] != 2 {
		t.Fatalf("the saved plan is %s with %d steps", saved.Status, len(saved.Steps))
	}
	_, err = hosts[0].ActOnPlan(ctx, saved.ID, "resume")
	wantCode(t, err, api.CodeConflict)
	// One of its containers goes elsewhere meanwhile: that move is withdrawn, and the drain goes on.
	moved, err := hosts[0].Migrate(ctx, saved.Steps[0].Name, api.MigrateRequest{To: "host1"})
	must(t, err)
	hosts[0].finished(moved.ID)
	_, err = hosts[2].ActOnPlan(ctx, saved.ID, "approve")
	must(t, err)
	op := hosts[2].finished(saved.ID)
	if op.Status != cluster.OpDone || l.byHost(t)["host2"] != 0 {
		t.Errorf("the drain is %s (%s), %v", op.Status, op.Error, l.byHost(t))
	}
	if s := op.Steps[0]; s.To != "host1" && (s.Status != cluster.StepWithdrawn || !strings.Contains(s.Reason, "host1 now")) {
		t.Errorf("the step of what has moved is %+v", s)
	}
	again, err := hosts[1].Drain(ctx, "host1", api.PlanRequest{Save: true})
	must(t, err)
	gone, err := hosts[1].ActOnPlan(ctx, again.ID, "reject")
	must(t, err)
	if gone.Status != cluster.OpAborted || gone.Steps[0].Status != cluster.StepWithdrawn {
		t.Errorf("the rejected plan is %+v", gone)
	}
	_, err = hosts[1].ActOnPlan(ctx, again.ID, "approve")
	wantCode(t, err, api.CodeConflict)
	_, err = hosts[1].ActOnPlan(ctx, "none", "stop")
	wantCode(t, err, api.CodeNotFound)
}

func TestPartialDrain(t *testing.T) {
	_, hosts := newCluster(t, 2)
	ctx := t.Context()
	big, err := hosts[0].Create(ctx, api.CreateRequest{Name: "big", Template: "tiny", Host: "host1", Limits: cluster.Limits{RAM: 600 << 20}, Start: true})
	must(t, err)
	for name, host := range map[string]string{"small": "host1", "other": "host2"} {
		ram := map[string]int64{"small": 64 << 20, "other": 700 << 20}[name]
		_, err = hosts[0].Create(ctx, api.CreateRequest{Name: name, Template: "tiny", Host: host, Limits: cluster.Limits{RAM: ram}, Start: true})
		must(t, err)
	}
	_, err = hosts[0].Drain(ctx, "host1", api.PlanRequest{})
	wantCode(t, err, api.CodeNoFit)
	if !strings.Contains(err.Error(), "big") {
		t.Errorf("the refusal does not say what stays: %v", err)
	}
	op, err := hosts[0].Drain(ctx, "host1", api.PlanRequest{Partial: true})
	must(t, err)
	op = hosts[0].finished(op.ID)
	if op.Status != cluster.OpDone || !strings.Contains(op.Error, "big stays") {
		t.Errorf("the partial drain is %s: %s", op.Status, op.Error)
	}
	if c, err := hosts[0].Container(ctx, "big"); err != nil || c.Host != big.Host {
		t.Errorf("what could not be moved is on %s, %v", c.Host, err)
	}
	if c, err := hosts[0].Container(ctx, "small"); err != nil || c.Host != "host2" || len(c.History) != 1 || c.History[0].Why == "" {
		t.Errorf("what could be moved is on %s, and remembers %v, %v", c.Host, c.History, err)
	}
}

func TestNewHostIsFilledByItself(t *testing.T) {
	l, hosts := newCluster(t, 2)
	ctx := t.Context()
	for i := range 6 {
		hosts[0].create(fmt.Sprintf("web%d", i), 128<<20)
	}
	_, err := hosts[0].WriteSettings(ctx, api.Settings{Automation: cluster.Automation{Rebalance: true, HoldMS: 1, CoolDownMS: 1}})
	must(t, err)
	_, err = l.host("host3").Join(ctx, api.JoinRequest{Address: hosts[0].cfg.Advertise, Token: hosts[0].token(time.Hour)})
	must(t, err)
	eventually(t, "the new host has a third", func() error {
		if on := l.byHost(t); on["host3"] != 2 {
			return fmt.Errorf("it has %v", on)
		}
		return nil
	})
	starts := 0
	for _, e := range l.engines {
		starts += e.count()
	}
	if starts != 8 { // six, and what the fake counts as one for each move
		t.Errorf("containers were started %d times, want the six and two moves", starts)
	}
	_, err = hosts[0].WriteSettings(ctx, api.Settings{Automation: cluster.Automation{Rebalance: true, Consolidate: true}})
	if err == nil {
		t.Error("a cluster that both spreads and gathers was accepted")
	}
}

func TestFreedHostIsParkedAndWoken(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	calls := l.hooks(t)
	l.grow(4)
	hosts, ctx := l.hosts, t.Context()
	for i := range 4 {
		_, err := hosts[0].Create(ctx, api.CreateRequest{Name: fmt.Sprintf("web%d", i), Template: "tiny", Host: fmt.Sprintf("host%d", i+1), Limits: cluster.Limits{RAM: 128 << 20}, Start: true})
		must(t, err)
	}
	for _, h := range hosts {
		_, err := hosts[0].SetHost(ctx, h.cfg.Name, api.HostSetRequest{Power: &cluster.Power{Method: cluster.PowerCommand, Hook: "switch"}, Labels: map[string]string{"rack": "7"}})
		must(t, err)
	}
	_, err := hosts[0].WriteSettings(ctx, api.Settings{Automation: cluster.Automation{Consolidate: true, Park: true, HoldMS: 1, CoolDownMS: 1, IdleMS: 1, Spare: 1}})
	must(t, err)
	var parked string
	eventually(t, "one of four is parked, three stay for the quorum", func() error {
		hs, err := hosts[0].Hosts(ctx)
		n := 0
		for _, h := range hs {
			if h.State == cluster.HostParked {
				n++
				parked = h.Name
			}
			if h.State == cluster.HostParked && (h.Voter || h.Labels["rack"] != "7") {
				return fmt.Errorf("it is %+v", h)
			}
		}
		if err == nil && n != 1 {
			err = fmt.Errorf("%d are parked; the hook was called with %q", n, calls())
		}
		return err
	})
	if !strings.Contains(calls(), "park "+parked) {
		t.Errorf("the hook was called with %q", calls())
	}
	// Less than what is to be spared wakes it.
	for i := range 3 {
		_, err := hosts[0].Create(ctx, api.CreateRequest{Name: fmt.Sprintf("late%d", i), Template: "tiny", Limits: cluster.Limits{RAM: 800 << 20}, WaitForRoom: true, Start: true})
		must(t, err)
	}
	eventually(t, "it is woken and takes what waits", func() error {
		cs, err := hosts[0].Containers(ctx)
		for _, c := range cs {
			if c.State != cluster.Running {
				err = errors.Join(err, fmt.Errorf("%s is %s on %q: %s", c.Name, c.State, c.Host, c.Detail))
			}
		}
		return err
	})
	if !strings.Contains(calls(), "wake "+parked) {
		t.Errorf("the hook was called with %q", calls())
	}
}

func TestMaintenance(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	calls := l.hooks(t)
	l.grow(3)
	hosts, ctx := l.hosts, t.Context()
	for i := range 6 {
		hosts[0].create(fmt.Sprintf("web%d", i), 64<<20)
	}
	before := map[string]string{}
	cs, err := hosts[0].Containers(ctx)
	must(t, err)
	for _, c := range cs {
		before[c.Name] = c.Host
	}
	op, err := hosts[0].Maintain(ctx, api.PlanRequest{Hosts: []string{"host2", "host3"}, Hook: "switch"})
	must(t, err)
	_, err = hosts[0].Consolidate(ctx, api.PlanRequest{})
	if err == nil || !strings.Contains(err.Error(), op.ID) {
		t.Errorf("a second plan beside it: %v", err)
	}
	if op = hosts[0].finished(op.ID); op.Status != cluster.OpDone {
		t.Fatalf("the maintenance is %s: %s", op.Status, op.Error)
	}
	if got := calls(); got != "maintain host2\nmaintain host3\n" {
		t.Errorf("the hook was called with %q", got)
	}
	cs, err = hosts[0].Containers(ctx)
	must(t, err)
	for _, c := range cs {
		if c.Host != before[c.Name] || c.State != cluster.Running {
			t.Errorf("%s is %s on %s, was on %s", c.Name, c.State, c.Host, before[c.Name])
		}
	}
	hs, err := hosts[0].Hosts(ctx)
	must(t, err)
	for _, h := range hs {
		if h.State != cluster.HostActive {
			t.Errorf("%s is %s", h.Name, h.State)
		}
	}
	_, err = hosts[0].Maintain(ctx, api.PlanRequest{Hosts: []string{"host1"}, Hook: "../evil"})
	if err == nil {
		t.Error("a hook outside the directory was accepted")
	}
}

func TestMagicPacket(t *testing.T) {
	p := magicPacket([]byte{2, 0, 0, 0, 0, 9})
	if len(p) != 102 || p[0] != 0xff || p[101] != 9 || p[6] != 2 {
		t.Errorf("the packet is %x", p)
	}
}
