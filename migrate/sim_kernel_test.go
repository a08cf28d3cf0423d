package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate/transfer"
	"github.com/vzcluster/vzcluster/runtime"
)

// simHost is a host: what outlives its agent, and what outlives a loss of power.
type simHost struct {
	s      *sim
	index  int
	name   string
	agent  *simAgent // nil: dead
	life   int       // of agents
	back   time.Time // when the next agent starts
	boots  int
	bootID string

	// The kernel.
	ct      *simProc
	adopted bool // runc knows that it runs
	frozen  bool // the cgroup, with or without processes
	open    bool // the port
	criu    []*simCRIU
	ended   chan struct{} // closed when init or a criu ends
	acted   uint64        // the generation that reconciliation has acted on; kept on a tmpfs

	// The disk.
	disk  *simDisk
	layer *simLayer

	replica  int // index into the log of states
	fails    string
	killNext bool
}

// simProc is the container's processes with their memory: a counter.
type simProc struct {
	lineage, n int
	restoring  bool // CRIU has not let it go
	holes      bool // a part of its memory is not there yet
	lacks      bool // the same, and it may run: it waits for what it touches (post-copy)
	zeros      bool // nobody holds what it lacks any more
	infected   bool // a killed CRIU has left its code, which can be seen
	doomed     bool // the same, unseen: it ends when it is thawed
}

// simLayer is a private layer: what was always there, and a file with the counter.
type simLayer struct {
	base, baseDurable bool
	n                 int
	durable           bool
	durableN          int
}

func newSimHost(s *sim, index int, name string) *simHost {
	h := &simHost{s: s, index: index, name: name, ended: make(chan struct{}), acted: 1, bootID: name + "0"}
	h.disk = newSimDisk(h)
	return h
}

func (h *simHost) describe() string {
	out := fmt.Sprintf("frozen=%v open=%v adopted=%v", h.frozen, h.open, h.adopted)
	if h.ct != nil {
		out += fmt.Sprintf(" processes %+v", *h.ct)
	}
	if h.layer != nil {
		out += fmt.Sprintf(" layer %+v", *h.layer)
	}
	return out
}

// able says whether a copy can run.
func (h *simHost) able() bool { return h.ct != nil && !h.frozen && !h.ct.restoring }

func (h *simHost) somethingEnded() {
	old := h.ended
	h.ended = make(chan struct{})
	close(old)
}

// end ends the container's processes.
func (h *simHost) end() {
	h.ct, h.adopted = nil, false
	h.somethingEnded()
}

// release frees all of a container but its layer.
func (h *simHost) release() {
	h.end()
	h.frozen, h.open = false, false
}

func (h *simHost) powerLoss() {
	h.die()
	s := h.s
	if l := h.layer; l != nil {
		if op := s.operation(); op != nil && op.To == h.name && s.container().Operation != "" && cluster.Alive(s.mode) && l.durableN < s.synced {
			s.hole = true
		}
		l.base, l.n = l.baseDurable, l.durableN
		if !l.baseDurable {
			h.layer = nil
		}
	}
	s.excused++
	h.criu = nil
	h.release()
	h.boots++
	h.bootID = fmt.Sprint(h.name, h.boots)
	h.acted = 0
	h.disk.powerLoss()
	for _, c := range s.conns {
		for _, e := range c.ends {
			if e.h == h && e.gone.IsZero() {
				e.gone = time.Now()
			}
		}
	}
}

// events lists what can happen on the host by itself.
func (h *simHost) events() []*event {
	var out []*event
	if h.agent == nil && time.Now().After(h.back) {
		out = append(out, &event{key: "the agent starts on " + h.name, run: h.start})
	}
	for _, c := range h.criu {
		if c.waits() {
			continue
		}
		out = append(out, &event{key: fmt.Sprintf("criu %s on %s: step %d", c.what, h.name, c.step), run: c.next})
	}
	if h.agent != nil && h.replica < len(h.s.log)-1 && h.s.link(h.name, "L") {
		out = append(out, &event{key: fmt.Sprintf("%s learns state %d", h.name, h.replica+1), run: func() {
			h.replica++
			old := h.agent.changed
			h.agent.changed = make(chan struct{})
			close(old)
		}})
	}
	return out
}

// kernel is what an agent calls; it implements SourceHost, TargetHost and Copier.
type kernel struct {
	a   *simAgent
	who string
}

func (k kernel) do(what string, f func(h *simHost) error) error {
	return k.a.do(k.who+what, func() error { return f(k.a.h) })
}

func (k kernel) Status(int) (st runtime.Status, err error) {
	err = k.do("status", func(h *simHost) error {
		if h.ct != nil && h.adopted {
			st = runtime.Status{Running: true, Frozen: h.frozen, PID: 1}
		}
		return nil
	})
	return st, err
}

func (k kernel) Scan(int) (runtime.Scan, error) { return runtime.Scan{Init: 1}, nil }

func (k kernel) Outsiders(int) ([]runtime.Process, error) { return nil, nil }

func (k kernel) PIDs(int) ([]int, error) { return []int{1}, nil }

func (k kernel) PrepareCheckpoint(string) error { return nil }

func (k kernel) Broken(int) (broken bool, err error) {
	err = k.do("broken", func(h *simHost) error { broken = h.ct != nil && h.ct.infected; return nil })
	return broken, err
}

func (k kernel) Wait(ctx context.Context, _ int) error {
	h := k.a.h
	for {
		h.s.mu.Lock()
		ct, ended := h.ct, h.ended
		h.s.mu.Unlock()
		if ct == nil {
			return nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (k kernel) Freeze(context.Context, int) error {
	err := k.do("freeze", func(h *simHost) error {
		if h.ct == nil {
			return runtime.ErrNotRunning
		}
		h.frozen = true
		return nil
	})
	if err != nil {
		return err
	}
	return k.do("close the port", func(h *simHost) error { h.open = false; return nil })
}

func (k kernel) AssertFrozen(context.Context, int) (thawed bool, err error) {
	err = k.do("assert frozen", func(h *simHost) error { thawed, h.frozen = !h.frozen, true; return nil })
	return thawed, err
}

func (k kernel) Thaw(context.Context, runtime.Spec) error {
	if err := k.do("open the port", func(h *simHost) error { h.open = true; return nil }); err != nil {
		return err
	}
	return k.do("thaw", (*simHost).thaw)
}

func (h *simHost) thaw() error {
	h.frozen = false
	if h.ct != nil && h.ct.doomed {
		h.end()
	}
	return nil
}

func (k kernel) Root(context.Context, runtime.Spec) (string, error) { return "/root", nil }

func (k kernel) Layer(int) (string, error) {
	return simLayerPath, k.do("layer", func(h *simHost) error {
		if h.layer == nil {
			h.layer = &simLayer{}
		}
		return nil
	})
}

func (k kernel) Start(context.Context, runtime.Spec) error {
	running := false
	err := k.do("start: clean", func(h *simHost) error {
		if running = h.ct != nil && h.adopted; !running {
			h.release()
		}
		return nil
	})
	if err != nil || running {
		return err
	}
	return k.do("start", func(h *simHost) error {
		if h.layer == nil {
			h.layer = &simLayer{}
		}
		s := h.s
		if !h.layer.base || h.layer.n < s.synced && !s.hole {
			s.violate("a start on %s from the layer %+v, %d was acknowledged as on disk", h.name, *h.layer, s.synced)
		}
		s.lineage++
		h.ct, h.adopted, h.open, h.frozen = &simProc{lineage: s.lineage, n: h.layer.n}, true, true, false
		return nil
	})
}

func (k kernel) Stop(context.Context, int, bool, time.Duration) error {
	return k.do("stop", func(h *simHost) error {
		if h.ct != nil {
			h.s.excused++
			h.layer.durable, h.layer.durableN = h.layer.baseDurable || h.layer.durable, h.layer.n
		}
		h.release()
		return nil
	})
}

func (k kernel) Kill(context.Context, int) error {
	return k.do("kill", func(h *simHost) error { h.release(); return nil })
}

func (k kernel) Destroy(ctx context.Context, id int) error {
	if err := k.Kill(ctx, id); err != nil {
		return err
	}
	return k.do("remove the layer", func(h *simHost) error { h.layer = nil; return nil })
}

func (k kernel) LimitDisk(runtime.Spec) error { return nil }

func (k kernel) PrepareRestore(context.Context, runtime.Spec, string) error {
	return k.do("prepare restore", func(h *simHost) error {
		if h.ct != nil {
			return errors.New("something runs in the cgroup")
		}
		h.frozen = false
		return nil
	})
}

func (k kernel) Resume(_ context.Context, _ runtime.Spec, opened func()) error {
	err := k.do("open the port", func(h *simHost) error {
		if h.ct == nil {
			return errors.New("there is no network namespace")
		}
		h.open = true
		return nil
	})
	if err != nil {
		return err
	}
	opened()
	return k.do("thaw", (*simHost).thaw)
}

func (k kernel) Send(_ context.Context, w io.Writer, _ string, _ *transfer.Manifest, _ bool) (*transfer.Manifest, transfer.Stats, error) {
	var b []byte
	err := k.do("read the layer", func(h *simHost) (err error) {
		if h.layer == nil {
			return errors.New("there is no layer")
		}
		b, err = json.Marshal(h.layer.n)
		return err
	})
	if err == nil {
		_, err = w.Write(b)
	}
	return nil, transfer.Stats{Bytes: int64(len(b))}, err
}

func (k kernel) Receive(_ context.Context, r io.Reader, _ string, _ *transfer.Manifest) (*transfer.Manifest, transfer.Stats, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, transfer.Stats{}, err
	}
	return nil, transfer.Stats{Bytes: int64(len(b))}, k.do("write the layer", func(h *simHost) error {
		if h.layer == nil {
			return errors.New("there is no layer")
		}
		h.layer.base = true
		return json.Unmarshal(b, &h.layer.n)
	})
}
