package e2e

import (
	"context"
	"fmt"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// counted is a container with a client that counts in it.
type counted struct {
	name   string
	client *counter
}

// runCounted makes a container on a host and has a client count in it.
func (k *kit) runCounted(name, host string) counted {
	k.t.Helper()
	c := k.run(name, "busybox", "--host", host)
	k.serveCounter(c)
	return counted{name, k.count(address(c) + ":" + port)}
}

// allLive checks that every container was moved without a restart: its connection has lived on.
func (k *kit) allLive(all []counted) {
	k.t.Helper()
	for _, c := range all {
		c.client.goesOn()
		c.client.stop()
		if now := k.show(c.name); now.Restarted != 0 || now.State != cluster.Running {
			k.t.Errorf("%s is %s and was restarted %d times", c.name, now.State, now.Restarted)
		}
	}
}

func (k *kit) activateAfterTest(host string) {
	k.t.Cleanup(func() {
		if out, err := k.command(context.Background(), "host1", "host", "activate", host).CombinedOutput(); err != nil {
			k.t.Errorf("activate %s: %v: %s", host, err, out)
		}
	})
}

func TestCordonedHostTakesNothingNew(t *testing.T) {
	k := sharedLab(t)
	k.activateAfterTest("host2")
	kept := k.run("kept", "busybox", "--host", "host2")
	if h := ask[api.Host](k, "host", "cordon", "host2"); h.State != cluster.HostCordoned {
		t.Fatalf("it is %s", h.State)
	}
	for i := range 3 {
		if c := k.run(fmt.Sprintf("elsewhere%d", i), "busybox"); c.Host == "host2" {
			t.Errorf("%s was put on the cordoned host", c.Name)
		}
	}
	k.refused(4, []string{"host2", "cordoned"}, "create", "pinned", "--template", "busybox", "--ram", "64M", "--cpus", "0.1", "--host", "host2")
	k.refused(4, []string{"host2", "cordoned"}, "migrate", "elsewhere0", "host2")
	if n := k.copies(kept.ID); len(n) != 1 || n[0] != "host2" {
		t.Errorf("what it had runs on %v", n)
	}
	k.vz("host", "activate", "host2")
	k.run("again", "busybox", "--host", "host2")
}

func TestDrain(t *testing.T) {
	k := sharedLab(t)
	k.activateAfterTest("host3")
	all := []counted{k.runCounted("drain0", "host3"), k.runCounted("drain1", "host3")}
	k.run("drain2", "busybox", "--host", "host3")
	k.vz("stop", "drain2")
	before := k.facts()
	if plan := ask[cluster.Operation](k, "host", "drain", "host3", "--dry-run"); len(plan.Steps) != 3 {
		t.Errorf("the plan is %+v", plan.Steps)
	}
	if after := k.facts(); after != before {
		t.Errorf("showing the plan has changed\n%s\ninto\n%s", before, after)
	}
	op := ask[cluster.Operation](k, "host", "drain", "host3", "-y")
	if op.Status != cluster.OpDone || len(op.Steps) != 3 {
		t.Errorf("it ended as %+v", op)
	}
	if h := k.host("host3"); h.Containers != 0 || h.Reserved != (cluster.Resources{}) || h.State != cluster.HostCordoned {
		t.Errorf("the drained host is %+v", h)
	}
	k.allLive(all)
	for _, step := range op.Steps {
		k.noTraces("host3", step.Container)
	}
	if c := k.show("drain2"); c.State != cluster.Stopped || c.Host == "host3" {
		t.Errorf("the stopped container is %s on %s", c.State, c.Host)
	}
}

func TestConsolidate(t *testing.T) {
	k := sharedLab(t)
	all := []counted{k.runCounted("pack1", "host1"), k.runCounted("pack2", "host2"), k.runCounted("pack3", "host3")}
	before := k.facts()
	plan := ask[cluster.Operation](k, "consolidate", "--dry-run")
	if len(plan.Steps) != 2 {
		t.Fatalf("the plan is %+v", plan.Steps)
	}
	for _, s := range plan.Steps {
		if s.Why == "" || s.From == s.To {
			t.Errorf("a step is %+v", s)
		}
	}
	if after := k.facts(); after != before {
		t.Errorf("showing the plan has changed\n%s\ninto\n%s", before, after)
	}
	op := ask[cluster.Operation](k, "consolidate", "-y")
	if op.Status != cluster.OpDone {
		t.Errorf("it ended as %+v", op)
	}
	k.allLive(all)
	empty := 0
	for _, h := range ask[[]api.Host](k, "host", "ls") {
		if h.Containers == 0 {
			empty++
		}
	}
	if empty != 2 {
		t.Errorf("%d hosts are empty", empty)
	}
	if again := ask[cluster.Operation](k, "consolidate", "-y"); len(again.Steps) != 0 {
		t.Errorf("there is still something to do: %+v", again.Steps)
	}
}
