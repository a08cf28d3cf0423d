package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/vzcluster/vzcluster/migrate/transfer"
)

// LayerStore puts private layers aside; runtime/engine implements it. A layer that is aside is no container: nothing
// starts it, and it is not found by who lists containers.
type LayerStore interface {
	// Park ends what there is of a container and puts its layer aside, in place of one that was.
	Park(ctx context.Context, id int) error
	// Unpark makes the layer that is aside a container's again, which has none; it returns its folder.
	Unpark(id int) (string, error)
	// DropParked deletes the layer that is aside (idempotent).
	DropParked(id int) error
}

// Shelf keeps, for a while, what this host has in common with another one of a container's layer: after a move the
// layer itself, which waits here for the container's return; on the host that has the container, the manifest of what
// it received, so that it knows what it need not send back; after a move that failed, either. What is kept is a
// saving and never the truth: it is lost with the agent, whose successor deletes it.
type Shelf struct {
	Store LayerStore
	For   time.Duration // how long something is kept
	Disk  int64         // how many bytes all layers that are aside may take; what is oldest goes first
	Log   *slog.Logger

	mu     sync.Mutex
	shared map[int]*shared // by container
}

// maxShared is how many paths the manifest of a layer may have that is kept: each takes a few hundred bytes of memory.
const maxShared = 1 << 20

// shared is what two hosts have in common of one layer.
type shared struct {
	session string             // in which they came to it
	passes  int                // that are complete
	done    *transfer.Manifest // after them
	broken  *transfer.Manifest // of a source: after one more, of which the target may have a part
	whole   bool               // all of that one was sent
	frozen  bool               // it was sent of a container that stood still
	aside   bool               // the layer is here, and not a container's
	memory  KeptMemory         // beside a layer that is aside; nil: none
	since   time.Time
}

// base is what the next pass can be compared with, when the target says what it has; nil: with nothing.
func (k *shared) base(passes, entries int) *transfer.Manifest {
	switch {
	case k.broken == nil && passes == k.passes:
		return k.done
	case k.broken != nil && k.frozen && (passes == k.passes || passes == k.passes+1):
		// Of the container that stood still nothing was synced: what was sent of it proves nothing once it goes on.
		return k.broken.Cut(0)
	case k.broken != nil && k.whole && passes == k.passes+1:
		return k.broken
	case k.broken != nil && passes == k.passes && (k.done != nil || entries > 0):
		return k.broken.Cut(entries)
	}
	return nil
}

// disk is what something that is aside takes, in bytes.
func (k *shared) disk() int64 {
	if k.memory == nil {
		return k.done.Disk()
	}
	return k.done.Disk() + k.memory.Bytes()
}

// forget deletes the memory that is kept.
func (k *shared) forget() error {
	if k.memory == nil {
		return nil
	}
	err := k.memory.Drop()
	k.memory = nil
	return err
}

// Kept is a layer that is aside, with the memory if that is kept too.
type Kept struct {
	Container int
	Disk      int64 // bytes
	Since     time.Time
}

// Kept lists the layers that are aside.
func (s *Shelf) Kept() (all []Kept) {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, k := range s.shared {
		if k.aside {
			all = append(all, Kept{id, k.disk(), k.since})
		}
	}
	return all
}

// put keeps something of a container that is and stays this host's.
func (s *Shelf) put(id int, k *shared) {
	if s == nil || s.For <= 0 || k == nil || k.done == nil && k.broken == nil || tooMany(k.done) || tooMany(k.broken) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep(id, k)
}

func (s *Shelf) keep(id int, k *shared) {
	k.since = time.Now()
	if s.shared == nil {
		s.shared = map[int]*shared{}
	}
	s.shared[id] = k
}

func tooMany(m *transfer.Manifest) bool { return m != nil && m.Len() > maxShared }

// park ends a container here and keeps its layer, if there is room for it. Kept says whether it was; if not, the
// container is still here.
func (s *Shelf) park(ctx context.Context, id int, k *shared) (kept bool, err error) {
	if s == nil || s.For <= 0 || k.done == nil || tooMany(k.done) || k.done.Disk() > s.Disk {
		return false, k.forget()
	}
	if k.disk() > s.Disk { // then only the layer
		err = k.forget()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(err, s.drop(id), s.Store.Park(ctx, id)); err != nil {
		return false, fmt.Errorf("put the layer of container %d aside: %w", id, errors.Join(err, k.forget()))
	}
	k.aside = true
	s.keep(id, k)
	return true, s.makeRoom()
}

// makeRoom drops the oldest layers until the rest may stay.
func (s *Shelf) makeRoom() (err error) {
	for {
		var total int64
		oldest := 0
		for id, k := range s.shared {
			if k.aside {
				total += k.disk()
				if oldest == 0 || k.since.Before(s.shared[oldest].since) {
					oldest = id
				}
			}
		}
		if total <= s.Disk {
			return err
		}
		err = errors.Join(err, s.drop(oldest))
	}
}

func (s *Shelf) drop(id int) error {
	k := s.shared[id]
	delete(s.shared, id)
	if k == nil || !k.aside {
		return nil
	}
	return errors.Join(k.forget(), s.Store.DropParked(id))
}

// take returns what is kept of a container that is this host's, and forgets it.
func (s *Shelf) take(id int) *shared {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.shared[id]
	if k == nil || k.aside {
		return nil
	}
	delete(s.shared, id)
	return k
}

// unpark makes a layer that is aside the container's, if the source knows it by this session and nobody has touched
// it. Else it is deleted, and nil is returned: the container has no layer here.
func (s *Shelf) unpark(ctx context.Context, id int, session string) (*shared, error) {
	if s == nil {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.shared[id]
	if k == nil || !k.aside || session == "" || k.session != session {
		return nil, s.drop(id)
	}
	delete(s.shared, id)
	layer, err := s.Store.Unpark(id)
	if err != nil {
		return nil, errors.Join(err, k.forget(), s.Store.DropParked(id))
	}
	untouched, err := k.done.Adopt(ctx, layer)
	if err != nil || !untouched {
		s.Log.Warn("a kept layer cannot be used, all of it is copied", "container", id, "touched", !untouched, "error", err)
		return nil, k.forget()
	}
	return k, nil
}

// Run deletes what was kept long enough, and what is of containers that are no more, until ctx ends.
func (s *Shelf) Run(ctx context.Context, exists func(container int) bool) {
	tick := time.NewTicker(min(max(s.For/20, time.Second), time.Minute))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if err := s.prune(now, exists); err != nil {
				s.Log.Warn("a kept layer cannot be deleted", "error", err)
			}
		}
	}
}

func (s *Shelf) prune(now time.Time, exists func(container int) bool) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, k := range s.shared {
		if now.Sub(k.since) >= s.For || !exists(id) {
			err = errors.Join(err, s.drop(id))
		}
	}
	return err
}
