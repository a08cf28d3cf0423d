package migrate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate/memory"
	"github.com/vzcluster/vzcluster/runtime"
)

const (
	ctid      = 101
	operation = "op1"
)

// world is two hosts, one container and a ledger, with a witness that sees every instant at which a copy can run.
type world struct {
	t  *testing.T
	mu sync.Mutex

	copies  map[string]*copyOf // by host
	state   *cluster.State     // the production state is the ledger
	witness []string           // what must never be

	loseReply map[string]int // "commit" or "abort" -> how many answers get lost on the way back
	blockers  []runtime.Process
	thawDump  bool // CRIU thaws the container in the middle of the dump
	dumpFails bool
	badOnce   bool   // the next restore fails
	broken    bool   // a killed CRIU has left the source infected
	dies      bool   // the source's init ends when it is thawed
	frames    frames // what is sent to the container while it is nowhere
	replayed  frames
}

// copyOf is one host's copy of the container.
type copyOf struct {
	running, frozen, open bool
	memory                string // what only a live move keeps
	layer                 string // folder
}

// firstState is two hosts, and a container on a.
func firstState() *cluster.State {
	room := cluster.Resources{MilliCPU: 8000, RAM: 8 << 30, Disk: 8 << 30}
	host := func(name string) cluster.Host {
		return cluster.Host{Name: name, Address: name + ":7443", Gossip: name + ":7946", State: cluster.HostActive, Capacity: room, Serial: "5e" + name}
	}
	digest := "sha256:" + fmt.Sprintf("%064d", 1)
	s := cluster.NewState()
	for _, c := range []cluster.Command{
		cluster.InitCluster{
			Settings: cluster.Settings{ID: "test", Pool: "10.0.0.0/24", PoolFirst: "10.0.0.100", PoolLast: "10.0.0.200", CACert: []byte("x"), CAKey: []byte("x"), GossipKey: make([]byte, 32)},
			Host:     host("a"),
		},
		cluster.AddToken{Token: cluster.Token{ID: "t", Hash: fmt.Sprintf("%064d", 0), Created: time.Unix(1, 0), Expires: time.Unix(1e9, 0)}},
		cluster.AddHost{Host: host("b"), TokenID: "t", At: time.Unix(2, 0)},
		cluster.PutTemplate{Template: cluster.Template{Name: "tiny", Digest: digest, Size: 1, Init: []string{"/sbin/init"}, Hosts: []string{"a"}}},
		cluster.CreateContainer{Container: cluster.Container{
			ID: ctid, Name: "ct", Host: "a", Desired: cluster.WantRunning, Template: "tiny", Digest: digest,
			Limits: cluster.Limits{RAM: 64 << 20, MilliCPU: 100, Disk: 1 << 20},
		}},
	} {
		next, _, err := s.Apply(c)
		if err != nil {
			panic(err)
		}
		s = next
	}
	return s
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, copies: map[string]*copyOf{}, state: firstState(), loseReply: map[string]int{}}
	w.copies["a"] = &copyOf{running: true, open: true, memory: "counter=42", layer: newLayer(t)}
	if err := os.WriteFile(filepath.Join(w.copies["a"].layer, "file"), []byte("on disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// must applies a command that cannot be refused.
func (w *world) must(c cluster.Command) {
	w.t.Helper()
	if _, err := w.apply(c); err != nil {
		w.t.Fatalf("%T: %v", c, err)
	}
}

func (w *world) apply(c cluster.Command) (any, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next, result, err := w.state.Apply(c)
	w.state = next
	return result, err
}

func (w *world) op() *cluster.Operation {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.Operation(operation)
}

func (w *world) container() *cluster.Container {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.Container(ctid)
}

// look writes down what must never be: two copies that can run, or a copy that is heard and is not the owner's.
// The caller holds the lock.
func (w *world) look() {
	able, owner := 0, w.state.Container(ctid).Host
	for host, c := range w.copies {
		if c.running && !c.frozen {
			able++
		}
		if c.running && c.open && !c.frozen && host != owner {
			w.witness = append(w.witness, "a copy on "+host+" is heard, the owner is "+owner)
		}
	}
	if able > 1 {
		w.witness = append(w.witness, "two copies run")
	}
}

// agent is one life of a host's agent. What a dead one calls never returns.
type agent struct {
	w    *world
	host string
	dead chan struct{}
}

func (w *world) newAgent(host string) *agent {
	return &agent{w: w, host: host, dead: make(chan struct{})}
}

func (a *agent) kill() { close(a.dead) }

// enter returns with the world locked, or never, when the agent is dead.
func (a *agent) enter() func() {
	a.w.mu.Lock()
	select {
	case <-a.dead:
		a.w.mu.Unlock()
		select {} // its process is gone
	default:
	}
	return func() {
		a.w.look()
		a.w.mu.Unlock()
	}
}

func (a *agent) here() *copyOf {
	c := a.w.copies[a.host]
	if c == nil {
		c = &copyOf{layer: newLayer(a.w.t)}
		a.w.copies[a.host] = c
	}
	return c
}

func (a *agent) Status(int) (runtime.Status, error) {
	defer a.enter()()
	c := a.here()
	return runtime.Status{Running: c.running, Frozen: c.running && c.frozen, PID: 1}, nil
}

func (a *agent) Scan(int) (runtime.Scan, error) {
	defer a.enter()()
	return runtime.Scan{Init: 1, Processes: a.w.blockers}, nil
}

func (a *agent) Outsiders(int) (out []runtime.Process, err error) {
	defer a.enter()()
	for _, p := range a.w.blockers {
		if p.Foreign {
			out = append(out, p)
		}
	}
	return out, nil
}

func (a *agent) Broken(int) (bool, error) {
	defer a.enter()()
	return a.w.broken, nil
}

// Wait watches for no time at all: in this world nothing ends by itself but what is dead already.
func (a *agent) Wait(context.Context, int) error {
	defer a.enter()()
	if a.w.dies {
		a.here().running = false
	}
	if !a.here().running {
		return nil
	}
	return context.DeadlineExceeded
}

func (a *agent) Freeze(context.Context, int) error {
	defer a.enter()()
	a.here().frozen, a.here().open = true, false
	return nil
}

func (a *agent) AssertFrozen(context.Context, int) (bool, error) {
	defer a.enter()()
	thawed := !a.here().frozen
	a.here().frozen = true
	return thawed, nil
}

func (a *agent) Thaw(context.Context, runtime.Spec) error {
	defer a.enter()()
	a.here().frozen, a.here().open = false, true
	return nil
}

func (a *agent) PIDs(int) ([]int, error) { defer a.enter()(); return []int{1}, nil }

// page is the container's memory.
func (a *agent) page() []byte {
	defer a.enter()()
	return append([]byte(a.here().memory), make([]byte, memory.PageSize-len(a.here().memory))...)
}

// Round is one over a memory of one page.
func (a *agent) Round(_ context.Context, _ []int, visit memory.Visit) error {
	return visit(memory.ProcessSpace(1), 16, a.page())
}

// Serve takes what sendPages says.
func (a *agent) Serve(criu io.ReadWriter, send *memory.Sender) error {
	return memory.Serve(criu, send, nil)
}

func (a *agent) Tracks() bool { return false }

// sendPages speaks for CRIU.
func (a *agent) sendPages(take func(io.ReadWriter) error) error {
	ours, theirs := net.Pipe()
	taken := make(chan error, 1)
	go func() { taken <- take(theirs) }()
	say := func(cmd uint32, pages uint64) {
		b := binary.NativeEndian.AppendUint64(nil, uint64(cmd))
		b = binary.NativeEndian.AppendUint64(b, pages)
		b = binary.NativeEndian.AppendUint64(b, 16*memory.PageSize)
		_, _ = ours.Write(binary.NativeEndian.AppendUint64(b, uint64(memory.ProcessSpace(1))))
	}
	const open, add, present, end = 4, 6, 4 << 16, 0x1024
	say(open, 0)
	_, _ = io.ReadFull(ours, make([]byte, 1))
	say(add|present, 1)
	_, _ = ours.Write(a.page())
	say(end, 0)
	_, _ = io.ReadFull(ours, make([]byte, 4))
	return <-taken
}

func (a *agent) Checkpoint(_ runtime.Spec, _, images string, pages *runtime.Pages, ready func()) error {
	if pages != nil && !a.w.dumpFails {
		if err := a.sendPages(pages.Serve); err != nil {
			return err
		}
	}
	defer a.enter()()
	c := a.here()
	if !c.running || !c.frozen {
		return errors.New("not a frozen container")
	}
	if a.w.dumpFails {
		if err := os.WriteFile(filepath.Join(images, dumpLog), []byte("Error (criu/fsnotify.c:1): an inotify watch"), 0o600); err != nil {
			return err
		}
		return errors.New("criu: an inotify watch cannot be dumped")
	}
	if err := os.WriteFile(filepath.Join(images, "inventory.img"), nil, 0o600); err != nil {
		return err
	}
	if a.w.thawDump {
		c.frozen = false
	}
	ready()
	return nil
}

func (a *agent) Settle(context.Context, string) error { defer a.enter()(); return nil }

func (a *agent) Root(context.Context, runtime.Spec) (string, error) {
	defer a.enter()()
	return "/", nil
}

func (a *agent) Layer(int) (string, error) {
	defer a.enter()()
	return a.here().layer, nil
}

// Saved is beside the layer.
func (a *agent) Saved(int) string {
	defer a.enter()()
	return filepath.Join(filepath.Dir(a.here().layer), "saved")
}

func (a *agent) MakeSaved(id int) (string, error) {
	dir := a.Saved(id)
	return dir, os.MkdirAll(dir, 0o700)
}

func (a *agent) Start(context.Context, runtime.Spec) error {
	defer a.enter()()
	*a.here() = copyOf{running: true, open: true, memory: "fresh", layer: a.here().layer}
	return nil
}

func (a *agent) Stop(ctx context.Context, id int, _ bool, _ time.Duration) error {
	return a.Kill(ctx, id)
}

func (a *agent) Kill(context.Context, int) error {
	defer a.enter()()
	*a.here() = copyOf{layer: a.here().layer}
	return nil
}

func (a *agent) Destroy(context.Context, int) error {
	defer a.enter()()
	delete(a.w.copies, a.host)
	return nil
}

func (a *agent) LimitDisk(runtime.Spec) error { return nil }

func (a *agent) PrepareCheckpoint(string) error { defer a.enter()(); return nil }

func (a *agent) PrepareRestore(context.Context, runtime.Spec, string) error {
	defer a.enter()()
	return nil
}

func (a *agent) Restore(_ context.Context, _ runtime.Spec, images string) error {
	defer a.enter()()
	if a.w.badOnce {
		a.w.badOnce = false
		return errors.New("criu: Can't restore an inotify watch")
	}
	b, err := os.ReadFile(filepath.Join(images, "pages-1.img"))
	if err != nil {
		return err
	}
	b = bytes.TrimRight(b, "\x00")
	if _, err := os.Stat(filepath.Join(images, "unfilled")); err == nil {
		b = nil
	}
	*a.here() = copyOf{running: true, frozen: true, memory: string(b), layer: a.here().layer}
	return nil
}

func (a *agent) CheckpointLazily(s runtime.Spec, root, images string, ready func()) error {
	return a.Checkpoint(s, root, images, nil, ready)
}

func (a *agent) RestoreLazily(ctx context.Context, s runtime.Spec, images string) error {
	return a.Restore(ctx, s, images)
}

func (a *agent) Split(images string) error {
	defer a.enter()()
	return os.WriteFile(filepath.Join(images, "unfilled"), nil, 0o600)
}

func (a *agent) Join(images string) error {
	defer a.enter()()
	return os.RemoveAll(filepath.Join(images, "unfilled"))
}

func (a *agent) Fill(_ context.Context, images string, _ []int) error {
	defer a.enter()()
	b, err := os.ReadFile(filepath.Join(images, "pages-1.img"))
	a.here().memory = string(bytes.TrimRight(b, "\x00"))
	return errors.Join(err, os.Remove(filepath.Join(images, "unfilled")))
}

func (a *agent) Whole(images string) (bool, error) {
	defer a.enter()()
	_, err := os.Stat(filepath.Join(images, "unfilled"))
	return err != nil, nil
}

func (a *agent) Resume(_ context.Context, _ runtime.Spec, opened func()) error {
	defer a.enter()()
	if !a.here().running {
		return errors.New("nothing is held")
	}
	a.here().frozen, a.here().open = false, true
	opened()
	return nil
}

// ask applies a command as the agent; its answer may get lost.
func (a *agent) ask(what string, c cluster.Command) error {
	defer a.enter()()
	next, _, err := a.w.state.Apply(c)
	a.w.state = next
	if a.w.loseReply[what] > 0 {
		a.w.loseReply[what]--
		return errors.New("the leader was lost")
	}
	return err
}

func (a *agent) Commit(_ context.Context, op string) (Fate, error) {
	err := a.ask("commit", cluster.CommitMigration{Operation: op})
	if errors.Is(err, cluster.ErrStale) {
		return Aborted, nil
	}
	return Committed, err
}

func (a *agent) Abort(_ context.Context, op, reason string) (Fate, error) {
	err := a.ask("abort", cluster.AbortMigration{Operation: op, Reason: reason, At: time.Unix(9, 0)})
	if errors.Is(err, cluster.ErrStale) {
		return Committed, nil
	}
	return Aborted, err
}

func (a *agent) Read(_ context.Context, op string) (*cluster.Operation, *cluster.Container, error) {
	defer a.enter()()
	if a.w.state.Operation(op) == nil {
		return nil, nil, cluster.ErrNotFound
	}
	return a.w.state.Operation(op), a.w.state.Container(ctid), nil
}

func (a *agent) Restarted(_ context.Context, _ string, running bool) error {
	report := cluster.ReportContainer{ID: ctid, Host: a.host, Generation: a.w.container().Generation, State: cluster.Starting, Restarted: true, Operation: operation}
	if running {
		report.State = cluster.Running
	}
	return a.ask("report", report)
}

func (a *agent) Finish(_ context.Context, op string, r cluster.MoveResult) error {
	return a.ask("finish", cluster.FinishMigration{Operation: op, Result: r, At: time.Unix(9, 0)})
}

// newLayer makes a folder in a folder of its own, as a private layer is.
func newLayer(t *testing.T) string {
	layer := filepath.Join(t.TempDir(), "upper")
	if err := os.Mkdir(layer, 0o755); err != nil {
		panic(err)
	}
	return layer
}
