package agent

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/trust"
)

// hasLeft waits until a host's agent has ended because the host is no member any more, and starts it again.
func (h *testHost) hasLeft() {
	h.t.Helper()
	select {
	case err := <-h.ended:
		if !errors.Is(err, ErrLeft) {
			h.t.Fatalf("the agent of %s ended with %v", h.cfg.Name, err)
		}
	case <-time.After(patience):
		h.t.Fatalf("the agent of %s goes on", h.cfg.Name)
	}
	h.agent = nil
	h.start()
	if s, err := h.Status(h.t.Context()); err != nil || s.Joined {
		h.t.Errorf("started again, %s is a member: %+v, %v", h.cfg.Name, s, err)
	}
	for _, path := range []string{h.agent.identityDir(), h.agentPath("raft"), h.agent.leftPath()} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			h.t.Errorf("%s has kept %s: %v", h.cfg.Name, path, err)
		}
	}
}

// forget has a host that is down forgotten.
func (l *testCluster) forget(by, dead *testHost) {
	l.t.Helper()
	eventually(l.t, "the dead host is forgotten", func() error {
		if err := by.RemoveHost(l.t.Context(), dead.cfg.Name); err != nil && api.CodeOf(err) != api.CodeNotFound {
			return err // on a busy machine the leader may change meanwhile
		}
		return nil
	})
	l.isForgotten(dead.cfg.Name)
}

// isForgotten waits until no part of the cluster knows a host.
func (l *testCluster) isForgotten(host string) {
	l.t.Helper()
	eventually(l.t, host+" is forgotten", func() error {
		m := l.leader().agent.member.Load()
		for _, r := range m.store.Members() {
			if r.Name == host {
				return errors.New("raft has it")
			}
		}
		switch {
		case m.gossip.Alive(host):
			return errors.New("gossip sees it")
		case m.store.State().Host(host) != nil:
			return errors.New("the state has it")
		}
		return nil
	})
}

func TestHostLeaves(t *testing.T) {
	for _, who := range []string{"a follower", "the leader"} {
		t.Run(who, func(t *testing.T) {
			l, hosts := newCluster(t, 4)
			ctx := t.Context()
			eventually(t, "three voters", func() error { return threeVoters(hosts[0]) })
			for i := range 8 {
				hosts[0].create(fmt.Sprintf("web%d", i), 64<<20)
			}
			leaving, other := l.leader(), l.followers()[0]
			if who == "a follower" {
				leaving, other = other, leaving
			}
			name, id := leaving.cfg.Name, leaving.agent.member.Load().id
			plan, err := other.Leave(ctx, name, api.PlanRequest{DryRun: true})
			must(t, err)
			if len(plan.Steps) != 2 || plan.ID != "" {
				t.Errorf("the plan is %+v", plan)
			}
			op, err := other.Leave(ctx, name, api.PlanRequest{})
			must(t, err)
			leaving.hasLeft()
			if op = other.finished(op.ID); op.Status != cluster.OpDone || op.Error != "" {
				t.Fatalf("it is %s: %s", op.Status, op.Error)
			}
			l.isForgotten(name)
			cs, err := other.Containers(ctx)
			must(t, err)
			for _, c := range cs {
				if c.Host == name || c.State != cluster.Running || c.Restarted != 0 {
					t.Errorf("%s is %s on %s, restarted %d times", c.Name, c.State, c.Host, c.Restarted)
				}
			}
			old, err := trust.ClientTLS(id, other.cfg.Name, alpnHTTP)
			must(t, err)
			if code, said := remote(t, other, old, "GET", "/v1/containers", ""); code != http.StatusForbidden {
				t.Errorf("with the certificate of the host that has left: %d %s", code, said)
			}
			_, err = leaving.Join(ctx, api.JoinRequest{Address: other.cfg.Advertise, Token: other.token(time.Hour)})
			must(t, err)
			eventually(t, "the host that is back takes a container", func() error {
				_, err := other.Create(ctx, api.CreateRequest{Name: "again", Template: "tiny", Host: name, Limits: cluster.Limits{RAM: 64 << 20}, Start: true})
				return err
			})
		})
	}
}

func TestWhoMayNotLeave(t *testing.T) {
	l, hosts := newCluster(t, 3)
	ctx := t.Context()
	eventually(t, "three voters", func() error { return threeVoters(hosts[0]) })
	f := l.followers()
	dead, alive := f[0], f[1]
	c, err := hosts[0].Create(ctx, api.CreateRequest{Name: "lost", Template: "tiny", Host: dead.cfg.Name, Limits: cluster.Limits{RAM: 64 << 20}, Start: true})
	must(t, err)
	_, err = alive.Leave(ctx, "none", api.PlanRequest{})
	wantCode(t, err, api.CodeNotFound)
	wantCode(t, alive.RemoveHost(ctx, dead.cfg.Name), api.CodeConflict) // it is up
	dead.stop()
	eventually(t, "it is seen that it is down", func() error {
		_, err := alive.Leave(ctx, dead.cfg.Name, api.PlanRequest{})
		if err == nil || !strings.Contains(err.Error(), "is down: its 1 containers cannot be moved away") {
			return fmt.Errorf("asked to let it go: %w", err)
		}
		return nil
	})
	_, err = alive.Leave(ctx, alive.cfg.Name, api.PlanRequest{})
	wantCode(t, err, api.CodeConflict)
	if !strings.Contains(err.Error(), "no quorum") {
		t.Errorf("it says %v", err)
	}
	l.forget(alive, dead)
	_, err = alive.Container(ctx, "lost")
	wantCode(t, err, api.CodeNotFound)
	// It comes back, and finds out.
	dead.start()
	dead.hasLeft()
	if l.engines[dead.cfg.Name].runs(c.ID) {
		t.Error("the forgotten container runs on")
	}
}
