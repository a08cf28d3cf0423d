package agent

import (
	"context"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// loan is the use of a container's root by a user. It ends when something is to be done with the container: life goes
// before copies.
type loan struct {
	cut  context.CancelFunc
	over chan struct{} // closed when the root is not used any more
}

// borrow lets a user work with the root of a container of this host, with the context that it returns, until done is called.
func (r *reconciler) borrow(ctx context.Context, c *cluster.Container) (on context.Context, done func(), err error) {
	ctx, cut := context.WithCancel(ctx)
	l := &loan{cut, make(chan struct{})}
	for {
		r.mu.Lock()
		var stepped chan struct{}
		if j := r.jobs[c.ID]; j != nil {
			stepped = j.stepped
		}
		if stepped == nil {
			break
		}
		r.mu.Unlock()
		select {
		case <-stepped:
		case <-ctx.Done():
			cut()
			return nil, nil, ctx.Err()
		}
	}
	defer r.mu.Unlock()
	if now := r.m.store.State().Container(c.ID); now == nil || now.Host != r.m.name || now.Operation != "" {
		cut()
		return nil, nil, api.Errorf(api.CodeConflict, "try again in a moment", "%s is being moved or worked on", c.Ref())
	}
	if r.loans[c.ID] == nil {
		r.loans[c.ID] = map[*loan]bool{}
	}
	r.loans[c.ID][l] = true
	return ctx, func() {
		cut()
		r.mu.Lock()
		defer r.mu.Unlock()
		if delete(r.loans[c.ID], l); len(r.loans[c.ID]) == 0 {
			delete(r.loans, c.ID)
		}
		close(l.over)
	}, nil
}

// reclaim ends what users do with the root of a container.
func (r *reconciler) reclaim(ctx context.Context, id int) error {
	r.mu.Lock()
	var over []chan struct{}
	for l := range r.loans[id] {
		l.cut()
		over = append(over, l.over)
	}
	r.mu.Unlock()
	for _, o := range over {
		select {
		case <-o:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
