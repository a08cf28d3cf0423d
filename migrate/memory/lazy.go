package memory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Lazy brings memory into processes that run already (post-copy). CRIU restores them without their anonymous memory, and hands
// over a userfaultfd for each. What a process touches is asked for at once, everything else afterwards; what has not changed
// since the rounds is taken from the store.
//
// The rule for callers: once the descriptors are closed, what is missing reads as zeros. So the processes must have ended
// before Close is called, unless Rest has returned nil. A Guard sees to that if this process dies.
type Lazy struct {
	LazyNeeds
	images *os.Root
	listen *lazySocket
	data   []byte // of an answer

	mu      sync.Mutex
	change  *sync.Cond
	lacks   map[Space]missing // of processes that CRIU has not handed over yet
	procs   []*lazyProcess
	rest    []Want // what is asked for in the background, in this order
	resting bool   // that has begun
	urgent  []Want
	asked   map[Want]bool // of the urgent ones, without an answer
	open    int           // questions without an answer
	limit   int           // processes, at which those that have ended are looked for
	closed  bool
	failed  error
}

// LazyNeeds is what a Lazy works with.
type LazyNeeds struct {
	Store *Store // what came in the rounds
	Guard Guard
	Ask   func(question []byte) error // sends a question; its answer is for Take
	Fail  func(error)                 // called once if it cannot go on; the processes must end then
}

// Guard holds the descriptors too, and ends the processes if this process dies before Release.
type Guard interface {
	Hold(fd int) error
	Release() error
	// Lost is closed when it has ended by itself.
	Lost() <-chan struct{}
}

// lazyProcess is memory that is not complete.
type lazyProcess struct {
	*uffd
	space Space
	lacks missing
}

// While a question for the background waits for its answer, so does whoever needs a page at once: they are few.
const (
	maxOpen   = 3
	readAhead = 8 // pages that are asked for with one that is needed at once
	busyTime  = 100 * time.Microsecond
)

// Begin waits for a restore from the images folder.
func Begin(images string, needs LazyNeeds) (l *Lazy, err error) {
	l = &Lazy{LazyNeeds: needs, lacks: map[Space]missing{}, asked: map[Want]bool{}, limit: 64, data: make([]byte, maxWant*PageSize)}
	l.change = sync.NewCond(&l.mu)
	if l.images, err = os.OpenRoot(images); err != nil {
		return nil, fmt.Errorf("bring memory later: %w", err)
	}
	if err = l.plan(); err == nil {
		err = l.images.WriteFile(unfilledName, nil, 0o600)
	}
	if err == nil {
		l.listen, err = listenLazy(l.images)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bring memory later: %w", err), l.images.Close())
	}
	go l.asking()
	go l.accept()
	go func() {
		<-l.Guard.Lost()
		l.Lose(errors.New("the guard of its memory has ended"))
	}()
	return l, nil
}

// accept takes the processes over from CRIU.
func (l *Lazy) accept() {
	err := l.listen.take(func(pid, fd int) error {
		if err := l.Guard.Hold(fd); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		u, err := newUffd(fd)
		if err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.closed {
			return u.file.Close()
		}
		space := ProcessSpace(pid)
		l.add(&lazyProcess{u, space, l.lacks[space]})
		delete(l.lacks, space)
		return nil
	})
	if err != nil {
		l.Lose(fmt.Errorf("take processes over from criu: %w", err))
	}
}

// add begins to look after a process; the lock is held.
func (l *Lazy) add(p *lazyProcess) {
	l.procs = append(l.procs, p)
	go func() {
		err := p.events(func() func() { l.mu.Lock(); return l.mu.Unlock }, func(e event) error { return l.happened(p, e) })
		if err != nil {
			l.Lose(fmt.Errorf("look after restored memory: %w", err))
		}
	}()
}

// happened follows what happens to the memory of a process; the lock is held.
func (l *Lazy) happened(p *lazyProcess, e event) error {
	if l.closed {
		if e.kind == eventFork {
			return unix.Close(e.child)
		}
		return nil
	}
	switch e.kind {
	case eventFault:
		l.touched(p, e.address/PageSize)
	case eventFork:
		if err := l.Guard.Hold(e.child); err != nil {
			return err // its descriptor stays open, so that the child waits
		}
		u, err := newUffd(e.child)
		if err != nil {
			return err
		}
		l.sweep()
		l.add(&lazyProcess{u, p.space, slices.Clone(p.lacks)})
	case eventRemap:
		p.lacks.move(e.from/PageSize, e.to/PageSize, e.length/PageSize)
	case eventRemove, eventUnmap:
		p.lacks.take(e.start/PageSize, e.end/PageSize)
	}
	return nil
}

// sweep forgets processes that have ended: a container may fork very often. The lock is held.
func (l *Lazy) sweep() {
	if len(l.procs) < l.limit {
		return
	}
	l.procs = slices.DeleteFunc(l.procs, func(p *lazyProcess) bool {
		if !ended(p.fd) {
			return false
		}
		go p.file.Close() // waits for who reads its events, and that one for the lock
		return true
	})
	l.limit = 2*len(l.procs) + 64
}

// touched asks for a page that somebody waits for; the lock is held. One that the process never had is made of zeros.
func (l *Lazy) touched(p *lazyProcess, page uint64) {
	if g, lacks := p.lacks.find(page); lacks {
		w := Want{p.space, g.origin, uint32(min(g.n, readAhead))}
		if !l.asked[w] {
			l.asked[w] = true
			l.urgent = append(l.urgent, w)
			l.change.Broadcast()
		}
		return
	}
	switch err := p.zero(page * PageSize); {
	case errors.Is(err, unix.EEXIST):
		_ = p.wake(page * PageSize)
	case errors.Is(err, errBusy): // the event that says what has changed comes next, and then the page may be another one
		time.AfterFunc(busyTime, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if !l.closed {
				l.touched(p, page)
			}
		})
	}
}

// asking sends questions, the urgent ones first.
func (l *Lazy) asking() {
	for {
		l.mu.Lock()
		w, ok := l.next()
		for !ok && !l.over() {
			l.change.Wait()
			w, ok = l.next()
		}
		if l.over() {
			l.mu.Unlock()
			return
		}
		l.open++
		l.mu.Unlock()
		if err := l.Ask(w.Encode()); err != nil {
			l.Lose(err)
		}
	}
}

// over says that nothing more is to be done; the lock is held.
func (l *Lazy) over() bool { return l.closed || l.failed != nil }

// next takes the next question; the lock is held.
func (l *Lazy) next() (w Want, ok bool) {
	if len(l.urgent) > 0 {
		w, l.urgent = l.urgent[0], l.urgent[1:]
		return w, true
	}
	for l.resting && len(l.rest) > 0 && l.open < maxOpen {
		w, l.rest = l.rest[0], l.rest[1:]
		if l.lacked(w) {
			return w, true
		}
		if len(l.rest) == 0 {
			l.change.Broadcast()
		}
	}
	return Want{}, false
}

// lacked says whether some process lacks pages of a question; the lock is held.
func (l *Lazy) lacked(w Want) bool {
	return slices.ContainsFunc(l.procs, func(p *lazyProcess) bool {
		return p.space == w.Space && len(p.lacks.of(w.Page, w.Page+uint64(w.N))) > 0
	})
}

// Err returns why it cannot go on, nil if it can.
func (l *Lazy) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// Lose says that nothing more will come. Nobody who waits for memory is woken.
func (l *Lazy) Lose(err error) {
	l.mu.Lock()
	first := !l.over()
	if first {
		l.failed = err
		l.change.Broadcast()
	}
	l.mu.Unlock()
	if first {
		l.Fail(err)
	}
}

// Rest asks for everything else, and returns nil when all of the memory is there. From then on nothing can be lost.
func (l *Lazy) Rest(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { l.Lose(ctx.Err()) })
	defer stop()
	l.mu.Lock()
	l.resting = true
	l.change.Broadcast()
	for !l.over() && len(l.rest)+len(l.urgent)+l.open > 0 {
		l.change.Wait()
	}
	err := l.failed
	for _, p := range l.procs {
		if err == nil && len(p.lacks) > 0 {
			err = fmt.Errorf("%w: %d runs of pages of space %#x did not come", ErrProtocol, len(p.lacks), uint64(p.space))
		}
	}
	l.mu.Unlock()
	if err == nil {
		err = filled(l.images)
	}
	if err != nil {
		l.Lose(err)
		return fmt.Errorf("bring the rest of the memory: %w", err)
	}
	return l.Close()
}

// Close lets go of the processes: they have ended, or have all of their memory.
func (l *Lazy) Close() error {
	l.mu.Lock()
	was := l.closed
	l.closed = true
	l.change.Broadcast()
	l.mu.Unlock()
	if was {
		return nil
	}
	err := errors.Join(l.listen.close(), l.Guard.Release(), l.images.Close())
	for _, p := range l.procs { // none is added any more; who reads its events may still wait for the lock
		err = errors.Join(err, p.file.Close())
	}
	return err
}
