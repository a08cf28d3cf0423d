package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate"
	"github.com/vzcluster/vzcluster/runtime"
)

// Offer implements Migrator.
func (mv *mover) Offer(id int, live bool) (migrate.Offer, error) {
	facts, err := mv.engine.Facts()
	if err != nil {
		return migrate.Offer{}, err
	}
	need, err := mv.engine.Need(id)
	return migrate.Offer{Version: migrate.Version, Host: mv.a.Name(), Live: live, Facts: facts, Need: need}, err
}

// Unfit implements Migrator.
func (mv *mover) Unfit(ctx context.Context, c *cluster.Container, o migrate.Offer) []migrate.Blocker {
	p, err := mv.place(ctx, c)
	if err != nil {
		return []migrate.Blocker{{What: fmt.Sprintf("%s cannot say whether it has what the container needs: %v", p.Host, err), Remedy: "see 'vzcluster doctor' there"}}
	}
	return migrate.Unfit(o, p)
}

// place finds out what this host has for a container that comes.
func (mv *mover) place(ctx context.Context, c *cluster.Container) (p migrate.Place, err error) {
	p.Host = mv.a.Name()
	spec, err := mv.a.Spec(c)
	if err != nil {
		return p, err
	}
	if p.Facts, err = mv.engine.Facts(); err != nil {
		return p, err
	}
	if p.Room, err = mv.engine.Room(); err != nil {
		return p, err
	}
	p.Template = mv.a.member.Load().noTemplate(c.Digest)
	p.Network, err = mv.engine.Ready(ctx, spec.NICs)
	return p, err
}

// noTemplate says why a template can be had neither here nor from another host; "" when it can.
func (m *member) noTemplate(digest string) string {
	if m.deps.Templates.Has(digest) {
		return ""
	}
	t := m.store.State().TemplateByDigest(digest)
	if t == nil {
		return "the cluster does not know it any more"
	}
	for _, h := range t.Hosts {
		if h != m.name && m.alive(h) {
			return ""
		}
	}
	return "no host that is up has a copy"
}

// routeFit asks a target whether it could take a container; routeOffer the owner for what the target must know.
const (
	routeOffer = "GET /v1/local/containers/{id}/offer" // ?live=1 -> migrate.Offer
	routeFit   = "POST /v1/local/containers/{id}/fit"  // migrate.Offer -> []migrate.Blocker
)

func (m *member) handleOffer(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := m.migratable(r)
	if err != nil {
		return nil, err
	}
	return m.migrator.Offer(id, r.URL.Query().Get("live") != "")
}

func (m *member) handleFit(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := m.migratable(r)
	if err != nil {
		return nil, err
	}
	var o migrate.Offer
	if err := readJSON(r, &o); err != nil {
		return nil, err
	}
	c, err := m.read(r.Context(), id)
	if err != nil {
		return nil, err
	}
	return append([]migrate.Blocker{}, m.migrator.Unfit(r.Context(), c, o)...), nil
}

// migratable returns the CTID of a request on a host that can migrate.
func (m *member) migratable(r *http.Request) (int, error) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		return 0, api.Errorf(api.CodeUsage, "", "%q is not a CTID", r.PathValue("id"))
	}
	if m.migrator == nil {
		return 0, api.Errorf(api.CodeRefused, "see 'vzcluster doctor' there", "host %s cannot migrate", m.name)
	}
	return id, nil
}

// unfit asks both hosts what is in the way of a container's move to a target. Hosts of a version that does not know the
// question find out during the move.
func (m *member) unfit(ctx context.Context, c *cluster.Container, to, mode string) ([]migrate.Blocker, error) {
	var o migrate.Offer
	var found []migrate.Blocker
	path := fmt.Sprintf("/v1/local/containers/%d/", c.ID)
	query := ""
	if cluster.Alive(mode) {
		query = "?live=1"
	}
	err := m.peers.call(ctx, http.MethodGet, c.Host, path+"offer"+query, nil, &o)
	if o.Later = mode == cluster.ModePostCopy; err == nil {
		err = m.peers.call(ctx, http.MethodPost, to, path+"fit", o, &found)
	}
	if errors.Is(err, cluster.ErrNotFound) || errors.Is(err, runtime.ErrNotFound) || api.CodeOf(err) == api.CodeNotFound {
		return nil, nil
	}
	return found, err
}
