package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// actions are what can be done to a container, with what is wanted of it then.
func actions() map[string]cluster.Desired {
	return map[string]cluster.Desired{
		"start": cluster.WantRunning, "restart": cluster.WantRunning, "resume": cluster.WantRunning,
		"stop": cluster.WantStopped, "suspend": cluster.WantSuspended, "destroy": cluster.WantDestroyed,
	}
}

// handleAction does one of the actions and waits for the outcome.
func (m *member) handleAction(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.ActionRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	action := r.PathValue("action")
	want, known := actions()[action]
	if !known {
		return nil, api.Errorf(api.CodeUsage, "use start, stop, restart, suspend, resume or destroy", "%q cannot be done to a container", action)
	}
	c, err := m.find(r.PathValue("ct"))
	if err != nil {
		return nil, err
	}
	if req.Wait <= 0 {
		req.Wait = defaultWait
	}
	ctx, cancel := context.WithTimeout(r.Context(), req.Wait)
	defer cancel()
	if action == "destroy" && !req.Now && !c.InTrash() && !c.Waits() && m.cfg.Trash.Hours > 0 {
		return m.trash(ctx, c, req)
	}
	if err := m.mayAct(ctx, c, action, req); err != nil {
		return nil, err
	}
	restart := action == "restart" || want == cluster.WantRunning && c.State == cluster.Failed
	now, err := applyHere[*cluster.Container](r.Context(), m, cluster.SetDesired{
		ID: c.ID, Desired: want, Restart: restart, GraceMS: req.Grace.Milliseconds(),
	})
	if err != nil {
		return nil, err
	}
	m.spread()
	return m.follow(ctx, now, want, restart, req.Force)
}

// mayAct refuses what would lose a container's memory without having been told to, and what cannot succeed.
func (m *member) mayAct(ctx context.Context, c *cluster.Container, action string, req api.ActionRequest) error {
	switch {
	case c.State == cluster.Suspended && (action == "restart" || action == "stop" && !req.Force):
		return api.Errorf(api.CodeRefused, fmt.Sprintf("'vzcluster start %s' lets it go on, 'vzcluster stop --force %s' throws its memory away", c.Name, c.Name), "%s is suspended", c.Ref())
	case action != "suspend" || c.Desired != cluster.WantRunning || c.State != cluster.Running:
		return nil
	}
	return m.mayDump(ctx, c, "suspended", req.Force)
}

// mayDump refuses what cannot be checkpointed, before anything is tried. With force, sessions of exec are ended before the
// next suspend.
func (m *member) mayDump(ctx context.Context, c *cluster.Container, how string, force bool) error {
	if m.down(ctx, c.Host) {
		return errDown(c.Host)
	}
	var v api.Verdict
	if err := m.peers.call(ctx, http.MethodPost, c.Host, fmt.Sprintf("/v1/local/containers/%d/check", c.ID), nil, &v); err != nil {
		return fmt.Errorf("it is not known whether %s can be %s: %w", c.Ref(), how, err)
	}
	for _, b := range v.Blockers {
		if !force || !b.Session {
			return api.Errorf(api.CodeRefused, b.Remedy, "%s cannot be %s: %s", c.Ref(), how, b.Who()+b.What)
		}
	}
	if len(v.Blockers) == 0 {
		return nil
	}
	return m.callOwner(ctx, c, "kill", nil) // its sessions, before it is suspended
}

// follow has the owner act on what is wanted of a container, and returns when that is reached.
func (m *member) follow(ctx context.Context, now *cluster.Container, want cluster.Desired, restart, force bool) (any, error) {
	if now.Waits() { // it is done when it gets a host, or was never anywhere
		return m.container(m.store.State(), now), nil
	}
	if m.down(ctx, now.Host) {
		return nil, errDown(now.Host)
	}
	if force && (want == cluster.WantStopped || want == cluster.WantDestroyed) {
		if err := m.callOwner(ctx, now, "kill", nil); err != nil && !errors.Is(err, errDial) {
			return nil, fmt.Errorf("%s cannot be killed: %w", now.Ref(), err)
		}
	}
	if restart {
		if err := m.callOwner(ctx, now, "sync", syncRequest{Epoch: now.Epoch}); errors.Is(err, errDial) {
			return nil, errDown(now.Host)
		} else if err != nil {
			return nil, err
		}
	}
	last, err := m.await(ctx, now.ID, settledAs(want))
	if err != nil {
		return nil, err
	}
	if last == nil {
		last = now
	}
	return m.container(m.store.State(), last), nil
}

// trash stops a container and keeps it for a while.
func (m *member) trash(ctx context.Context, c *cluster.Container, req api.ActionRequest) (any, error) {
	now, err := applyHere[*cluster.Container](ctx, m, cluster.TrashContainer{ID: c.ID, At: time.Now().UTC()})
	if err != nil {
		return nil, err
	}
	m.spread()
	if now.Desired == cluster.WantSuspended {
		return m.container(m.store.State(), now), nil
	}
	return m.follow(ctx, now, cluster.WantStopped, false, req.Force)
}

// handleTrash lists the trash.
func (m *member) handleTrash(http.ResponseWriter, *http.Request) (any, error) {
	s := m.store.State()
	out := []api.Container{}
	for _, c := range s.Containers() {
		if c.InTrash() {
			out = append(out, m.container(s, c))
		}
	}
	return out, nil
}

// handleRestore takes a container out of the trash.
func (m *member) handleRestore(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.RestoreRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	c, err := m.findTrashed(r.PathValue("ct"))
	if err != nil {
		return nil, err
	}
	now, err := applyHere[*cluster.Container](r.Context(), m, cluster.RestoreContainer{ID: c.ID, Name: req.Name})
	if err != nil {
		return nil, err
	}
	m.spread()
	return m.container(m.store.State(), now), nil
}

// findTrashed looks a container in the trash up, by CTID or by the name that it had; the last one that was destroyed.
func (m *member) findTrashed(nameOrID string) (*cluster.Container, error) {
	var found *cluster.Container
	for _, c := range m.store.State().Containers() {
		if c.InTrash() && (fmt.Sprint(c.ID) == nameOrID || c.Name == nameOrID) && (found == nil || c.Trashed.After(found.Trashed)) {
			found = c
		}
	}
	if found == nil {
		return nil, api.Errorf(api.CodeNotFound, "'vzcluster trash ls' shows what there is", "there is no container %q in the trash", nameOrID)
	}
	return found, nil
}

// emptyTrash deletes what has been in the trash for too long; only the leader does.
func (m *member) emptyTrash(ctx context.Context, now time.Time) {
	for _, c := range m.store.State().Containers() {
		old := c.InTrash() && now.Sub(c.Trashed) > time.Duration(m.cfg.Trash.Hours)*time.Hour
		if !old || c.Desired == cluster.WantDestroyed || c.Operation != "" {
			continue
		}
		if _, err := m.store.Apply(ctx, cluster.SetDesired{ID: c.ID, Desired: cluster.WantDestroyed}); err != nil {
			m.log.Warn("a container cannot be deleted from the trash", "container", c.ID, "error", err)
			return
		}
		m.log.Info("deleting a container that was destroyed long ago", "container", c.ID, "name", c.Name, "destroyed", c.Trashed)
	}
}
