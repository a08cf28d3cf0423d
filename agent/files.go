package agent

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// handleFiles passes a copy out of a container on to the container's owner.
func (m *member) handleFiles(w http.ResponseWriter, r *http.Request) {
	m.toOwner(w, r, "files", m.handleOwnerFiles)
}

// handleFilesPut passes a copy into a container on to the container's owner.
func (m *member) handleFilesPut(w http.ResponseWriter, r *http.Request) {
	m.toOwner(w, r, "files", m.handleOwnerFilesPut)
}

// handleOwnerFiles sends a file or folder of a container of this host as a tar archive. What goes wrong after it has begun
// is told behind it.
func (m *member) handleOwnerFiles(w http.ResponseWriter, r *http.Request) {
	begun := false
	err := m.within(w, r, false, func(root runtime.Inside, name string) error {
		if err := root.Find(name); err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/x-tar")
		w.Header().Set("Trailer", api.TrailerError)
		begun = true
		return root.Pack(name, w)
	})
	switch {
	case err != nil && begun:
		w.Header().Set(api.TrailerError, api.OneLine(err.Error()))
	case err != nil:
		respond(w, nil, err)
	}
}

// handleOwnerFilesPut unpacks a tar archive in a container of this host.
func (m *member) handleOwnerFilesPut(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	err := m.within(w, r, true, func(root runtime.Inside, name string) error {
		if err := root.Unpack(name, r.Body, runtime.UnpackOptions{Rename: q.Get("rename") == "1", AsRoot: q.Get("root") == "1"}); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, r.Body) // what follows the archive's end
		return err
	})
	respond(w, nil, err)
}

// within has a request work with the root of its container, as long as nothing else is to be done with that.
func (m *member) within(w http.ResponseWriter, r *http.Request, write bool, do func(root runtime.Inside, name string) error) error {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		return api.Errorf(api.CodeUsage, "", "%q is not a CTID", r.PathValue("id"))
	}
	name := r.URL.Query().Get("path")
	if !path.IsAbs(name) {
		return api.Errorf(api.CodeUsage, "for example /etc/hosts", "%q is not the path of a file inside", name)
	}
	c := m.store.State().Container(id)
	if c == nil || c.Host != m.name {
		return api.Errorf(api.CodeConflict, "try again", "container %d is not on %s any more", id, m.name)
	}
	out := http.NewResponseController(w)
	err = m.withRoot(r.Context(), c, write, func(ctx context.Context, root runtime.Inside) error {
		past := func() { _, _ = out.SetReadDeadline(time.Unix(1, 0)), out.SetWriteDeadline(time.Unix(1, 0)) }
		defer context.AfterFunc(ctx, past)()
		err := do(root, name)
		if ctx.Err() != nil && r.Context().Err() == nil {
			return api.Errorf(api.CodeConflict, "copy it again", "the copy was cut short, because %s was started, stopped or moved", c.Ref())
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = api.Errorf(api.CodeNotFound, "", "%s: %v", c.Ref(), err)
	}
	return err
}

// withRoot has do work with the root of a container of this host.
func (m *member) withRoot(ctx context.Context, c *cluster.Container, write bool, do func(ctx context.Context, root runtime.Inside) error) error {
	ctx, done, err := m.rec.borrow(ctx, c)
	if err != nil {
		return err
	}
	defer done()
	kept, err := m.deps.Engine.Suspension(c.ID)
	if err != nil {
		return err
	}
	if write && kept != "" {
		return api.Errorf(api.CodeConflict, "'vzcluster resume "+c.Name+"' lets it go on",
			"%s is suspended: files must be as its memory knows them", c.Ref())
	}
	if err := m.ensureTemplate(ctx, c.Digest); err != nil {
		return err
	}
	spec, err := m.spec(c)
	if err != nil {
		return err
	}
	return m.deps.Engine.Within(ctx, spec, func(root runtime.Inside) error { return do(ctx, root) })
}
