package agent

import (
	"context"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// routeProgress asks the source of a migration how far it is.
const routeProgress = "GET /v1/local/operations/{id}/progress" // -> cluster.Progress

// progressTime is how long a source may take to say how far it is; an answer without that is better than none.
const progressTime = time.Second

// Progress implements Migrator.
func (mv *mover) Progress(operation string) cluster.Progress { return mv.board.Progress(operation) }

// fetching is the size of a container's template if it is not here yet.
func (mv *mover) fetching(c *cluster.Container) int64 {
	m := mv.a.member.Load()
	if t := m.store.State().TemplateByDigest(c.Digest); t != nil && !m.deps.Templates.Has(c.Digest) {
		return t.Size
	}
	return 0
}

func (m *member) handleProgress(_ http.ResponseWriter, r *http.Request) (any, error) {
	if m.migrator == nil {
		return cluster.Progress{Stages: []cluster.Stage{}}, nil
	}
	return m.migrator.Progress(r.PathValue("id")), nil
}

// progress asks the source of a migration how far it is; nil if that cannot be said.
func (m *member) progress(ctx context.Context, op *cluster.Operation) *cluster.Progress {
	if op == nil || op.Kind != cluster.OpMigrate || op.From == "" || !m.alive(op.From) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, progressTime)
	defer cancel()
	var p cluster.Progress
	err := m.peers.call(ctx, http.MethodGet, op.From, "/v1/local/operations/"+op.ID+"/progress", nil, &p)
	if err != nil || len(p.Stages) == 0 {
		return nil
	}
	return &p
}

// withProgress adds to containers that are on their way how far they are.
func (m *member) withProgress(ctx context.Context, cs []api.Container) []api.Container {
	var all errgroup.Group
	all.SetLimit(api.MaxParallel)
	s := m.store.State()
	for i := range cs {
		if op := s.Operation(cs[i].Operation); op != nil && !op.Final() {
			all.Go(func() error {
				cs[i].Progress = m.progress(ctx, op)
				return nil
			})
		}
	}
	_ = all.Wait() // none fails
	return cs
}
