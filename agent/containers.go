package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// defaultWait is how long an action waits for its outcome.
const defaultWait = 60 * time.Second

// handleCreate places a container and commits it; with start it returns when the container runs, has failed, or
// defaultWait is over, and its state says which.
func (m *member) handleCreate(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.CreateRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	t := m.store.State().Template(req.Template)
	if t == nil {
		return nil, notFound("template", req.Template, "vzcluster template ls")
	}
	if req.Host != "" && m.store.State().Host(req.Host) == nil {
		return nil, notFound("host", req.Host, "vzcluster host ls")
	}
	o := &order{specs: []cluster.Container{wanted(req, t)}, waits: req.WaitForRoom}
	o.items = []cluster.NewContainer{{ID: req.ID, Name: req.Name, Hostname: req.Hostname, IP: req.IP, Host: req.Host}}
	if err := m.fulfil(o); err != nil {
		return nil, err
	}
	c := o.made[0].Container
	m.spread()
	if req.Start && !c.Waits() {
		ctx, cancel := context.WithTimeout(r.Context(), defaultWait)
		defer cancel()
		if now, err := m.await(ctx, c.ID, settledAs(cluster.WantRunning)); now != nil && r.Context().Err() == nil {
			c = now
		} else if err != nil && r.Context().Err() != nil {
			return nil, err
		}
	}
	return m.container(m.store.State(), c), nil
}

// wanted is what a request asks for, without what tells its containers apart.
func wanted(req api.CreateRequest, t *cluster.Template) cluster.Container {
	c := cluster.Container{
		Template: t.Name, Digest: t.Digest, Limits: req.Limits, Labels: req.Labels, Rules: req.Rules, Mounts: req.Mounts, Desired: cluster.WantStopped,
		NameServers: req.NameServers, SearchDomains: req.SearchDomains,
	}
	if slices.ContainsFunc(c.Mounts, func(m cluster.Mount) bool { return !m.Shared }) && c.Rules.Pinned == "" {
		c.Rules.Pinned = req.Host // what is mounted is there only
	}
	if req.Start {
		c.Desired = cluster.WantRunning
	}
	return c
}

// handleCreateMany places many containers as one plan. It returns when they are decided, not when they run.
func (m *member) handleCreateMany(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.CreateManyRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	o := &order{waits: req.WaitForRoom}
	for _, like := range req.Containers {
		if err := m.addLike(o, like); err != nil {
			return nil, err
		}
	}
	if err := m.fulfil(o); err != nil {
		return nil, err
	}
	m.spread()
	made := make([]api.Created, len(o.made))
	for i, m := range o.made {
		c := m.Container
		made[i] = api.Created{ID: c.ID, Name: c.Name, Host: c.Host, State: c.State, Addresses: c.Addresses, Why: cmp.Or(c.Placement, c.Detail)}
	}
	return made, nil
}

// addLike adds to an order what one request of several asks for.
func (m *member) addLike(o *order, req api.CreateRequest) error {
	t := m.store.State().Template(req.Template)
	if t == nil {
		return notFound("template", req.Template, "vzcluster template ls")
	}
	if req.Host != "" && m.store.State().Host(req.Host) == nil {
		return notFound("host", req.Host, "vzcluster host ls")
	}
	n := max(req.Count, 1)
	if req.Count < 0 || len(o.items)+n > api.MaxCreate {
		return api.Errorf(api.CodeUsage, "", "%d containers cannot be created at once; at most %d can", len(o.items)+n, api.MaxCreate)
	}
	if n > 1 && (req.ID != 0 || req.Hostname != "" || req.IP != "" && req.IP != "auto" && req.IP != "none") {
		return api.Errorf(api.CodeUsage, "", "%d containers cannot share a CTID, a host name or an address", n)
	}
	spec := o.like(wanted(req, t))
	for i := range n {
		item := cluster.NewContainer{Spec: spec, ID: req.ID, Name: req.Name, Hostname: req.Hostname, IP: req.IP, Host: req.Host}
		if n > 1 && req.Name != "" {
			item.Name = fmt.Sprintf("%s-%d", req.Name, i+1)
		}
		o.items = append(o.items, item)
	}
	return nil
}

// answers reports whether a host's agent takes connections.
func (m *member) answers(ctx context.Context, host string) bool {
	if host == m.name {
		return true
	}
	if err := m.knock(ctx, host); err != nil {
		m.log.Warn("a host that gossip has alive does not answer, nothing is placed on it", "host", host, "error", err)
		return false
	}
	return true
}

// knock asks another host's agent for a sign of life, over a connection that is there already if there is one: another
// costs milliseconds.
func (m *member) knock(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	err := m.peers.call(ctx, http.MethodGet, host, "/v1/local/ping", nil, nil)
	if errors.As(err, new(*api.Error)) {
		return nil // it is there and does not want to talk
	}
	return err
}

func (m *member) handlePing(http.ResponseWriter, *http.Request) (any, error) { return struct{}{}, nil }

// outcome says whether a container has come to where someone waits for it; c is nil when it is gone.
type outcome func(c *cluster.Container) (done bool, err error)

// settledAs is reached when the owner has reported what was wanted, or that it failed.
func settledAs(want cluster.Desired) outcome {
	return func(c *cluster.Container) (bool, error) {
		if want == cluster.WantDestroyed {
			return c == nil, nil
		}
		if c == nil {
			return true, fmt.Errorf("the container was destroyed meanwhile: %w", cluster.ErrNotFound)
		}
		switch {
		case want == cluster.WantSuspended && c.Desired == cluster.WantRunning && c.Detail != "":
			return true, api.Errorf(api.CodeFailed, "it runs on", "%s could not be suspended: %s", c.Ref(), strings.TrimPrefix(c.Detail, notSuspended))
		case c.Desired != want:
			return true, api.Errorf(api.CodeConflict, "", "%s was wanted %s meanwhile", c.Ref(), c.Desired)
		case want == cluster.WantStopped:
			return c.State == cluster.Stopped, nil
		case want == cluster.WantSuspended && c.State == cluster.Stopped:
			return true, api.Errorf(api.CodeFailed, "'vzcluster start "+c.Name+"' starts it", "%s ended before it could be suspended", c.Ref())
		case want == cluster.WantSuspended && c.State != cluster.Failed:
			return c.State == cluster.Suspended, nil
		case c.State == cluster.Failed:
			return true, api.Errorf(api.CodeFailed, "", "%s has failed: %s", c.Ref(), c.Detail)
		}
		return c.State == cluster.Running, nil
	}
}

// down reports whether a host is lost: gossip does not see it, nor does its agent take connections.
func (m *member) down(ctx context.Context, host string) bool {
	return !m.alive(host) && m.knock(ctx, host) != nil && ctx.Err() == nil
}

// errDown is what is answered to what a host that is down will do later.
func errDown(host string) error {
	return api.Errorf(api.CodeTimeout, "see 'vzcluster host ls'", "%s is down; it will be done when %s is back", host, host)
}

// await waits for an outcome and returns the container as it is then, or as it was when ctx ended or its host was lost.
func (m *member) await(ctx context.Context, id int, done outcome) (*cluster.Container, error) {
	for {
		changed, seen := m.store.Changed(), m.gossip.Changed()
		c := m.store.State().Container(id)
		if ok, err := done(c); ok || err != nil {
			return c, err
		}
		if c != nil && m.down(ctx, c.Host) {
			return c, errDown(c.Host)
		}
		select {
		case <-changed:
		case <-seen:
		case <-ctx.Done():
			what := fmt.Sprintf("container %d is not there yet", id)
			if c != nil {
				what = fmt.Sprintf("%s on %s is still %s", c.Ref(), c.Host, c.State)
			}
			return c, api.Errorf(api.CodeTimeout, "it goes on; see 'vzcluster ls'", "%s", what)
		}
	}
}

// callOwner sends a request to the agent of a container's host.
func (m *member) callOwner(ctx context.Context, c *cluster.Container, what string, in any) error {
	return m.peers.call(ctx, http.MethodPost, c.Host, fmt.Sprintf("/v1/local/containers/%d/%s", c.ID, what), in, nil)
}

// handleSet changes a container. New limits of a running one are answered for when the kernel enforces them; when it
// refuses them the old ones are put back.
func (m *member) handleSet(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.SetRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	old, err := m.find(r.PathValue("ct"))
	if err != nil {
		return nil, err
	}
	set := cluster.SetContainer{
		ID: old.ID, Name: req.Name, Hostname: req.Hostname, Text: req.Text, OnBoot: req.OnBoot, BootOrder: req.BootOrder, Labels: req.Labels, Rules: req.Rules, IP: req.IP, IPAdd: req.IPAdd, IPDel: req.IPDel, Firewall: req.Firewall,
		NICAdd: req.NICAdd, NICDel: req.NICDel, Publish: req.Publish, Unpublish: req.Unpublish, NameServers: req.NameServers, SearchDomains: req.SearchDomains,
	}
	limits := req.LimitsOver(old.Limits)
	if limits != old.Limits {
		set.Limits = &limits
	}
	now, err := applyHere[*cluster.Container](r.Context(), m, set)
	if err != nil {
		return nil, err
	}
	m.spread()
	if set.Limits != nil && now.State == cluster.Running {
		if err := m.enforce(r.Context(), now, old.Limits); err != nil {
			return nil, err
		}
	}
	if now.State == cluster.Running {
		if err := m.connected(r.Context(), old, now); err != nil {
			return nil, err
		}
		if err := m.resolving(r.Context(), old, now); err != nil {
			return nil, err
		}
	}
	v := m.container(m.store.State(), now)
	if now.Hostname != old.Hostname && now.State == cluster.Running {
		v.Notes = append(v.Notes, fmt.Sprintf("the host name %s takes effect when %s is started next", now.Hostname, now.Name))
	}
	return v, nil
}

// enforce waits until the owner's kernel enforces a container's limits, and puts the old ones back when it refuses.
func (m *member) enforce(ctx context.Context, c *cluster.Container, old cluster.Limits) error {
	later := api.Errorf(api.CodeTimeout, "", "recorded; it takes effect when %s is back", c.Host)
	wait, cancel := context.WithTimeout(ctx, defaultWait)
	defer cancel()
	if m.down(wait, c.Host) {
		return later
	}
	err := m.callOwner(wait, c, "sync", syncRequest{Epoch: c.Epoch, Limits: &c.Limits})
	switch {
	case err == nil:
		return nil
	case api.CodeOf(err) == api.CodeRefused:
		_, undo := applyHere[*cluster.Container](ctx, m, cluster.SetContainer{ID: c.ID, Limits: &old})
		m.spread()
		return errors.Join(err, undo)
	case errors.As(err, new(*api.Error)), wait.Err() != nil:
		return err
	}
	m.log.Warn("the owner of a container was lost while its limits changed", "container", c.ID, "host", c.Host, "error", err)
	return later
}

// syncRequest asks an owner to answer when it has acted on a container's epoch and, where they are given, on its limits,
// NICs and resolver.
type syncRequest struct {
	Epoch   uint64          `json:"epoch"`
	Limits  *cluster.Limits `json:"limits,omitempty"`
	Network string          `json:"network,omitempty"` // a fingerprint
	DNS     *string         `json:"dns,omitempty"`     // the same, of the resolver
}

// handleSync waits until this host, as the owner, has acted.
func (m *member) handleSync(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req syncRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "%q is not a CTID", r.PathValue("id"))
	}
	for {
		noted := m.rec.watchActed()
		a := m.rec.actedOn(id)
		if a.Epoch >= req.Epoch && (req.Limits == nil || a.Limits == *req.Limits) && (req.Network == "" || a.Network == req.Network) && (req.DNS == nil || a.DNS == *req.DNS) {
			if a.Refused != "" && req.Limits != nil {
				return nil, api.Errorf(api.CodeRefused, "the old limits stay", "%s", a.Refused)
			}
			if a.Unplugged != "" && req.Network != "" {
				return nil, api.Errorf(api.CodeRefused, "the old network stays", "%s", a.Unplugged)
			}
			if a.Unresolved != "" && req.DNS != nil {
				return nil, api.Errorf(api.CodeRefused, "the old resolver stays", "%s", a.Unresolved)
			}
			return nil, nil
		}
		select {
		case <-noted:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

// handleKill has a container's stop, the one under way or the next, not wait for it.
func (m *member) handleKill(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "%q is not a CTID", r.PathValue("id"))
	}
	m.rec.kill(id)
	return nil, nil
}
