package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler"
)

// defaultWait is how long an action waits for its outcome.
const defaultWait = 60 * time.Second

// maxPlacements bounds how often a placement is decided anew because another one took the room in between.
const maxPlacements = 5

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
	c, err := m.create(r.Context(), req, t)
	if err != nil {
		return nil, err
	}
	m.spread()
	if req.Start {
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

// create decides on a snapshot and commits; when the room was taken in between it decides again.
func (m *member) create(ctx context.Context, req api.CreateRequest, t *cluster.Template) (*cluster.Container, error) {
	m.placing.Lock()
	defer m.placing.Unlock()
	var silent []string // gossip learns of a death later than whoever asks
	for try := 0; ; try++ {
		d := m.place(req, t.Digest, silent...)
		if d.Host == "" {
			return nil, api.Errorf(api.CodeNoFit, "'vzcluster place --why' explains each host", "%s", d.Why)
		}
		if !m.answers(ctx, d.Host) && ctx.Err() == nil {
			silent = append(silent, d.Host)
			continue
		}
		c := cluster.Container{
			ID: req.ID, Name: req.Name, Host: d.Host, Template: req.Template, Limits: req.Limits, Hostname: req.Hostname,
			Labels: req.Labels, Created: time.Now().UTC(), Placement: d.Why, Desired: cluster.WantStopped,
		}
		if req.Start {
			c.Desired = cluster.WantRunning
		}
		made, err := applyHere[*cluster.Container](ctx, m, cluster.CreateContainer{Container: c, IP: req.IP})
		if errors.Is(err, cluster.ErrNoFit) && try < maxPlacements {
			continue
		}
		return made, err
	}
}

// answers reports whether a host's agent takes connections.
func (m *member) answers(ctx context.Context, host string) bool {
	if host == m.name {
		return true
	}
	conn, err := m.peers.dial(ctx, host, m.addressOf(host), alpnHTTP)
	if err != nil {
		m.log.Warn("a host that gossip has alive does not answer, nothing is placed on it", "host", host, "error", err)
		return false
	}
	return conn.Close() == nil
}

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
		case c.Desired != want:
			return true, api.Errorf(api.CodeConflict, "", "container %d was wanted %s meanwhile", c.ID, c.Desired)
		case want == cluster.WantStopped:
			return c.State == cluster.Stopped, nil
		case c.State == cluster.Failed:
			return true, api.Errorf(api.CodeFailed, "", "container %d has failed: %s", c.ID, c.Detail)
		}
		return c.State == cluster.Running, nil
	}
}

// await waits for an outcome and returns the container as it is then, or as it was when ctx ended.
func (m *member) await(ctx context.Context, id int, done outcome) (*cluster.Container, error) {
	for {
		changed := m.store.Changed()
		c := m.store.State().Container(id)
		if ok, err := done(c); ok || err != nil {
			return c, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			state, host := cluster.Unknown, ""
			if c != nil {
				state, host = c.State, c.Host
			}
			return c, api.Errorf(api.CodeTimeout, "it goes on; see 'vzcluster ls'",
				"container %d on host %s is still %s", id, host, state)
		}
	}
}

// handleAction starts, stops, restarts or destroys and waits for the outcome.
func (m *member) handleAction(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.ActionRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	want, known := map[string]cluster.Desired{
		"start": cluster.WantRunning, "restart": cluster.WantRunning, "stop": cluster.WantStopped, "destroy": cluster.WantDestroyed,
	}[r.PathValue("action")]
	if !known {
		return nil, api.Errorf(api.CodeUsage, "use start, stop, restart or destroy", "%q cannot be done to a container", r.PathValue("action"))
	}
	c, err := m.find(r.PathValue("ct"))
	if err != nil {
		return nil, err
	}
	if req.Wait <= 0 {
		req.Wait = defaultWait
	}
	restart := r.PathValue("action") == "restart" || (want == cluster.WantRunning && c.State == cluster.Failed)
	now, err := applyHere[*cluster.Container](r.Context(), m, cluster.SetDesired{ID: c.ID, Desired: want, Restart: restart})
	if err != nil {
		return nil, err
	}
	m.spread()
	ctx, cancel := context.WithTimeout(r.Context(), req.Wait)
	defer cancel()
	if req.Force && want != cluster.WantRunning {
		if err := m.callOwner(ctx, now, "kill", nil); err != nil {
			return nil, fmt.Errorf("container %d cannot be killed: %w", c.ID, err)
		}
	}
	if restart {
		if err := m.callOwner(ctx, now, "sync", syncRequest{Epoch: now.Epoch}); err != nil {
			return nil, err
		}
	}
	last, err := m.await(ctx, c.ID, settledAs(want))
	if err != nil {
		return nil, err
	}
	if last == nil {
		last = now
	}
	return m.container(m.store.State(), last), nil
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
	set := cluster.SetContainer{ID: old.ID, Name: req.Name, Hostname: req.Hostname, Labels: req.Labels}
	limits := old.Limits
	for to, v := range map[*int64]*int64{
		&limits.RAM: req.RAM, &limits.Swap: req.Swap, &limits.MilliCPU: req.MilliCPU, &limits.CPUUnits: req.CPUUnits, &limits.Disk: req.Disk,
	} {
		if v != nil {
			*to = *v
		}
	}
	if limits != old.Limits {
		set.Limits = &limits
	}
	now, err := applyHere[*cluster.Container](r.Context(), m, set)
	if err != nil {
		return nil, err
	}
	m.spread()
	if set.Limits != nil && now.State == cluster.Running {
		ctx, cancel := context.WithTimeout(r.Context(), defaultWait)
		defer cancel()
		if err := m.callOwner(ctx, now, "sync", syncRequest{Epoch: now.Epoch, Limits: set.Limits}); err != nil {
			if api.CodeOf(err) == api.CodeRefused {
				_, undo := applyHere[*cluster.Container](r.Context(), m, cluster.SetContainer{ID: old.ID, Limits: &old.Limits})
				m.spread()
				return nil, errors.Join(err, undo)
			}
			return nil, err
		}
	}
	return m.container(m.store.State(), now), nil
}

// syncRequest asks an owner to answer when it has acted on a container's epoch and, unless nil, limits.
type syncRequest struct {
	Epoch  uint64          `json:"epoch"`
	Limits *cluster.Limits `json:"limits,omitempty"`
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
		if a.Epoch >= req.Epoch && (req.Limits == nil || a.Limits == *req.Limits) {
			if a.Refused != "" && req.Limits != nil {
				return nil, api.Errorf(api.CodeRefused, "the old limits stay", "the kernel refuses the limits: %s", a.Refused)
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

// handleMigrate begins a migration and returns it at once, or with check_only says whether it could be done live.
func (m *member) handleMigrate(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.MigrateRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	c, err := m.find(r.PathValue("ct"))
	if err != nil {
		return nil, err
	}
	to, err := m.target(c, req.To)
	if err != nil {
		return nil, err
	}
	if req.CheckOnly {
		v, err := m.check(r.Context(), c)
		v.To = to
		return v, err
	}
	switch c.State {
	case cluster.Running, cluster.Stopped, cluster.Failed:
	default:
		return nil, api.Errorf(api.CodeConflict, "try again when it runs or is stopped", "container %d is %s", c.ID, c.State)
	}
	if req.Mode == "" {
		req.Mode = cluster.ModeLive
		if c.State != cluster.Running {
			req.Mode = cluster.ModeOffline // there is nothing to keep alive
		}
	}
	if err := m.refuseBlocked(r.Context(), c, req.Mode); err != nil {
		return nil, err
	}
	op, err := m.beginMigration(r.Context(), c, cluster.Operation{ID: newOperationID(), To: to, Mode: req.Mode})
	if err != nil {
		return nil, err
	}
	return op, nil
}

// check asks a container's owner what would be in the way of a live migration.
func (m *member) check(ctx context.Context, c *cluster.Container) (v api.Verdict, err error) {
	err = m.peers.call(ctx, http.MethodPost, c.Host, fmt.Sprintf("/v1/local/containers/%d/check", c.ID), nil, &v)
	return v, err
}

// refuseBlocked refuses a live migration that cannot succeed, with the first reason. The source looks once more before
// it freezes anything.
func (m *member) refuseBlocked(ctx context.Context, c *cluster.Container, mode string) error {
	if mode != cluster.ModeLive {
		return nil
	}
	v, err := m.check(ctx, c)
	if err != nil || v.OK || len(v.Blockers) == 0 {
		return err
	}
	b := v.Blockers[0]
	who := fmt.Sprintf("container %d", c.ID)
	if b.Process != "" {
		who = "process " + b.Process
	}
	if b.Unit != "" {
		who += " (" + b.Unit + ")"
	}
	return api.Errorf(api.CodeRefused, b.Remedy, "container %d cannot be moved live: %s: %s", c.ID, who, b.What)
}

// target checks the wanted target of a move, or has the scheduler choose one.
func (m *member) target(c *cluster.Container, want string) (string, error) {
	if want == c.Host {
		return "", api.Errorf(api.CodeConflict, "name another host, or none", "container %d is on host %s already", c.ID, want)
	}
	if want != "" && m.store.State().Host(want) == nil {
		return "", notFound("host", want, "vzcluster host ls")
	}
	d := scheduler.Place(m.snapshot(c.Digest), scheduler.Request{
		Need: c.Limits.Resources(), Template: c.Digest, Pin: want, Exclude: c.Host,
	})
	if d.Host == "" {
		return "", api.Errorf(api.CodeNoFit, "", "%s", d.Why)
	}
	return d.Host, nil
}

// handleOwnerCheck is the preflight on the owner.
func (m *member) handleOwnerCheck(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "%q is not a CTID", r.PathValue("id"))
	}
	if m.migrator == nil {
		return nil, api.Errorf(api.CodeRefused, "see 'vzcluster doctor' there", "host %s cannot migrate", m.name)
	}
	return m.migrator.Check(r.Context(), id)
}
