package agent

import (
	"net/http"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// handleHostSet changes what is kept back on a host, its labels, and how it is switched off and on.
func (m *member) handleHostSet(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.HostSetRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	h, err := applyHere[*cluster.Host](r.Context(), m, cluster.SetHost{
		Name: r.PathValue("host"), Reserve: req.Reserve, MaxContainers: req.MaxContainers, Labels: req.Labels, Power: req.Power,
	})
	if err != nil {
		return nil, err
	}
	return m.host(m.store.State(), h), nil
}

// handleHostRemove forgets a host that is down, and all that is on it. One that is up leaves in another way.
func (m *member) handleHostRemove(_ http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("host")
	switch h := m.store.State().Host(name); {
	case h == nil:
		return nil, notFound("host", name, "vzcluster host ls")
	case m.alive(name):
		return nil, api.Errorf(api.CodeConflict, "'vzcluster host leave "+name+"' moves everything off it first; or stop its agent",
			"host %s is up; what runs on it would go on without the cluster", name)
	}
	if err := m.abortMovesOf(r.Context(), name); err != nil {
		return nil, err
	}
	_, err := applyHere[any](r.Context(), m, cluster.RemoveHost{Name: name, Force: true, At: time.Now().UTC()})
	return nil, err
}

// handleSettings tells how the cluster places containers and what it does by itself.
func (m *member) handleSettings(http.ResponseWriter, *http.Request) (any, error) {
	s := m.store.State()
	return api.Settings{Policy: s.Policy(), Automation: s.Automation()}, nil
}

// handleSettingsWrite replaces the settings, all or nothing.
func (m *member) handleSettingsWrite(w http.ResponseWriter, r *http.Request) (any, error) {
	var req api.Settings
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	if err := req.Policy.Check(); err != nil {
		return nil, err
	}
	if err := req.Automation.Check(); err != nil {
		return nil, err
	}
	if _, err := applyHere[*cluster.Policy](r.Context(), m, cluster.SetPolicy{Policy: req.Policy}); err != nil {
		return nil, err
	}
	if _, err := applyHere[*cluster.Automation](r.Context(), m, cluster.SetAutomation{Automation: req.Automation}); err != nil {
		return nil, err
	}
	return m.handleSettings(w, r)
}
