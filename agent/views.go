package agent

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler"
)

// maxWait bounds how long one request waits for an operation; the client asks again.
const maxWait = 60 * time.Second

// handleStatus shows the cluster as the leader sees it, or that there is none yet.
func (a *Agent) handleStatus(w http.ResponseWriter, r *http.Request) {
	if a.member.Load() == nil {
		respond(w, api.Status{
			Host: a.cfg.Name, Version: a.deps.Version,
			Hosts: []api.Host{}, Containers: []api.Container{}, Operations: []cluster.Operation{},
		}, nil)
		return
	}
	a.onLeader(jsonOf(func(m *member, _ http.ResponseWriter, r *http.Request) (any, error) { return m.status(r), nil }))(w, r)
}

func (m *member) status(r *http.Request) api.Status {
	leader, mine := m.leader()
	s := api.Status{
		Host: m.name, Joined: true, Leader: leader, Quorum: mine || leader != "", Version: m.deps.Version,
		Hosts: m.hosts(), Containers: m.withProgress(r.Context(), m.containers()), Operations: []cluster.Operation{},
	}
	if asked := r.Header.Get(headerAsked); asked != "" && peerOf(r) != "" {
		s.Host = asked
	}
	for _, op := range m.store.State().Operations() {
		if !op.Final() {
			s.Operations = append(s.Operations, *op)
		}
	}
	return s
}

func (m *member) hosts() []api.Host {
	s := m.store.State()
	out := []api.Host{}
	for _, h := range s.Hosts() {
		out = append(out, m.host(s, h))
	}
	return out
}

func (m *member) host(s *cluster.State, h *cluster.Host) api.Host {
	leader, _ := m.leader()
	return api.Host{
		Host: *h, Leader: h.Name == leader, Alive: m.alive(h.Name), Reserved: s.Reserved(h.Name), Containers: s.CountOn(h.Name),
	}
}

func (m *member) containers() []api.Container {
	s := m.store.State()
	out := []api.Container{}
	for _, c := range s.Containers() {
		if !c.InTrash() {
			out = append(out, m.container(s, c))
		}
	}
	return out
}

// container adds what is observed: a container whose host is down is in a state that nobody knows.
func (m *member) container(s *cluster.State, c *cluster.Container) api.Container {
	v := api.Container{Container: *c, LastMove: s.LastMove(c.ID)}
	if !c.Waits() && !m.alive(c.Host) {
		v.State = cluster.Unknown
	} else if s.ActiveMigration(c.ID) != nil && c.State == cluster.Running {
		v.State = cluster.Migrating
	}
	return v
}

func (m *member) handleHosts(http.ResponseWriter, *http.Request) (any, error) { return m.hosts(), nil }

func (m *member) handleHostState(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.HostStateRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	h, err := applyHere[*cluster.Host](r.Context(), m, cluster.SetHostState{Name: r.PathValue("host"), State: req.State})
	if err != nil {
		return nil, err
	}
	return m.host(m.store.State(), h), nil
}

func (m *member) handleContainers(_ http.ResponseWriter, r *http.Request) (any, error) {
	return m.withProgress(r.Context(), m.containers()), nil
}

func (m *member) handleContainer(_ http.ResponseWriter, r *http.Request) (any, error) {
	c, err := m.find(r.PathValue("ct"))
	if err != nil {
		return nil, err
	}
	return m.withProgress(r.Context(), []api.Container{m.container(m.store.State(), c)})[0], nil
}

// find looks a container up by CTID or name.
func (m *member) find(nameOrID string) (*cluster.Container, error) {
	if c := m.store.State().Find(nameOrID); c != nil {
		return c, nil
	}
	return nil, notFound("container", nameOrID, "vzcluster ls")
}

func (m *member) handleRead(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "%q is not a CTID", r.PathValue("id"))
	}
	return m.readHere(r.Context(), id)
}

func (m *member) handleOperations(http.ResponseWriter, *http.Request) (any, error) {
	out := []cluster.Operation{}
	for _, op := range m.store.State().Operations() {
		out = append(out, *op)
	}
	return out, nil
}

// handleOperation returns an operation; with ?wait=SECONDS not before it has ended or the time is over, with ?progress=1
// together with how far it is.
func (m *member) handleOperation(_ http.ResponseWriter, r *http.Request) (any, error) {
	id := r.PathValue("id")
	seconds, _ := strconv.ParseFloat(r.URL.Query().Get("wait"), 64)
	ctx, cancel := context.WithTimeout(r.Context(), min(time.Duration(seconds*float64(time.Second)), maxWait))
	defer cancel()
	op, err := m.awaitOperation(ctx, id)
	if op == nil {
		return nil, notFound("operation", id, "vzcluster operation ls")
	}
	if err != nil && r.Context().Err() != nil {
		return nil, err
	}
	v := api.Operation{Operation: *op}
	if r.URL.Query().Get("progress") != "" {
		v.Progress = m.progress(r.Context(), op)
	}
	return v, nil
}

// handlePlace explains where a container would be created.
func (m *member) handlePlace(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.CreateRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	digest := ""
	if req.Template != "" {
		t := m.store.State().Template(req.Template)
		if t == nil {
			return nil, notFound("template", req.Template, "vzcluster template ls")
		}
		digest = t.Digest
	}
	d := m.place(req, digest)
	if err := m.wouldRefuse(req, d.Host); err != nil {
		return nil, err
	}
	reply := api.PlaceReply{Host: d.Host, Why: d.Why, Hosts: []api.PlaceHost{}}
	for _, h := range d.Hosts {
		reply.Hosts = append(reply.Hosts, api.PlaceHost{Host: h.Host, Fits: h.Fits, Score: h.Score, Free: h.Free, Reason: h.Reason})
	}
	if want := wanted(req, &cluster.Template{}); d.Host == "" && req.Host == "" && mayPreempt(&want) {
		if made := m.preempter().MakeRoom(request(&want, "")); made.Host != "" {
			reply.RoomOn, reply.Moves, reply.Why = made.Host, made.Moves, d.Why+"; "+made.Why
		}
	}
	return reply, nil
}

// wouldRefuse returns what a creation on a host would be refused with.
func (m *member) wouldRefuse(req api.CreateRequest, host string) error {
	s := m.store.State()
	if req.Template == "" { // any will do
		for _, t := range s.Templates() {
			req.Template = t.Name
		}
	}
	if host == "" || req.Template == "" {
		return nil
	}
	c := wanted(req, s.Template(req.Template))
	c.ID, c.Name, c.Hostname, c.Host = req.ID, req.Name, req.Hostname, host
	_, _, err := s.Apply(cluster.CreateContainer{Container: c, IP: req.IP})
	return err
}

// place decides where a container would go; nothing goes to hosts that are silent.
func (m *member) place(req api.CreateRequest, digest string, silent ...string) scheduler.Decision {
	snap := m.snapshot(digest)
	for i, h := range snap.Hosts {
		snap.Hosts[i].Alive = h.Alive && !slices.Contains(silent, h.Name)
	}
	need := cluster.Container{Limits: req.Limits, Rules: req.Rules}
	return scheduler.Place(snap, scheduler.Request{Need: need.Need(), Rules: req.Rules, Template: digest, Pin: req.Host})
}
