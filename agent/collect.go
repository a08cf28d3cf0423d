package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime/image"
)

// handleCollect has every host delete the copies of templates that it does not need, one host after the other: of a
// template that nobody uses the copy of the last host stays.
func (m *member) handleCollect(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.CollectRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	if req.OlderMS < 0 {
		return nil, api.Errorf(api.CodeUsage, "", "a copy cannot be unused for less than no time")
	}
	out := api.CollectResult{Copies: []api.TemplateCopy{}}
	for _, h := range m.store.State().Hosts() {
		var copies []api.TemplateCopy
		err := errors.New("it is down")
		if m.up(h.Name) {
			err = m.peers.call(r.Context(), http.MethodPost, h.Name, "/v1/local/templates/gc", req, &copies)
		}
		if err != nil {
			out.Failed = append(out.Failed, api.HostFailure{Host: h.Name, Error: err.Error()})
		}
		out.Copies = append(out.Copies, copies...)
	}
	if req.DryRun {
		m.keepLast(out.Copies)
	}
	return out, nil
}

// keepLast marks the copies that a rehearsal would have deleted although the others of the template go too.
func (m *member) keepLast(copies []api.TemplateCopy) {
	going := map[string]int{}
	for i, c := range copies {
		t := m.store.State().TemplateByDigest(c.Digest)
		if c.Kept != "" || t == nil {
			continue
		}
		if going[c.Digest]++; going[c.Digest] >= len(slices.DeleteFunc(slices.Clone(t.Hosts), func(h string) bool { return !m.up(h) })) {
			copies[i].Kept = "the last copy of " + t.Name
		}
	}
}

func (m *member) up(host string) bool { return host == m.name || m.alive(host) }

// handleOwnerCollect deletes the copies of this host that it does not need.
func (m *member) handleOwnerCollect(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.CollectRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	return m.collect(r.Context(), time.Duration(req.OlderMS)*time.Millisecond, req.DryRun)
}

// collect works while nothing comes in and no container begins to use a template. Who has found a template before that has
// its container in the replicated state, and is seen there by TemplateOff.
func (m *member) collect(ctx context.Context, older time.Duration, dry bool) ([]api.TemplateCopy, error) {
	if !m.images.TryLock() {
		return nil, api.Errorf(api.CodeConflict, "try again later", "a template is on its way to %s", m.name)
	}
	defer m.images.Unlock()
	images, err := m.deps.Templates.List()
	if err != nil {
		return nil, err
	}
	leftovers, err := m.leftovers()
	if err != nil {
		return nil, err
	}
	out := []api.TemplateCopy{}
	for _, i := range images {
		c := api.TemplateCopy{Host: m.name, Digest: i.Digest, Bytes: i.Size, Used: i.Used.UTC()}
		if archive, size, err := m.deps.Templates.Archive(i.Digest); err == nil {
			archive.Close()
			c.Bytes += max(size, 0)
		}
		if t := m.store.State().TemplateByDigest(i.Digest); t != nil {
			c.Name = t.Name
		}
		c.Kept = leftovers
		if c.Kept == "" {
			c.Kept = m.whyKept(i, older)
		}
		if c.Kept == "" && !dry {
			if err := m.removeCopy(ctx, i.Digest); errors.Is(err, cluster.ErrConflict) {
				c.Kept = err.Error()
			} else if err != nil {
				return out, err
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// leftovers says in a sentence that this host still has something of a container that is not its own any more, whose root may
// be mounted.
func (m *member) leftovers() (string, error) {
	ids, err := m.deps.Engine.List()
	if err != nil {
		return "", err
	}
	s := m.store.State()
	for _, id := range ids {
		if c := s.Container(id); c == nil || c.Host != m.name && s.ActiveMigration(id) == nil {
			return fmt.Sprintf("%s still clears away what is left of container %d", m.name, id), nil
		}
	}
	return "", nil
}

// whyKept says why a copy stays, as far as this host's replica knows.
func (m *member) whyKept(i image.Info, older time.Duration) string {
	s := m.store.State()
	if err := s.MayRemoveCopy(i.Digest, m.name); err != nil {
		return err.Error()
	}
	elsewhere := func(h string) bool { return h != m.name && m.alive(h) }
	if t := s.TemplateByDigest(i.Digest); t != nil && !slices.ContainsFunc(t.Hosts, elsewhere) {
		return "no other host that has " + t.Name + " is up"
	}
	if age := time.Since(i.Used); age < older {
		return fmt.Sprintf("used %s ago", age.Round(time.Second))
	}
	return ""
}

// removeCopy deletes a copy when the cluster has agreed.
func (m *member) removeCopy(ctx context.Context, digest string) error {
	if _, err := m.apply(ctx, cluster.TemplateOff{Digest: digest, Host: m.name}); err != nil {
		return err
	}
	m.log.Info("deleting a template that nothing here uses", "digest", digest)
	return m.deps.Templates.Remove(digest)
}
