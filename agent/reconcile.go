package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// relistEvery is how often the reconciler looks for copies that nothing else has told it of.
const relistEvery = 30 * time.Second

// maxStarts bounds how many containers start at once; more only get in each other's way.
const maxStarts = 4

// reconciler makes this host's containers what the replicated state says. Each container that needs something has one
// goroutine for as long as it does; one that runs has one more that waits for its end.
type reconciler struct {
	m      *member
	dir    string // of the acted records
	boot   string
	starts chan struct{} // a semaphore

	mu      sync.Mutex
	acted   map[int]acted
	traces  map[int]bool
	jobs    map[int]*job
	waiting map[int]bool
	ends    map[int]runtime.End // of those that were waited for
	booted  string              // what the cluster is told of the host's boot; empty: an earlier agent has told it
	found   map[int]bool        // by that boot, and not settled yet; nil: not known yet
	quiet   atomic.Bool         // the host goes down: nothing is started any more
	kills   map[int]kill
	loans   map[int]map[*loan]bool
	changed chan struct{} // closed and replaced when an acted record changes
}

// job is a container that is being worked on.
type job struct {
	again   bool          // something changed since the step began
	wake    chan struct{} // of size 1, never closed: cuts a pause short
	stepped chan struct{} // closed when the step under way has ended; nil between steps
}

func newReconciler(m *member) (*reconciler, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("the kernel's boot id cannot be read: %w", err)
	}
	r := &reconciler{
		m: m, dir: filepath.Join(m.cfg.RunDir, "containers"), boot: strings.TrimSpace(string(boot)),
		starts: make(chan struct{}, maxStarts),
		acted:  map[int]acted{}, traces: map[int]bool{}, jobs: map[int]*job{}, waiting: map[int]bool{},
		kills: map[int]kill{}, loans: map[int]map[*loan]bool{}, ends: map[int]runtime.End{},
		changed: make(chan struct{}),
	}
	if err := r.load(); err != nil {
		return nil, err
	}
	r.readBoot()
	return r, nil
}

// run watches the replica and the host until ctx ends.
func (r *reconciler) run(ctx context.Context) error {
	tick := time.NewTicker(relistEvery)
	defer tick.Stop()
	if err := r.relist(); err != nil {
		return err
	}
	seen, first := cluster.NewState(), true
	for {
		changed := r.m.store.Changed()
		now := r.m.store.State()
		if now.Settings() != nil { // before, the replica knows of no container at all
			r.findBooted(now)
			r.compare(seen, now)
			if first {
				r.pokeAll()
				first = false
			}
			r.sweepImages(seen, now)
			seen = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
			if err := r.relist(); err != nil {
				r.m.log.Warn("this host's containers cannot be listed", "error", err)
			}
			r.pokeAll()
		}
	}
}

// compare pokes the containers of this host that changed between two states.
func (r *reconciler) compare(old, now *cluster.State) {
	here := r.known()
	ids, known := now.ChangedSince(old)
	if !known {
		ids = slices.Collect(maps.Keys(here))
		for _, s := range []*cluster.State{old, now} {
			for _, c := range s.On(r.m.name) {
				ids = append(ids, c.ID)
			}
		}
	}
	mine := func(c *cluster.Container) bool { return c != nil && c.Host == r.m.name }
	for _, id := range ids {
		was, is := old.Container(id), now.Container(id)
		if was != is && (here[id] || mine(was) || mine(is)) {
			r.poke(id)
		}
	}
}

// relist reads which containers leave a trace on this host. A record of what was done is one too: a migration that
// was held up may have removed everything else by now.
func (r *reconciler) relist() error {
	ids, err := r.m.deps.Engine.List()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.traces)
	for _, id := range ids {
		r.traces[id] = true
	}
	for id := range r.acted {
		r.traces[id] = true
	}
	return nil
}

// known returns the containers that this host has had to do with, whoever owns them.
func (r *reconciler) known() map[int]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := maps.Clone(r.traces)
	for id := range r.acted {
		ids[id] = true
	}
	for id := range r.jobs {
		ids[id] = true
	}
	return ids
}

func (r *reconciler) pokeAll() {
	r.mu.Lock()
	ids := slices.Collect(maps.Keys(r.traces))
	r.mu.Unlock()
	for _, id := range ids {
		r.poke(id)
	}
}

// poke has a container looked at, again if it is being worked on.
func (r *reconciler) poke(id int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if j := r.jobs[id]; j != nil {
		j.again = true
		select {
		case j.wake <- struct{}{}:
		default:
		}
		return
	}
	j := &job{wake: make(chan struct{}, 1)}
	r.jobs[id] = j
	r.m.spawn("container", func(ctx context.Context) error {
		r.work(ctx, id, j)
		return nil
	})
}

// work takes one step after the other until nothing is to be done. A step that fails is tried again, more and more
// slowly.
func (r *reconciler) work(ctx context.Context, id int, j *job) {
	pause := r.m.timing.Retry
	for ctx.Err() == nil {
		stepped := make(chan struct{})
		r.mu.Lock()
		j.stepped = stepped
		r.mu.Unlock()
		more, err := r.step(ctx, id)
		r.mu.Lock()
		j.stepped = nil
		r.mu.Unlock()
		close(stepped)
		if err != nil && ctx.Err() == nil {
			r.m.log.Warn("a container is not yet as wanted", "container", id, "error", err)
			select {
			case <-ctx.Done():
			case <-j.wake:
			case <-time.After(pause):
			}
			pause, more = min(2*pause, 20*r.m.timing.Retry), true
		}
		if err == nil {
			pause = r.m.timing.Retry
		}
		r.mu.Lock()
		if !more && !j.again {
			delete(r.jobs, id)
			r.mu.Unlock()
			return
		}
		j.again = false
		r.mu.Unlock()
	}
	r.mu.Lock()
	delete(r.jobs, id)
	r.mu.Unlock()
}

// restartDue says whether a container runs here that the user wants restarted: the migration would carry it past that.
func (r *reconciler) restartDue(id int) bool {
	c := r.m.store.State().Container(id)
	acted := r.actedOn(id)
	return c != nil && acted.Generation == c.Generation && acted.Epoch != c.Epoch && c.Desired == cluster.WantRunning
}

// Idle waits until the agent is not acting on a container. Who has seen, in this host's replica, that a migration of
// it is under way may then call the engine: no further step is taken until the migration is over.
func (a *Agent) Idle(ctx context.Context, id int) error {
	m := a.member.Load()
	if m == nil {
		return nil
	}
	m.rec.mu.Lock()
	var stepped chan struct{}
	if j := m.rec.jobs[id]; j != nil {
		stepped = j.stepped
	}
	m.rec.mu.Unlock()
	if stepped == nil {
		return m.rec.reclaim(ctx, id)
	}
	select {
	case <-stepped:
		return m.rec.reclaim(ctx, id)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watch waits for the end of a running container, once.
func (r *reconciler) watch(id int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting[id] {
		return
	}
	r.waiting[id] = true
	r.m.spawn("wait", func(ctx context.Context) error {
		end, err := r.m.deps.Engine.WaitEnd(ctx, id)
		if err != nil && !errors.Is(err, context.Canceled) {
			r.m.log.Warn("the end of a container cannot be waited for", "container", id, "error", err)
			select { // do not spin
			case <-ctx.Done():
			case <-time.After(10 * r.m.timing.Retry):
			}
		}
		r.mu.Lock()
		delete(r.waiting, id)
		r.ends[id] = end
		r.announce()
		r.mu.Unlock()
		if ctx.Err() == nil {
			r.poke(id)
		}
		return nil
	})
}

// sweepImages removes templates that the cluster has forgotten, and that this agent saw being forgotten: an older
// replica than another host's proves nothing.
func (r *reconciler) sweepImages(old, now *cluster.State) {
	if len(now.Templates()) >= len(old.Templates()) && now.Count() >= old.Count() {
		return
	}
	if !r.m.images.TryLock() {
		return // one is on its way in; what is left over costs disk only
	}
	defer r.m.images.Unlock()
	images, err := r.m.deps.Templates.List()
	if err != nil {
		r.m.log.Warn("this host's templates cannot be listed", "error", err)
		return
	}
	for _, i := range images {
		if old.TemplateByDigest(i.Digest) == nil || now.TemplateByDigest(i.Digest) != nil {
			continue
		}
		if err := r.m.deps.Templates.Remove(i.Digest); err != nil {
			r.m.log.Warn("a forgotten template cannot be removed", "digest", i.Digest, "error", err)
		}
	}
}
