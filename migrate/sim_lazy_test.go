package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
)

// simAnswerer answers from the copy that stands still.
type simAnswerer struct{ kernel }

func (a simAnswerer) Answer([]byte) (answer []byte, err error) {
	err = a.do("answer a question", func(h *simHost) error {
		if h.ct == nil {
			return errors.New("the processes are gone")
		}
		answer, err = json.Marshal([]int{h.ct.lineage, h.ct.n})
		return err
	})
	return answer, err
}

// simLacking is the memory of a copy that lacks some.
type simLacking struct {
	kernel
	images string
	ask    func([]byte) error
	fail   func(error)

	mu       sync.Mutex
	answers  chan []byte
	failed   error
	lost     chan struct{}
	complete bool
}

// simQuestions is how often a copy asks until it has all.
const simQuestions = 3

func (k kernel) lazy(_ int, images string, _ PageStore, ask func([]byte) error, fail func(error)) (Lacking, error) {
	l := &simLacking{kernel: k, images: images, ask: ask, fail: fail, answers: make(chan []byte, simQuestions), lost: make(chan struct{})}
	return l, k.Split(images)
}

func (l *simLacking) Take(answer []byte) error {
	l.answers <- answer
	return nil
}

func (l *simLacking) Lose(err error) {
	l.mu.Lock()
	first := l.failed == nil && !l.complete
	if first {
		l.failed = err
		close(l.lost)
	}
	l.mu.Unlock()
	if first {
		l.fail(err)
	}
}

func (l *simLacking) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

func (l *simLacking) Rest(ctx context.Context) error {
	for range simQuestions {
		if err := l.ask(nil); err != nil {
			return err
		}
		var answer []byte
		select {
		case answer = <-l.answers:
		case <-l.lost:
			return l.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
		var memory []int
		if err := json.Unmarshal(answer, &memory); err != nil {
			return err
		}
		err := l.do("bring memory", func(h *simHost) error {
			if h.ct != nil && (memory[0] != h.ct.lineage || memory[1] > h.ct.n) {
				h.s.violate("the copy on %s has %d of lineage %d, and gets memory of %v", h.name, h.ct.n, h.ct.lineage, memory)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	err := l.do("all of the memory is there", func(h *simHost) error {
		if h.ct != nil {
			h.ct.lacks = false
		}
		h.disk.change(func(n map[string]*inode) { delete(n, unfilled(l.images)) })
		return nil
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		err = l.failed
	}
	l.complete = err == nil
	return err
}

func (l *simLacking) Close() error {
	return l.do("let go of the memory", func(h *simHost) error {
		if h.ct != nil && h.ct.lacks {
			h.ct.zeros = true
		}
		return nil
	})
}
