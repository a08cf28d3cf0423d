package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"

	"github.com/vzcluster/vzcluster/runtime"
)

// simCRIU is a criu at work. It outlives the agent that started it until it next asks that agent something.
type simCRIU struct {
	h        *simHost
	caller   *simAgent
	what     string // dump or restore
	images   string
	step     int
	ask      chan struct{} // "the images are complete", "it is restored"
	answer   chan error
	result   chan error
	answered bool // when the caller died
	lazy     bool // what it restores lacks memory
}

func (k kernel) criu(what, images string) *simCRIU {
	c := &simCRIU{h: k.a.h, caller: k.a, what: what, images: images, ask: make(chan struct{}, 1), answer: make(chan error, 1), result: make(chan error, 1)}
	if err := k.do("start criu "+what, func(h *simHost) error { h.criu = append(h.criu, c); return nil }); err != nil {
		c.result <- err
	}
	return c
}

// end takes the process away.
func (c *simCRIU) end(err error) {
	for i, other := range c.h.criu {
		if other == c {
			c.h.criu = append(c.h.criu[:i:i], c.h.criu[i+1:]...)
		}
	}
	c.result <- err
	c.h.somethingEnded()
}

// undo is what a criu does that fails by itself or has lost its caller.
func (c *simCRIU) undo(err error) {
	if c.what == "restore" {
		c.h.release()
	}
	c.end(err)
}

// kill ends it with a signal, in the middle of what it does.
func (c *simCRIU) kill() {
	h, s := c.h, c.h.s
	err := errors.New("criu was killed")
	switch {
	case c.what == "restore":
		h.release()
	case c.step > 0 && h.ct != nil:
		if s.chance(40) {
			s.note("it thaws the container")
			_ = h.thaw()
		}
		if h.ct != nil && s.chance(25) {
			s.note("it leaves the container broken")
			switch s.rng.IntN(3) {
			case 0:
				h.ct.infected = true
			case 1:
				h.ct.doomed = true
			default:
				err = errors.Join(runtime.ErrBroken, err)
				h.ct.infected = true
			}
		}
	}
	c.end(err)
}

// next does the next step.
func (c *simCRIU) next() {
	h := c.h
	c.step++
	if c.step == 2 && h.killNext {
		h.killNext = false
		c.kill()
		return
	}
	if c.step == 1 && h.fails == c.what {
		h.fails = ""
		c.undo(errors.New("criu: an inotify watch is in the way"))
		return
	}
	if c.asking() {
		return
	}
	var err error
	if c.what == "dump" {
		err = c.dump()
	} else {
		err = c.restore()
	}
	switch {
	case err != nil:
		c.undo(err)
	case c.step == 5:
		if c.what == "dump" && h.ct != nil && h.s.chance(5) {
			h.s.note("it thaws the container, though it ends well")
			_ = h.thaw()
		}
		c.end(nil)
	}
}

// asking handles steps 3 and 4, the question to the caller; it says whether the step was one of them.
func (c *simCRIU) asking() bool {
	switch {
	case c.step != 3 && c.step != 4:
		return false
	case c.caller.dead && !c.answered:
		c.undo(errDead)
	case c.step == 3:
		c.ask <- struct{}{}
	default:
		if err := <-c.answer; err != nil {
			c.undo(err)
		}
	}
	return true
}

// waits says whether it can do nothing before its caller has answered.
func (c *simCRIU) waits() bool { return c.step == 3 && len(c.answer) == 0 && !c.caller.dead }

func (c *simCRIU) dump() error {
	h := c.h
	if h.ct == nil || !h.frozen {
		return errors.New("criu: not a frozen container")
	}
	if c.step != 2 {
		return nil
	}
	b, err := json.Marshal([]int{h.ct.lineage, h.ct.n})
	if err != nil {
		return err
	}
	if h.disk.names[c.images] == nil {
		return errors.New("criu: there is no folder for the images")
	}
	h.disk.change(func(n map[string]*inode) { n[filepath.Join(c.images, "pages-1.img")] = &inode{data: b} })
	return nil
}

func (c *simCRIU) restore() error {
	h := c.h
	if c.step == 5 && h.ct == nil {
		return errors.New("criu: the processes were killed")
	}
	if c.step == 5 {
		h.ct.restoring = false
	}
	if c.step != 2 {
		return nil
	}
	i := h.disk.names[filepath.Join(c.images, "pages-1.img")]
	if i == nil {
		return errors.New("criu: there are no images")
	}
	var memory []int
	if err := json.Unmarshal(i.data, &memory); err != nil || len(memory) != 2 {
		return errors.New("criu: the images are damaged")
	}
	if h.ct != nil {
		return errors.New("criu: a pid is taken")
	}
	h.ct = &simProc{lineage: memory[0], n: memory[1], restoring: true, lacks: c.lazy, holes: !c.lazy && h.disk.names[unfilled(c.images)] != nil}
	h.adopted, h.open = false, false
	return nil
}

// unfilled is a note that a restore from these images leaves holes in the memory.
func unfilled(images string) string { return filepath.Join(images, "unfilled") }

func (k kernel) Split(images string) error {
	return k.do("split the images", func(h *simHost) error {
		h.disk.change(func(n map[string]*inode) { n[unfilled(images)] = &inode{} })
		return nil
	})
}

func (k kernel) Join(images string) error {
	return k.do("join the images", func(h *simHost) error {
		h.disk.change(func(n map[string]*inode) { delete(n, unfilled(images)) })
		return nil
	})
}

func (k kernel) Fill(_ context.Context, images string, _ []int) error {
	err := k.do("fill the memory", func(h *simHost) error {
		if h.ct == nil {
			return errors.New("there are no processes")
		}
		h.ct.holes = false
		return nil
	})
	if err != nil {
		return err
	}
	return k.Join(images)
}

func (k kernel) Whole(images string) (whole bool, err error) {
	err = k.do("whole?", func(h *simHost) error { whole = h.disk.names[unfilled(images)] == nil; return nil })
	return whole, err
}

func (k kernel) Checkpoint(_ runtime.Spec, _, images string, _ *runtime.Pages, ready func()) error {
	return k.wait(k.criu("dump", images), func() error { ready(); return nil })
}

func (k kernel) CheckpointLazily(s runtime.Spec, root, images string, ready func()) error {
	return k.Checkpoint(s, root, images, nil, ready)
}

func (k kernel) Restore(_ context.Context, _ runtime.Spec, images string) error {
	return k.restore(images, false)
}

func (k kernel) RestoreLazily(_ context.Context, _ runtime.Spec, images string) error {
	return k.restore(images, true)
}

func (k kernel) restore(images string, lazy bool) error {
	c := k.criu("restore", images)
	c.lazy = lazy
	err := k.wait(c, func() error { return k.do("hold", func(h *simHost) error { h.frozen = true; return nil }) })
	if err != nil {
		return err
	}
	return k.do("adopt", func(h *simHost) error {
		if h.ct == nil {
			return errors.New("the copy has ended")
		}
		h.adopted = true
		return nil
	})
}

// wait answers a criu's question and returns its result.
func (k kernel) wait(c *simCRIU, answer func() error) error {
	for {
		select {
		case <-c.ask:
			c.answer <- answer()
		case err := <-c.result:
			return err
		case <-k.a.ctx.Done():
			return errDead
		}
	}
}

func (k kernel) Settle(ctx context.Context, images string) error {
	h := k.a.h
	for {
		h.s.mu.Lock()
		works, ended := false, h.ended
		for _, c := range h.criu {
			works = works || c.images == images
		}
		h.s.mu.Unlock()
		if !works {
			return k.do("settled "+images, func(*simHost) error { return nil })
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
