package agent

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

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
	if req.Mode != "" && !slices.Contains(api.Modes(), req.Mode) {
		return nil, api.Errorf(api.CodeUsage, "", "%q is not a mode of migration; one of %s is", req.Mode, strings.Join(api.Modes(), ", "))
	}
	if req.MaxDowntimeMS < 0 {
		return nil, api.Errorf(api.CodeUsage, "", "a longest downtime of %d ms cannot be kept; it is at least 1 ms", req.MaxDowntimeMS)
	}
	c, err := m.find(r.PathValue("ct"))
	if err != nil {
		return nil, err
	}
	if c.Waits() {
		return nil, errWaits(c)
	}
	to, err := m.target(c, req.To)
	if err != nil {
		return nil, err
	}
	if req.CheckOnly {
		mode := cluster.ModeOffline
		if c.State == cluster.Running && req.Mode != cluster.ModeOffline && req.Mode != cluster.ModeNearLive {
			mode = cluster.ModeLive
			if req.Mode == cluster.ModePostCopy {
				mode = req.Mode
			}
		}
		v, err := m.check(r.Context(), c, to, mode)
		return v, err
	}
	if m.down(r.Context(), c.Host) {
		return nil, api.Errorf(api.CodeConflict, "what is in it can only be had when "+c.Host+" is back", "%s, the host of %s, is down", c.Host, c.Ref())
	}
	resting := c.State == cluster.Stopped || suspended(c) || c.State == cluster.Failed || c.State == cluster.Pending && c.Desired == cluster.WantStopped
	if c.State != cluster.Running && !resting {
		return nil, api.Errorf(api.CodeConflict, "try again when it runs or is stopped", "%s is %s", c.Ref(), c.State)
	}
	if req.Mode, err = m.mode(r.Context(), c, to, req, resting); err != nil {
		return nil, err
	}
	if err := m.refuseBlocked(r.Context(), c, to, req); err != nil {
		return nil, err
	}
	if resting {
		req.MaxDowntimeMS = 0 // there is nothing that could be down
	}
	op, err := m.beginMigration(r.Context(), c, cluster.Operation{ID: newOperationID(), To: to, Mode: req.Mode, Force: req.Force, MaxDowntimeMS: req.MaxDowntimeMS})
	if err != nil {
		return nil, err
	}
	return op, nil
}

// suspended says whether a container's memory lies on its host's disk and is going to stay there.
func suspended(c *cluster.Container) bool {
	return c.State == cluster.Suspended && c.Desired == cluster.WantSuspended
}

// mode chooses a migration's mode: what the user wants, or live if nothing is in the way of it.
func (m *member) mode(ctx context.Context, c *cluster.Container, to string, req api.MigrateRequest, resting bool) (string, error) {
	mode := req.Mode
	switch {
	case resting:
		return cluster.ModeOffline, nil // there is nothing to keep alive
	case mode == "":
		mode = cluster.ModeLive
	case mode == api.ModeAuto:
		mode = cluster.ModeLive
		if req.MaxDowntimeMS > 0 { // no other mode can promise one
			break
		}
		v, err := m.check(ctx, c, to, mode)
		if err != nil {
			return "", err
		}
		if !v.OK {
			mode = cluster.ModeNearLive
		}
	}
	if !cluster.Alive(mode) && req.MaxDowntimeMS > 0 {
		return "", api.Errorf(api.CodeRefused, "", "%s cannot be moved %s within a downtime: it is stopped and started anew, which takes as long as its services need", c.Ref(), mode)
	}
	return mode, nil
}

// unfitMode is the mode that hosts are asked about: the memory of a suspended container must be resumed there.
func unfitMode(c *cluster.Container, mode string) string {
	if suspended(c) {
		return cluster.ModeLive
	}
	return mode
}

// check asks a container's owner what would be in the way of a live migration, and the target whether it could take it.
func (m *member) check(ctx context.Context, c *cluster.Container, to, mode string) (v api.Verdict, err error) {
	if cluster.Alive(mode) {
		if err := m.peers.call(ctx, http.MethodPost, c.Host, fmt.Sprintf("/v1/local/containers/%d/check", c.ID), nil, &v); err != nil {
			return v, err
		}
	}
	found, err := m.unfit(ctx, c, to, unfitMode(c, mode))
	v.To, v.Blockers = to, append(v.Blockers, found...)
	v.OK = len(v.Blockers) == 0
	return v, err
}

// refuseBlocked refuses a migration that cannot succeed, with the first reason. Both hosts look once more before anything
// is copied or frozen. With force, sessions of exec are no reason: they are ended.
func (m *member) refuseBlocked(ctx context.Context, c *cluster.Container, to string, req api.MigrateRequest) error {
	v, err := m.check(ctx, c, to, req.Mode)
	if err != nil {
		return err
	}
	if req.Force {
		v.Blockers = slices.DeleteFunc(v.Blockers, func(b api.Blocker) bool { return b.Session })
	}
	if len(v.Blockers) == 0 {
		return nil
	}
	b, more, how := v.Blockers[0], "", "moved"
	if n := len(v.Blockers) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more, see --check-only)", n)
	}
	if cluster.Alive(req.Mode) {
		how = "moved live"
	}
	who := b.Who()
	if who != "" {
		who = "process " + who
	}
	return api.Errorf(api.CodeRefused, b.Remedy, "%s cannot be %s: %s%s%s", c.Ref(), how, who, b.What, more)
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
		ID: c.ID, Need: c.Need(), Rules: c.Rules, Template: c.Digest, Pin: want, Exclude: c.Host,
	})
	if d.Host == "" {
		return "", api.Errorf(api.CodeNoFit, "", "%s", d.Why)
	}
	return d.Host, nil
}

// handleOwnerCheck is the preflight on the owner.
func (m *member) handleOwnerCheck(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := m.migratable(r)
	if err != nil {
		return nil, err
	}
	m.survey.hurry(id)
	return m.migrator.Check(r.Context(), id)
}
