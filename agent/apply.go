package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/raftstore"
)

// errNoCluster is what needs a cluster gets before there is one.
func errNoCluster() error {
	return api.Errorf(api.CodeConflict, "run 'vzcluster init' for a new cluster or 'vzcluster join' for an existing one",
		"this host belongs to no cluster yet")
}

// Apply commits a command through whichever host leads, and returns its result. The command must be idempotent: it is
// tried again through elections until ctx ends. A refusal is one of cluster's errors, wherever the leader is; when ctx
// ends first the error wraps raftstore.ErrUnknownOutcome if the command may still have been committed.
func (a *Agent) Apply(ctx context.Context, c cluster.Command) (any, error) {
	m := a.member.Load()
	if m == nil {
		return nil, errNoCluster()
	}
	return m.apply(ctx, c)
}

// Read returns a container's record from the leader, after a barrier: what it says was true when Read was called. An
// unknown container is cluster.ErrNotFound; it is tried again through elections until ctx ends.
func (a *Agent) Read(ctx context.Context, id int) (*cluster.Container, error) {
	m := a.member.Load()
	if m == nil {
		return nil, errNoCluster()
	}
	return m.read(ctx, id)
}

// State returns this host's replica, which may be behind; nil before the host belongs to a cluster.
func (a *Agent) State() *cluster.State {
	if m := a.member.Load(); m != nil {
		return m.store.State()
	}
	return nil
}

// Changed returns a channel that is closed when the replica changes next; get it before State.
func (a *Agent) Changed() <-chan struct{} {
	if m := a.member.Load(); m != nil {
		return m.store.Changed()
	}
	return nil
}

func (m *member) apply(ctx context.Context, c cluster.Command) (any, error) {
	entry, err := cluster.Encode(c)
	if err != nil {
		return nil, err
	}
	unknown := false
	result, err := m.untilLed(ctx, func(leader string, mine bool) (any, error) {
		if mine {
			result, err := m.store.Apply(ctx, c)
			unknown = unknown || errors.Is(err, raftstore.ErrUnknownOutcome)
			return result, err
		}
		result := resultOf(c)
		err := m.peers.call(ctx, http.MethodPost, leader, "/v1/apply", json.RawMessage(quote(entry)), result)
		unknown = unknown || (retryable(err) && !errors.Is(err, errDial))
		return result, err
	})
	if err != nil && unknown && retryable(err) {
		return nil, fmt.Errorf("%w: %w", raftstore.ErrUnknownOutcome, err)
	}
	return result, err
}

func (m *member) read(ctx context.Context, id int) (*cluster.Container, error) {
	result, err := m.untilLed(ctx, func(leader string, mine bool) (any, error) {
		if mine {
			return m.readHere(ctx, id)
		}
		c := &cluster.Container{}
		return c, m.peers.call(ctx, http.MethodGet, leader, fmt.Sprintf("/v1/read/%d", id), nil, c)
	})
	if err != nil {
		return nil, err
	}
	return result.(*cluster.Container), nil
}

func (m *member) readHere(ctx context.Context, id int) (*cluster.Container, error) {
	if err := m.store.Barrier(ctx); err != nil {
		return nil, err
	}
	if c := m.store.State().Container(id); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("there is no container %d: %w", id, cluster.ErrNotFound)
}

// untilLed tries something with each leader until one gives an answer that is final.
func (m *member) untilLed(ctx context.Context, try func(leader string, mine bool) (any, error)) (any, error) {
	pause := m.timing.Retry / 4
	last := errNoQuorum()
	for {
		if leader, mine := m.leader(); mine || (leader != "" && leader != m.name) {
			result, err := try(leader, mine)
			if err == nil || !retryable(err) {
				return result, err
			}
			last = err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", last, context.Cause(ctx))
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*m.timing.Retry)
	}
}

// retryable reports whether an error says nothing about the request itself, only that no leader has answered it.
func retryable(err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, raftstore.ErrNotLeader) || errors.Is(err, raftstore.ErrUnknownOutcome) {
		return true
	}
	var e *api.Error
	if errors.As(err, &e) {
		return e.Code == api.CodeNoQuorum || e.Code == api.CodeTimeout
	}
	for _, c := range errorCodes() {
		if errors.Is(err, c.is) {
			return errors.Is(err, context.DeadlineExceeded)
		}
	}
	return true
}

// applyHere commits a command that must not be repeated; this host must lead.
func applyHere[R any](ctx context.Context, m *member, c cluster.Command) (R, error) {
	var none R
	result, err := m.store.Apply(ctx, c)
	switch {
	case errors.Is(err, raftstore.ErrUnknownOutcome):
		return none, api.Errorf(api.CodeNoQuorum, "look with 'vzcluster status' whether it took effect before you try again",
			"the leader lost its quorum while it worked on the request")
	case errors.Is(err, raftstore.ErrNotLeader):
		return none, errNoQuorum()
	case err != nil:
		return none, err
	}
	r, _ := result.(R)
	return r, nil
}

// resultOf returns where the JSON of a command's result goes.
func resultOf(c cluster.Command) any {
	switch c.(type) {
	case cluster.InitCluster, cluster.AddHost, cluster.UpdateHost, cluster.SetHostState, cluster.SetVoter:
		return &cluster.Host{}
	case cluster.PutTemplate, cluster.TemplateOn:
		return &cluster.Template{}
	case cluster.CreateContainer, cluster.SetDesired, cluster.SetContainer, cluster.ReportContainer, cluster.ReportVerdict, cluster.CommitMigration,
		cluster.TrashContainer, cluster.RestoreContainer:
		return &cluster.Container{}
	case cluster.BeginMigration, cluster.AbortMigration, cluster.FinishMigration, cluster.BeginTask, cluster.EndTask,
		cluster.BeginPlan, cluster.StepPlan, cluster.EndPlan:
		return &cluster.Operation{}
	}
	return &struct{}{}
}

// quote makes a JSON string of an encoded command.
func quote(entry []byte) []byte {
	raw, _ := json.Marshal(entry) // bytes always marshal
	return raw
}

// handleApply commits what another host may say; only the leader answers.
func (m *member) handleApply(_ http.ResponseWriter, r *http.Request) (any, error) {
	var entry []byte
	if err := json.NewDecoder(io.LimitReader(r.Body, 16<<20)).Decode(&entry); err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "the command cannot be read: %v", err)
	}
	c, err := cluster.Decode(entry)
	if err != nil {
		return nil, err
	}
	if _, mine := m.leader(); !mine {
		return nil, errNoQuorum()
	}
	if err := m.mayApply(peerOf(r), c); err != nil {
		return nil, err
	}
	return m.store.Apply(r.Context(), c)
}

// mayApply says which commands a host may send: those about itself, its own containers and its own migrations.
func (m *member) mayApply(peer string, c cluster.Command) error {
	s, ok := m.store.State(), false
	party := func(id string) bool {
		op := s.Operation(id)
		return op == nil || op.From == peer || op.To == peer // an unknown one is refused by the state
	}
	switch c := c.(type) {
	case cluster.ReportContainer:
		ok = c.Host == peer
	case cluster.ReportVerdict:
		ok = c.Host == peer
	case cluster.RemoveContainer:
		ok = c.Host == peer
	case cluster.UpdateHost:
		ok = c.Name == peer
	case cluster.TemplateOn:
		ok = c.Host == peer
	case cluster.TemplateOff:
		ok = c.Host == peer
	case cluster.PutTemplate:
		ok = slices.Equal(c.Template.Hosts, []string{peer})
	case cluster.CommitMigration:
		ok = party(c.Operation)
	case cluster.AbortMigration:
		ok = party(c.Operation)
	case cluster.FinishMigration:
		ok = party(c.Operation)
	case cluster.EndTask:
		ok = party(c.Operation)
	}
	if !ok {
		return api.Errorf(api.CodeDenied, "", "host %s may not send the command %T", peer, c)
	}
	return nil
}
