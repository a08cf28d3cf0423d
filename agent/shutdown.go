package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// What becomes of the containers when their host goes down.
const (
	shutdownSuspend = "suspend"
	shutdownStop    = "stop"
)

// reportTime is how long a host that goes down tries to say what it did: the others may go down too.
const reportTime = 5 * time.Second

// handleShutdown suspends or stops this host's containers because the host is going down.
func (a *Agent) handleShutdown(_ http.ResponseWriter, r *http.Request) (any, error) {
	m := a.member.Load()
	if m == nil {
		return api.ShutdownReply{}, nil
	}
	req := api.ShutdownRequest{How: m.cfg.Shutdown}
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	if req.How != shutdownSuspend && req.How != shutdownStop {
		return nil, api.Errorf(api.CodeUsage, "use suspend or stop", "%q is nothing that can be done at a shutdown", req.How)
	}
	n, err := m.rec.quiesce(r.Context(), req.How)
	return api.ShutdownReply{Containers: n}, err
}

// quiesce suspends or stops what runs here, in the opposite order of the boot. What is wanted of the containers stays as it is,
// so that they go on when the host is back; until then, or until another agent begins, nothing is started here.
func (r *reconciler) quiesce(ctx context.Context, how string) (n int, err error) {
	ctx = context.WithoutCancel(ctx) // who asked may be gone
	r.quiet.Store(true)
	for _, group := range shutdownOrder(r.m.store.State().Containers(), r.m.name) {
		var g errgroup.Group
		g.SetLimit(maxStarts)
		for _, c := range group {
			g.Go(func() error { return r.putDown(ctx, c, how) })
		}
		err = errors.Join(err, g.Wait())
		n += len(group)
	}
	return n, err
}

// shutdownOrder groups the containers that are wanted running on a host by their boot order, the last ones first.
func shutdownOrder(cs []*cluster.Container, host string) (groups [][]*cluster.Container) {
	cs = slices.DeleteFunc(slices.Clone(cs), func(c *cluster.Container) bool {
		return c.Host != host || c.Desired != cluster.WantRunning || c.Operation != ""
	})
	slices.SortStableFunc(cs, func(a, b *cluster.Container) int { return cmp.Compare(a.BootOrder, b.BootOrder) })
	for i, c := range cs {
		if i == 0 || c.BootOrder != cs[i-1].BootOrder {
			groups = append(groups, nil)
		}
		last := len(groups) - 1
		groups[last] = append(groups[last], c)
	}
	return groups
}

// putDown suspends a container; what cannot be suspended is stopped.
func (r *reconciler) putDown(ctx context.Context, c *cluster.Container, how string) error {
	if err := r.m.Idle(ctx, c.ID); err != nil {
		return err
	}
	e := r.m.deps.Engine
	st, err := e.Status(c.ID)
	if err != nil || !st.Running {
		return err
	}
	state := cluster.Stopped
	if how == shutdownSuspend {
		spec, err := r.m.spec(c)
		if err == nil {
			err = errors.Join(e.EndSessions(ctx, c.ID), e.Suspend(ctx, spec))
		}
		if err == nil {
			state = cluster.Suspended
		} else {
			r.m.log.Warn("a container cannot be suspended and is stopped", "container", c.ID, "error", err)
		}
	}
	if state == cluster.Stopped {
		t := r.m.store.State().TemplateByDigest(c.Digest)
		if err := e.Stop(ctx, c.ID, t != nil && t.Systemd, stopTimeout); err != nil {
			return fmt.Errorf("stop container %d: %w", c.ID, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	if _, err := r.report(ctx, c, state, "its host went down"); err != nil {
		r.m.log.Warn("it cannot be said what became of a container", "container", c.ID, "state", state, "error", err)
	}
	return nil
}
