package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime/image"
)

// Fetching a template from the hosts that have it.
const (
	fetchRounds = 3
	fetchPause  = time.Second
)

func (m *member) handleTemplates(http.ResponseWriter, *http.Request) (any, error) {
	out := []cluster.Template{}
	for _, t := range m.store.State().Templates() {
		out = append(out, *t)
	}
	return out, nil
}

func (m *member) handleTemplate(_ http.ResponseWriter, r *http.Request) (any, error) {
	t := m.store.State().Template(r.PathValue("name"))
	if t == nil {
		return nil, notFound("template", r.PathValue("name"), "vzcluster template ls")
	}
	return t, nil
}

func (m *member) handleTemplateDrop(_ http.ResponseWriter, r *http.Request) (any, error) {
	return applyHere[any](r.Context(), m, cluster.DropTemplate{Name: r.PathValue("name")})
}

// handleTemplatePut stores an archive on this host and makes it known to the cluster.
func (m *member) handleTemplatePut(_ http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := cluster.CheckName("template", name); err != nil {
		return nil, err
	}
	if leader, _ := m.leader(); leader == "" {
		return nil, errNoQuorum() // before much is uploaded for nothing
	}
	m.images.RLock()
	defer m.images.RUnlock()
	var o image.ImportOptions
	if init := r.URL.Query().Get("init"); init != "" {
		o.Init = strings.Fields(init)
	}
	info, err := m.deps.Templates.Import(r.Context(), r.Body, o)
	if err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "template %q cannot be used: %v", name, err)
	}
	return m.apply(r.Context(), cluster.PutTemplate{Template: cluster.Template{
		Name: name, Digest: info.Digest, Size: info.Size, Init: info.Init, Systemd: info.Systemd, Prepared: info.Prepared,
		Hosts: []string{m.name}, Created: time.Now().UTC(),
	}})
}

// handleBlob sends a template's archive to another host.
func (m *member) handleBlob(w http.ResponseWriter, r *http.Request) {
	m.images.RLock()
	defer m.images.RUnlock()
	blob, size, err := m.deps.Templates.Archive(r.PathValue("digest"))
	if err != nil {
		respond(w, nil, fmt.Errorf("host %s cannot give the template: %w", m.name, err))
		return
	}
	defer blob.Close()
	w.Header().Set("Content-Type", "application/zstd")
	if f, is := blob.(*os.File); is { // a receiver whose connection broke asks for the rest
		if st, err := f.Stat(); err == nil {
			w.Header().Set("ETag", fmt.Sprintf(`"%d-%d"`, st.Size(), st.ModTime().UnixNano()))
			http.ServeContent(w, r, "", time.Time{}, f)
			return
		}
	}
	if size >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(size))
	}
	_, _ = io.Copy(w, blob) // the receiver checks the digest
}

// EnsureTemplate makes sure that a template is on this host; it fetches it from another one if need be.
func (a *Agent) EnsureTemplate(ctx context.Context, digest string) error {
	m := a.member.Load()
	if m == nil {
		return errNoCluster()
	}
	return m.ensureTemplate(ctx, digest)
}

func (m *member) ensureTemplate(ctx context.Context, digest string) error {
	if m.useTemplate(digest) {
		return nil
	}
	_, err, _ := m.fetch.Do(digest, func() (any, error) { return nil, m.fetchTemplate(ctx, digest) })
	return err
}

// useTemplate says whether a template is here, and if so keeps it from being taken for an old one. It waits for what is
// being deleted: whoever has a container of this host in the replicated state and hears yes can count on the template.
func (m *member) useTemplate(digest string) bool {
	m.images.RLock()
	defer m.images.RUnlock()
	if !m.deps.Templates.Has(digest) {
		return false
	}
	if err := m.deps.Templates.Touch(digest); err != nil {
		m.log.Warn("it cannot be noted that a template is used", "error", err)
	}
	return true
}

func (m *member) fetchTemplate(ctx context.Context, digest string) error {
	m.images.RLock()
	defer m.images.RUnlock()
	var last error
	for round := range fetchRounds {
		if round > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(fetchPause):
			}
		}
		t := m.store.State().TemplateByDigest(digest)
		if t == nil {
			return fmt.Errorf("the cluster does not know the template %s: %w", digest, cluster.ErrNotFound)
		}
		for _, host := range m.livingFirst(t.Hosts) {
			if last = m.fetchFrom(ctx, host, digest); last == nil {
				_, err := m.apply(ctx, cluster.TemplateOn{Digest: digest, Host: m.name})
				return err
			}
			m.log.Warn("a template could not be fetched", "template", t.Name, "from", host, "error", last)
		}
	}
	if last == nil {
		last = errors.New("no host has a copy")
	}
	return fmt.Errorf("the template cannot be had from any host: %w", last)
}

// livingFirst returns the other hosts of a list, the living ones first.
func (m *member) livingFirst(hosts []string) []string {
	out := slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return h == m.name })
	slices.SortStableFunc(out, func(a, b string) int {
		switch la, lb := m.alive(a), m.alive(b); {
		case la && !lb:
			return -1
		case lb && !la:
			return 1
		}
		return 0
	})
	return out
}

func (m *member) fetchFrom(ctx context.Context, host, digest string) error {
	from, err := openBlob(ctx, resumePause, func(ctx context.Context, header http.Header) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/v1/blobs/"+digest, nil)
		if err != nil {
			return nil, err
		}
		maps.Copy(req.Header, header)
		return m.peers.send(host, req)
	})
	if err != nil {
		return err
	}
	defer from.Close()
	started := time.Now()
	if _, err := m.deps.Templates.Fetch(ctx, digest, from); err != nil {
		return err
	}
	m.log.Info("fetched a template", "digest", digest, "from", host, "took", time.Since(started).Round(time.Millisecond))
	return nil
}
