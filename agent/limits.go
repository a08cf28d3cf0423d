package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// Bounds of what is kept of limits that were met.
const (
	maxLimitEvents = 500
	sameEvent      = time.Minute // what is met again within it is the same event, counted
)

// limitWatch notes when a container of this host meets one of its limits. What it has noted outlives the agent.
type limitWatch struct {
	m    *member
	file string
	seen map[int]seenBeans

	mu     sync.Mutex
	events []api.LimitEvent // oldest first
}

// seenBeans are the counters of one run of a container: another generation or epoch counts from zero.
type seenBeans struct {
	generation, epoch uint64
	beans             map[string]runtime.Bean
}

func newLimitWatch(m *member) *limitWatch {
	w := &limitWatch{m: m, file: filepath.Join(m.cfg.DataDir, "limit-events.json"), seen: map[int]seenBeans{}}
	if raw, err := os.ReadFile(w.file); err == nil && json.Unmarshal(raw, &w.events) != nil {
		w.events = nil // torn by a crash: events are a courtesy
	}
	return w
}

func (w *limitWatch) run(ctx context.Context) error {
	tick := time.NewTicker(max(w.m.timing.Survey/10, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			w.pass(time.Now().UTC())
		}
	}
}

// pass looks at the counters of every running container once.
func (w *limitWatch) pass(now time.Time) {
	here, changed := map[int]bool{}, false
	for _, c := range w.m.store.State().Containers() {
		if c.Host != w.m.name || c.State != cluster.Running {
			continue
		}
		beans, err := w.m.deps.Engine.Beans(c.ID)
		if err != nil {
			continue // it has just ended
		}
		here[c.ID] = true
		changed = w.compare(c, beans, now) || changed
	}
	for id := range w.seen {
		if !here[id] {
			delete(w.seen, id)
		}
	}
	if changed {
		w.save()
	}
}

// compare notes what has failed since the last look, and says whether there is something new. The first look at a run only
// takes the counters down: what came before it was noted by an agent that was here then.
func (w *limitWatch) compare(c *cluster.Container, beans []runtime.Bean, now time.Time) (changed bool) {
	old, known := w.seen[c.ID]
	known = known && old.generation == c.Generation && old.epoch == c.Epoch
	next := seenBeans{c.Generation, c.Epoch, map[string]runtime.Bean{}}
	for _, b := range beans {
		next.beans[b.Name] = b
		was := old.beans[b.Name]
		if text := met(b, b.Held-was.Held, b.Failures-was.Failures); known && text != "" {
			w.note(api.LimitEvent{
				First: now, Last: now, Host: w.m.name, Container: c.ID, Name: c.Name, Resource: b.Name, What: text, Times: b.Failures - was.Failures,
			})
			changed = true
		}
	}
	w.seen[c.ID] = next
	return changed
}

// met says in plain words what it means that a resource has failed so often, or "" when it means nothing. The CPU limit is
// met all the time; it is worth a word when it ends most periods.
func met(b runtime.Bean, held, failures int64) string {
	const most = 10
	switch {
	case failures <= 0:
		return ""
	case b.Name == runtime.BeanCPU && (failures < most || 2*failures < held):
		return ""
	case b.Name == runtime.BeanCPU:
		return "it wanted more CPU time than its limit most of the time; raise --cpus"
	case b.Name == runtime.BeanOOM:
		return "a process was killed because there was no memory left for it; raise --ram"
	case b.Name == "numproc":
		return fmt.Sprintf("it could not make another process, %d is its limit; raise --pids", b.Limit)
	case b.Name == "physpages", b.Name == "privvmpages":
		return "its memory was full and some was taken back; raise --ram"
	case b.Name == "swappages":
		return "its swap was full; raise --swap"
	}
	return "the kernel refused it more of " + b.Name
}

func (w *limitWatch) note(e api.LimitEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, old := range slices.Backward(w.events) {
		if old.Container == e.Container && old.Resource == e.Resource && e.First.Sub(old.Last) < sameEvent {
			e.First, e.Times = old.First, e.Times+old.Times
			w.events = slices.Delete(w.events, i, i+1)
			break
		}
	}
	w.events = append(w.events, e)
	w.events = w.events[max(0, len(w.events)-maxLimitEvents):]
}

func (w *limitWatch) save() {
	w.mu.Lock()
	raw, err := json.Marshal(w.events)
	w.mu.Unlock()
	if err == nil {
		if err = os.WriteFile(w.file+".new", raw, 0o600); err == nil {
			err = os.Rename(w.file+".new", w.file)
		}
	}
	if err != nil {
		w.m.log.Warn("the limits that containers have met cannot be noted", "error", err)
	}
}

// handleLocalEvents answers with what was noted on this host.
func (m *member) handleLocalEvents(http.ResponseWriter, *http.Request) (any, error) {
	m.limits.mu.Lock()
	defer m.limits.mu.Unlock()
	return append([]api.LimitEvent{}, m.limits.events...), nil
}

// handleEvents gathers what was noted on all hosts that answer, of all containers or of ?ct=.
func (m *member) handleEvents(_ http.ResponseWriter, r *http.Request) (any, error) {
	only := 0
	if ct := r.URL.Query().Get("ct"); ct != "" {
		c, err := m.find(ct)
		if err != nil {
			return nil, err
		}
		only = c.ID
	}
	ctx, cancel := context.WithTimeout(r.Context(), progressTime)
	defer cancel()
	var all errgroup.Group
	hosts := m.store.State().Hosts()
	found := make([][]api.LimitEvent, len(hosts))
	for i, h := range hosts {
		if h.Name == m.name || m.alive(h.Name) {
			all.Go(func() error {
				if err := m.peers.call(ctx, http.MethodGet, h.Name, "/v1/local/events", nil, &found[i]); err != nil {
					m.log.Warn("a host does not say which limits were met on it", "host", h.Name, "error", err)
				}
				return nil
			})
		}
	}
	_ = all.Wait() // none fails
	out := slices.DeleteFunc(slices.Concat(found...), func(e api.LimitEvent) bool { return only != 0 && e.Container != only })
	slices.SortStableFunc(out, func(a, b api.LimitEvent) int { return a.Last.Compare(b.Last) })
	return append([]api.LimitEvent{}, out...), nil
}

// handleBeans passes on to the owner, which counts.
func (m *member) handleBeans(w http.ResponseWriter, r *http.Request) {
	c, err := m.find(r.PathValue("ct"))
	if err != nil {
		respond(w, nil, err)
		return
	}
	m.passToOwner(c, "beans", w, r)
}

func (m *member) handleOwnerBeans(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "%q is not a CTID", r.PathValue("id"))
	}
	beans, err := m.deps.Engine.Beans(id)
	if err != nil {
		return nil, api.Errorf(api.CodeConflict, "'vzcluster start' starts it", "container %d does not run, so nothing of it is counted", id)
	}
	out := []api.Bean{}
	for _, b := range beans {
		out = append(out, api.Bean(b))
	}
	return out, nil
}
