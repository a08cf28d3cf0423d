package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// agentBack waits until a host's agent answers as a member again, and the others see it.
func (k *kit) agentBack(host string) {
	k.t.Helper()
	k.until("the agent of "+host+" is back", recovery, func() error {
		r := k.at(host, nil, "host", "ls", "-o", "json")
		var hosts []api.Host
		if err := json.Unmarshal([]byte(r.stdout), &hosts); err != nil || r.code != 0 {
			return fmt.Errorf("%v", r)
		}
		for _, h := range hosts {
			if !h.Alive {
				return fmt.Errorf("%s is still down", h.Name)
			}
		}
		return nil
	})
}

func TestContainersOutliveTheAgent(t *testing.T) {
	k := sharedLab(t)
	c := k.runDebian("outlives", "--host", "host2")
	bb := k.runCounted("outlives2", "host2")
	init, log := k.inits("host2", c.ID), k.vz("logs", "outlives")
	if len(init) != 1 || log == "" {
		t.Fatalf("before: PID 1 is %v, the log %q", init, log)
	}
	ends := map[string]func() error{
		"kill -9":    func() error { return k.lab.Kill(t.Context(), "host2", false) },
		"an orderly": func() error { _, _ = k.on("host2", "kill -TERM $(cat /run/lab/agent.pid)"); return nil },
	}
	for how, end := range ends {
		before, err := k.lab.AgentPID("host2")
		if err != nil {
			t.Fatal(err)
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		k.until("a new agent", recovery, func() error {
			if pid, err := k.lab.AgentPID("host2"); err != nil || pid == 0 || pid == before {
				return fmt.Errorf("it is %d (%v)", pid, err)
			}
			return nil
		})
		k.agentBack("host2")
		if now := k.inits("host2", c.ID); !slices.Equal(now, init) {
			t.Errorf("after %s end PID 1 was %v and is %v", how, init, now)
		}
		if now := k.show("outlives"); now.State != cluster.Running || now.Restarted != 0 {
			t.Errorf("after %s end it is %s, restarted %d times", how, now.State, now.Restarted)
		}
		bb.client.goesOn()
		if got := k.vz("logs", "outlives"); !strings.HasPrefix(got, log) {
			t.Errorf("after %s end the boot log is %d bytes, not the %d from before", how, len(got), len(log))
		}
		k.inside("outlives", "systemctl restart nginx")
	}
	bb.client.stop()
	// It is really found again: it can be stopped, and moved.
	k.migrate("outlives2")
	k.vz("stop", "outlives")
	k.noMore("host2", c.ID)
}

// noMore checks that no copy runs on a host.
func (k *kit) noMore(host string, id int) {
	k.t.Helper()
	if n := k.inits(host, id); len(n) != 0 {
		k.t.Errorf("%s still runs container %d as %v", host, id, n)
	}
}

func TestWhatIsWantedWhileTheAgentIsDown(t *testing.T) {
	k := sharedLab(t)
	c := k.run("meanwhile", "busybox", "--host", "host3")
	if k.leader() == "host3" {
		k.moveLeadership("host3")
	}
	if err := k.lab.Kill(t.Context(), "host3", true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.lab.Start(context.Background(), "host3") }) // the test has ended by then
	r := k.try("stop", "--timeout", "1s", "meanwhile")
	if r.code != 6 {
		t.Errorf("with its agent down: %v", r)
	}
	if n := k.copies(c.ID); len(n) != 1 {
		t.Errorf("it runs on %v", n)
	}
	if err := k.lab.Start(t.Context(), "host3"); err != nil {
		t.Fatal(err)
	}
	k.agentBack("host3")
	k.until("it is stopped", recovery, func() error {
		if now := k.show("meanwhile"); now.State != cluster.Stopped || len(k.copies(c.ID)) != 0 {
			return fmt.Errorf("it is %s", now.State)
		}
		return nil
	})
}

// moveLeadership has another host than this one lead.
func (k *kit) moveLeadership(from string) {
	k.t.Helper()
	k.until("another host leads than "+from, 2*recovery, func() error {
		if k.leader() != from {
			return nil
		}
		if err := k.lab.Kill(k.t.Context(), from, true); err != nil {
			return err
		}
		var now string
		k.until("another leader", recovery, func() error {
			for _, h := range k.lab.Hosts() {
				if h != from {
					if now = k.statusOf(h).Leader; now != "" && now != from {
						return nil
					}
				}
			}
			return fmt.Errorf("it is %q", now)
		})
		return k.lab.Start(k.t.Context(), from)
	})
}

func TestLeaderIsKilled(t *testing.T) {
	k := sharedLab(t)
	old := k.leader()
	on := k.runCounted("led", old)
	alive := k.other(old)
	if err := k.lab.Kill(t.Context(), old, true); err != nil {
		t.Fatal(err)
	}
	started := false
	t.Cleanup(func() {
		if !started {
			_ = k.lab.Start(context.Background(), old)
		}
	})
	k.destroyAfter("orphan")
	k.until("the others carry on", recovery, func() error {
		r := k.at(alive, nil, "run", "orphan", "--template", "busybox", "--ram", "64M", "--cpus", "0.1", "--host", alive)
		if r.code != 0 && !strings.Contains(r.stderr, "taken") {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	if st := k.statusOf(alive); st.Leader == old || st.Leader == "" {
		t.Errorf("the leader is %q, %s was killed", st.Leader, old)
	}
	on.client.goesOn() // the killed agent's containers run on
	if err := k.lab.Start(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	started = true
	k.agentBack(old)
	k.migrate("led")
	k.allLive([]counted{on})
}
