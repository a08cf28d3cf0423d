package agent

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler"
)

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
	if m.down(r.Context(), c.Host) {
		return nil, api.Errorf(api.CodeConflict, "what is in it can only be had when "+c.Host+" is back", "%s, the host of %s, is down", c.Host, c.Ref())
	}
	resting := c.State == cluster.Stopped || c.State == cluster.Failed || c.State == cluster.Pending && c.Desired == cluster.WantStopped
	if c.State != cluster.Running && !resting {
		return nil, api.Errorf(api.CodeConflict, "try again when it runs or is stopped", "%s is %s", c.Ref(), c.State)
	}
	switch {
	case resting && (req.Mode == "" || req.Mode == cluster.ModeLive):
		req.Mode = cluster.ModeOffline // there is nothing to keep alive
	case req.Mode == "":
		req.Mode = cluster.ModeLive
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
	who := c.Name
	if b.Process != "" {
		who = "process " + b.Process
	}
	if b.Unit != "" {
		who += " (" + b.Unit + ")"
	}
	return api.Errorf(api.CodeRefused, b.Remedy, "%s cannot be moved live: %s: %s", c.Ref(), who, b.What)
}

// target checks the wanted target of a move, or has the scheduler choose one.
func (m *member) target(c *cluster.Container, want string) (string, error) {
	if want == c.Host {
		return "", api.Errorf(api.CodeConflict, "name another host, or none", "%s is on %s already", c.Ref(), want)
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
