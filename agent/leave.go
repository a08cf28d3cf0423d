package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/trust"
	"github.com/vzcluster/vzcluster/scheduler"
)

// ErrLeft is how Run ends when the host is no member of its cluster any more. Nothing of the cluster is left on it but
// templates; a new agent on the same configuration belongs to no cluster.
var ErrLeft = errors.New("this host has left its cluster")

// leftFile marks a host that leaves: whatever happens, its identity is not used again.
const leftFile = "left"

// membership is what a member says of a host with a certificate of the cluster.
type membership struct {
	Gone bool `json:"gone"` // the leader says so: no such host, or another one by its name
}

// handleLeave plans to empty a host and to take it out of the cluster.
func (m *member) handleLeave(_ http.ResponseWriter, r *http.Request) (any, error) {
	host := r.PathValue("host")
	s := m.store.State()
	if s.Host(host) == nil {
		return nil, notFound("host", host, "vzcluster host ls")
	}
	if err := m.mayLeave(s, host); err != nil {
		return nil, err
	}
	return m.planFor(r, cluster.Operation{Kind: cluster.OpDrain, Host: host, Leave: true}, func(snap scheduler.Snapshot, _ api.PlanRequest) scheduler.Plan {
		return scheduler.Drain(snap, host)
	})
}

// mayLeave says why a host cannot go for good just now.
func (m *member) mayLeave(s *cluster.State, host string) error {
	switch owned := s.CountOn(host); {
	case len(s.Hosts()) == 1:
		return api.Errorf(api.CodeConflict, "stop its agent and remove its data_dir", "host %s is the last one of the cluster", host)
	case owned > 0 && !m.alive(host):
		return api.Errorf(api.CodeConflict, "'vzcluster host leave "+host+" --force' forgets the host and what is on it",
			"host %s is down: its %d containers cannot be moved away", host, owned)
	case !m.quorumWithout(host) || !m.othersAlive(s, host):
		return api.Errorf(api.CodeConflict, "wait until the other hosts are back; 'vzcluster host ls' shows them",
			"without host %s there would be no quorum: other voters are down", host)
	}
	return nil
}

func (m *member) othersAlive(s *cluster.State, host string) bool {
	for _, h := range s.Hosts() {
		if h.Name != host && h.State.Awake() && m.alive(h.Name) {
			return true
		}
	}
	return false
}

// letGo takes a host that is empty out of the cluster, in an order in which a new leader may take over at any step: it
// loses its vote, is told, and is forgotten.
func (m *member) letGo(ctx context.Context, plan *cluster.Operation) (goesOn bool, err error) {
	told := false
	for m.runs(plan.ID) {
		changed, s := m.store.Changed(), m.store.State()
		h := s.Host(plan.Host)
		if h == nil {
			return false, m.endPlan(ctx, plan.ID, cluster.OpDone, "")
		}
		if h.State != cluster.HostLeaving {
			if err := m.mayLeave(s, h.Name); err != nil {
				return false, m.endPlan(ctx, plan.ID, cluster.OpFailed, err.Error()+"; it stays cordoned")
			}
			if err := m.setHostState(ctx, h.Name, cluster.HostLeaving, "it leaves the cluster"); err != nil {
				return false, err
			}
			continue
		}
		switch {
		case h.Name == m.name: // somebody else takes this one out
			if err := m.store.StepDown(); err != nil {
				m.log.Debug("this host leaves, and leads until another one does", "error", err)
			}
		case !h.Voter && !told:
			if err := m.peers.call(ctx, http.MethodPost, h.Name, "/v1/local/leave", nil, nil); err != nil {
				m.log.Warn("a host that leaves could not be told; it finds out when it asks", "host", h.Name, "error", err)
			}
			told = true
			continue
		case !h.Voter:
			if _, err := applyHere[any](ctx, m, cluster.RemoveHost{Name: h.Name}); err != nil {
				return false, err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-changed:
		case <-time.After(10 * m.timing.Retry):
		}
	}
	return false, nil
}

// handleLocalLeave is the leader's word that this host, which is empty, is about to be forgotten.
func (m *member) handleLocalLeave(_ http.ResponseWriter, r *http.Request) (any, error) {
	if leader, _ := m.store.Leader(); leader != peerOf(r) {
		return nil, api.Errorf(api.CodeDenied, "", "%s does not lead the cluster, it cannot send %s away", peerOf(r), m.name)
	}
	if n := m.store.State().CountOn(m.name); n > 0 {
		return nil, api.Errorf(api.CodeConflict, "", "%s still has %d containers, it does not leave", m.name, n)
	}
	return nil, m.leave("the cluster has let it go")
}

// handleMembership tells a host whether the cluster has forgotten it. Only a leader knows; anybody else says no.
func (m *member) handleMembership(w http.ResponseWriter, r *http.Request) {
	name, serial, _ := trust.PeerOf(*r.TLS)
	var answer membership
	if _, mine := m.leader(); mine && m.store.Barrier(r.Context()) == nil {
		h := m.store.State().Host(name)
		answer.Gone = h == nil || h.Serial != serial
	}
	respond(w, answer, nil)
}

// watchMembership asks the other hosts, for as long as this one has no leader, whether the cluster has forgotten it: a host
// that was down or cut off meanwhile hears it from nobody else.
func (m *member) watchMembership(ctx context.Context) error {
	alone := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(m.timing.DeadHost / 4):
		}
		if leader, _ := m.store.Leader(); leader != "" {
			alone = time.Now()
		} else if time.Since(alone) > m.timing.DeadHost && m.forgotten(ctx) {
			return m.leave("the cluster has forgotten it")
		}
	}
}

// forgotten asks all hosts that this one knows of. It goes by raft's configuration: the state may be empty, since a replica that
// begins has it only when a leader has told it what is committed.
func (m *member) forgotten(ctx context.Context) bool {
	for _, h := range m.store.Members() {
		if h.Name == m.name {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, 2*dialTimeout)
		var answer membership
		err := m.peers.call(ask, http.MethodGet, h.Name, routeMembership, nil, &answer)
		cancel()
		if err == nil && answer.Gone {
			return true
		}
	}
	return false
}

// leave marks this host as one that has left and ends the agent.
func (m *member) leave(why string) error {
	if err := os.WriteFile(m.leftPath(), []byte(why+"\n"), 0o600); err != nil {
		return fmt.Errorf("that this host leaves its cluster cannot be noted: %w", err)
	}
	m.log.Warn("this host leaves its cluster", "why", why)
	m.left.Store(true)
	time.AfterFunc(m.timing.Retry, m.cancel) // who asked gets an answer
	return nil
}

func (a *Agent) leftPath() string { return filepath.Join(a.cfg.DataDir, leftFile) }

// forgetCluster removes what ties a host that has left to its cluster. Containers that still run here belong to nobody:
// they are stopped, since their addresses may be given to others. Their layers stay until the host joins again.
func (a *Agent) forgetCluster(ctx context.Context) error {
	if _, err := os.Stat(a.leftPath()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ids, err := a.deps.Engine.List()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := a.deps.Engine.Stop(ctx, id, false, 0); err != nil {
			return fmt.Errorf("container %d of the cluster that this host has left cannot be stopped: %w", id, err)
		}
	}
	for _, dir := range []string{a.identityDir(), filepath.Join(a.cfg.DataDir, "raft"), filepath.Join(a.cfg.RunDir, "containers"), a.leftPath()} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("what ties this host to the cluster that it has left cannot be removed: %w", err)
		}
	}
	return nil
}
