package agent

import (
	"net/http"

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

// handleHostRemove forgets a host. One that is alive would go on: it is drained and then told to leave.
func (m *member) handleHostRemove(_ http.ResponseWriter, r *http.Request) (any, error) {
	name, force := r.PathValue("host"), r.URL.Query().Get("force") != ""
	s := m.store.State()
	h := s.Host(name)
	switch {
	case h == nil:
		return nil, notFound("host", name, "vzcluster host ls")
	case name == m.name:
		return nil, api.Errorf(api.CodeConflict, "stop its agent, and ask another host", "%s leads the cluster", name)
	case force && m.alive(name):
		return nil, api.Errorf(api.CodeConflict, "drain it, or stop its agent first", "host %s is up; what runs on it would go on without the cluster", name)
	}
	_, err := applyHere[any](r.Context(), m, cluster.RemoveHost{Name: name, Force: force})
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
