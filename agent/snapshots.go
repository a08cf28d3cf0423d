package agent

import (
	"context"
	"maps"
	"net/http"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// defaultTaskWait is how long a local operation is waited for: it may copy many bytes.
const defaultTaskWait = 10 * time.Minute

// handleSnapshot keeps what a container is now.
func (m *member) handleSnapshot(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.SnapshotRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	c, err := m.find(r.PathValue("ct"))
	if err != nil {
		return nil, err
	}
	if req.Name == "" {
		req.Name = time.Now().UTC().Format("20060102-150405")
	}
	if req.Memory && c.State == cluster.Running {
		if err := m.mayDump(r.Context(), c, "kept with its memory", false); err != nil {
			return nil, err
		}
	}
	task := cluster.Task{Snapshot: req.Name, Text: req.Text, Memory: req.Memory}
	return m.doTask(r.Context(), c, cluster.OpSnapshot, task, cluster.BeginTask{}, req.Wait)
}

// handleSwitch makes a container what it was at a snapshot; one with memory goes on from there.
func (m *member) handleSwitch(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.TaskRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	c, err := m.find(r.PathValue("ct"))
	if err != nil {
		return nil, err
	}
	return m.doTask(r.Context(), c, cluster.OpSwitch, cluster.Task{Snapshot: r.PathValue("name")}, cluster.BeginTask{}, req.Wait)
}

func (m *member) handleSnapshotDrop(_ http.ResponseWriter, r *http.Request) (any, error) {
	c, err := m.find(r.PathValue("ct"))
	if err != nil {
		return nil, err
	}
	return m.doTask(r.Context(), c, cluster.OpDropSnapshot, cluster.Task{Snapshot: r.PathValue("name")}, cluster.BeginTask{}, 0)
}

// handleClone makes another container with the same content.
func (m *member) handleClone(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.CloneRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	c, err := m.find(r.PathValue("ct"))
	if err != nil {
		return nil, err
	}
	as := cluster.Container{
		ID: req.ID, Name: req.Name, Hostname: req.Hostname, Limits: c.Limits, Rules: c.Rules, Mounts: c.Mounts, NameServers: c.NameServers, SearchDomains: c.SearchDomains, Labels: map[string]string{}, Text: c.Text,
		Desired: cluster.WantStopped, Created: time.Now().UTC(), Placement: "a clone of " + c.Ref() + ", where that is",
	}
	maps.Copy(as.Labels, c.Labels)
	maps.Copy(as.Labels, req.Labels)
	if req.Start {
		as.Desired = cluster.WantRunning
	}
	return m.doTask(r.Context(), c, cluster.OpClone, cluster.Task{Snapshot: req.Snapshot}, cluster.BeginTask{Clone: as, IP: req.IP}, req.Wait)
}

// handleReinstall has a container begin again from a template.
func (m *member) handleReinstall(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.ReinstallRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	c, err := m.find(r.PathValue("ct"))
	if err != nil {
		return nil, err
	}
	task := cluster.Task{Template: req.Template, Keep: req.Keep}
	return m.doTask(r.Context(), c, cluster.OpReinstall, task, cluster.BeginTask{}, req.Wait)
}

// doTask begins a local operation, waits for its end, and for what becomes of the container then.
func (m *member) doTask(ctx context.Context, c *cluster.Container, kind cluster.OperationKind, task cluster.Task, begin cluster.BeginTask, wait time.Duration) (any, error) {
	if m.down(ctx, c.Host) {
		return nil, api.Errorf(api.CodeConflict, "try again when "+c.Host+" is back", "%s, the host of %s, is down", c.Host, c.Ref())
	}
	begin.Operation = cluster.Operation{
		ID: newOperationID(), Kind: kind, Container: c.ID, Generation: c.Generation, From: c.Host, Task: &task, Started: time.Now().UTC(),
	}
	op, err := applyHere[*cluster.Operation](ctx, m, begin)
	if err != nil {
		return nil, err
	}
	m.spread()
	if wait <= 0 {
		wait = defaultTaskWait
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	ended, err := m.awaitOperation(ctx, op.ID)
	switch {
	case err != nil:
		return nil, api.Errorf(api.CodeTimeout, "it goes on; see 'vzcluster operation show "+op.ID+"'", "the %s of %s has not ended yet", kind, c.Ref())
	case ended.Status == cluster.OpFailed:
		return nil, api.Errorf(api.CodeFailed, "nothing was changed", "the %s of %s failed: %s", kind, c.Ref(), ended.Error)
	}
	id := c.ID
	if kind == cluster.OpClone {
		id = op.Task.Clone
	}
	now := m.store.State().Container(id)
	if now == nil {
		return nil, notFound("container", c.Name, "vzcluster ls")
	}
	if now, err = m.await(ctx, id, settledAs(now.Desired)); err != nil {
		return nil, err
	}
	return m.container(m.store.State(), now), nil
}
