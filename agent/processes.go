package agent

import (
	"net/http"
	"strconv"

	"github.com/vzcluster/vzcluster/agent/api"
)

// handleProcesses passes on to the owner, which looks.
func (m *member) handleProcesses(w http.ResponseWriter, r *http.Request) {
	m.toOwner(w, r, "processes", jsonHandler(m, (*member).handleOwnerProcesses))
}

func (m *member) handleOwnerProcesses(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := m.running(r)
	if err != nil {
		return nil, err
	}
	found, err := m.deps.Engine.Processes(id)
	if err != nil {
		return nil, err
	}
	out := []api.Running{}
	for _, p := range found {
		out = append(out, api.Running(p))
	}
	return out, nil
}

// handleWhich says which container of this host a process belongs to.
func (m *member) handleWhich(_ http.ResponseWriter, r *http.Request) (any, error) {
	pid, err := strconv.Atoi(r.PathValue("pid"))
	if err != nil || pid <= 0 {
		return nil, api.Errorf(api.CodeUsage, "", "%q is not the number of a process", r.PathValue("pid"))
	}
	id, p, err := m.deps.Engine.Which(pid)
	if err != nil {
		return nil, err
	}
	if id == 0 {
		return nil, api.Errorf(api.CodeNotFound, "", "process %d is in no container of %s", pid, m.name)
	}
	which := api.Which{Container: id, Host: m.name, Process: api.Running(p)}
	if c := m.store.State().Container(id); c != nil {
		which.Name = c.Name
	}
	return which, nil
}
