package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate/memory"
	"github.com/vzcluster/vzcluster/migrate/transfer"
	"github.com/vzcluster/vzcluster/runtime"
)

// run is one migration from a to b in a world.
type run struct {
	*world
	dirs       map[string]string // by host; they outlive agents
	agents     map[string]*agent
	conn       net.Conn // the source's end
	sourceDone chan error
	targetDone chan error
	hook       Hook
	board      Board               // of the source
	last       *cluster.MoveResult // what the container's last move measured
	hungUp     chan struct{}       // closed with the source's end of the connection
}

// hangUp tells of the end of a connection.
type hangUp struct {
	net.Conn
	once sync.Once
	tell chan struct{}
}

func (h *hangUp) Close() error {
	h.once.Do(func() { close(h.tell) })
	return h.Conn.Close()
}

func newRun(t *testing.T, mode string) *run { return newRunWithin(t, mode, 0) }

// newRunWithin is a migration with a longest downtime.
func newRunWithin(t *testing.T, mode string, most time.Duration) *run {
	r := &run{
		world: newWorld(t), dirs: map[string]string{"a": t.TempDir(), "b": t.TempDir()}, agents: map[string]*agent{},
		sourceDone: make(chan error, 1), targetDone: make(chan error, 1),
	}
	r.must(cluster.BeginMigration{Operation: cluster.Operation{
		ID: operation, Kind: cluster.OpMigrate, Container: ctid, Generation: r.container().Generation, From: "a", To: "b", Mode: mode, Started: time.Unix(5, 0), MaxDowntimeMS: most.Milliseconds(),
	}})
	r.agents["a"], r.agents["b"] = r.newAgent("a"), r.newAgent("b")
	return r
}

// connect returns the two ends of a connection over loopback.
func connect(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func spec() runtime.Spec { return runtime.Spec{ID: ctid} }

func (r *run) source(a *agent) *Source {
	return &Source{
		Host: a, Ledger: a, Copy: Layers{}, Memory: func() Memory { return a }, Disk: LocalDisk{}, Dir: r.dirs["a"], Hook: r.hook, Log: slog.New(slog.DiscardHandler),
		LastMove: func(int) *cluster.MoveResult { return r.last }, Board: &r.board,
		Dial: func(context.Context, string) (io.ReadWriteCloser, error) {
			if r.conn == nil {
				return nil, errors.New("connection refused")
			}
			return r.conn, nil
		},
	}
}

func openPages(images string, charge func(int64) error) (PageStore, error) {
	return memory.Open(images, charge)
}

func (r *run) target(a *agent) *Target {
	return &Target{
		Name: "b", Host: a, Ledger: a, Copy: Layers{}, Memory: openPages, Fill: a, Disk: LocalDisk{}, Dir: r.dirs["b"], Hook: r.hook, Log: slog.New(slog.DiscardHandler),
		Spec:     func(context.Context, *cluster.Container) (runtime.Spec, error) { return spec(), nil },
		Fetching: func(*cluster.Container) int64 { return 180 << 20 },
	}
}

// start lets both sides work.
func (r *run) start(ctx context.Context) {
	ours, theirs := connect(r.t)
	r.hungUp = make(chan struct{})
	r.conn = &hangUp{Conn: ours, tell: r.hungUp}
	go func() {
		r.targetDone <- r.target(r.agents["b"]).Serve(ctx, theirs, "a", func(string) error { return nil })
	}()
	go func() { r.sourceDone <- r.source(r.agents["a"]).Run(ctx, r.op(), spec()) }()
}

// settle brings the world to rest as the agents would: a side whose agent lives is waited for, one whose agent died is
// taken over by a new one, and what is left on a host that does not own the container is removed.
func (r *run) settle(ctx context.Context, died string) {
	r.t.Helper()
	ended := map[string]bool{died: true}
	wait := func(side string, done chan error) {
		if ended[side] {
			return
		}
		select {
		case <-done:
			ended[side] = true
		case <-ctx.Done():
			r.t.Fatalf("host %s did not end its part", side)
		}
	}
	if died == "a" {
		r.agents["a"] = r.newAgent("a")
		if err := r.source(r.agents["a"]).Recover(ctx, r.op(), spec()); errors.Is(err, ErrUnsettled) {
			r.t.Errorf("the new source says: %v", err)
		}
	}
	if died == "b" {
		wait("a", r.sourceDone)
		r.agents["b"] = r.newAgent("b")
		tg := r.target(r.agents["b"])
		if op := r.op(); op.Status == cluster.OpCommitted || tg.Left(operation) {
			if err := tg.Recover(ctx, op, spec()); err != nil {
				r.t.Errorf("the new target says: %v", err)
			}
		}
	}
	wait("a", r.sourceDone)
	wait("b", r.targetDone)
	if op := r.op(); op.Status == cluster.OpCommitted { // the target finishes what the source has left
		if err := r.target(r.agents["b"]).Recover(ctx, op, spec()); err != nil {
			r.t.Errorf("the target cannot finish: %v", err)
		}
	}
	for host, a := range map[string]*agent{"a": r.agents["a"], "b": r.agents["b"]} {
		if r.container().Host != host {
			_ = a.Destroy(ctx, ctid)
		}
	}
}

// verify checks what must be true after any fault.
func (r *run) verify() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.witness {
		r.t.Errorf("at some instant: %s", w)
	}
	op, ct := r.state.Operation(operation), r.state.Container(ctid)
	if !op.Final() || ct.Operation != "" {
		r.t.Errorf("the operation is %s and the lock is %q", op.Status, ct.Operation)
	}
	if len(r.copies) != 1 {
		r.t.Errorf("%d hosts have a copy", len(r.copies))
	}
	c := r.copies[ct.Host]
	if c == nil || !c.running || c.frozen || !c.open {
		r.t.Fatalf("the owner %s has %+v, not a running copy", ct.Host, c)
	}
	if c.memory != "counter=42" && ct.Restarted == 0 {
		r.t.Errorf("the memory was lost, and no restart was reported")
	}
	if c.memory == "counter=42" && ct.Restarted != 0 {
		r.t.Errorf("a restart was reported, but the memory is there")
	}
	if b, err := os.ReadFile(filepath.Join(c.layer, "file")); err != nil || string(b) != "on disk" {
		r.t.Errorf("the layer holds %q, %v", b, err)
	}
	if (ct.Host == "b") != (op.Status == cluster.OpDone) {
		r.t.Errorf("the owner is %s, but the operation is %s", ct.Host, op.Status)
	}
}

// through lets the migration run to its end, and checks what must be true then.
func (r *run) through(died string) {
	r.t.Helper()
	ctx := bounded(r.t)
	r.start(ctx)
	r.settle(ctx, died)
	r.verify()
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestMigration(t *testing.T) {
	for _, mode := range []string{cluster.ModeLive, cluster.ModeOffline} {
		t.Run(mode, func(t *testing.T) {
			ctx := bounded(t)
			r := newRun(t, mode)
			seen := map[Point]bool{}
			r.hook = func(p Point, _ string) error {
				r.mu.Lock()
				defer r.mu.Unlock()
				seen[p] = true
				return nil
			}
			kept, err := r.agents["a"].MakeSaved(ctid)
			if err == nil {
				err = os.WriteFile(filepath.Join(kept, "snapshot"), []byte("of yesterday"), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			r.start(ctx)
			r.settle(ctx, "")
			if b, err := os.ReadFile(filepath.Join(r.agents["b"].Saved(ctid), "snapshot")); string(b) != "of yesterday" {
				t.Errorf("what it keeps beside its layer came as %q, %v", b, err)
			}
			if mode == cluster.ModeOffline { // the memory is given up on purpose
				r.copies["b"].memory = "counter=42"
			}
			r.verify()
			if r.container().Host != "b" {
				t.Fatal("the container did not move")
			}
			onlyLive := []Point{PointTargetPrepare, PointTargetMemory, PointTargetPrepared, PointTargetImages, PointTargetFill, PointTargetResuming}
			for _, p := range Points() {
				if !seen[p] && (mode == cluster.ModeLive || !slices.Contains(onlyLive, p)) {
					t.Errorf("the point %s was not passed", p)
				}
			}
			if left, _ := filepath.Glob(r.dirs["b"] + "/*"); len(left) > 0 {
				t.Errorf("the target has left %v", left)
			}
		})
	}
}

// TestFailure fails every point in turn: the step returns an error, both agents live on.
func TestFailure(t *testing.T) {
	for _, p := range Points() {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			r := newRun(t, cluster.ModeLive)
			failed := false
			r.hook = func(at Point, _ string) error {
				r.mu.Lock()
				defer r.mu.Unlock()
				if at == p && !failed {
					failed = true
					return fmt.Errorf("fault at %s", p)
				}
				return nil
			}
			r.start(ctx)
			r.settle(ctx, "")
			if !failed {
				t.Fatal("the point was not passed")
			}
			r.verify()
			if r.container().Restarted != 0 {
				t.Error("a failed step cost the memory")
			}
		})
	}
}

// TestKill kills an agent at every point in turn: nothing that it would have done next happens, its connection breaks,
// and after a while another agent takes its place.
func TestKill(t *testing.T) {
	for _, p := range Points() {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			r := newRun(t, cluster.ModeLive)
			side := map[bool]string{true: "a", false: "b"}[strings.HasPrefix(string(p), "source.")]
			killed := make(chan struct{})
			r.hook = func(at Point, _ string) error {
				r.mu.Lock()
				if at != p || r.isKilled(killed) {
					r.mu.Unlock()
					return nil
				}
				r.agents[side].kill()
				close(killed)
				r.mu.Unlock()
				r.conn.Close()
				select {}
			}
			r.start(ctx)
			select {
			case <-killed:
			case <-ctx.Done():
				t.Fatal("the point was not passed")
			}
			r.settle(ctx, side)
			r.verify()
		})
	}
}

// TestKillAfterAbort kills the source when its abort is committed and the container still frozen.
func TestKillAfterAbort(t *testing.T) {
	ctx := bounded(t)
	r := newRun(t, cluster.ModeLive)
	killed := make(chan struct{})
	r.hook = func(at Point, _ string) error {
		switch {
		case at == PointSourceImages:
			return errors.New("fault")
		case at == PointSourceBack && !r.isKilled(killed):
			r.mu.Lock()
			r.agents["a"].kill()
			r.mu.Unlock()
			close(killed)
			r.conn.Close()
			select {}
		}
		return nil
	}
	r.start(ctx)
	<-killed
	r.settle(ctx, "a")
	r.verify()
}

// TestRecoverOfLongAgo: the mark of an old migration must not touch a container that has come back since.
func TestRecoverOfLongAgo(t *testing.T) {
	ctx := bounded(t)
	r := newRun(t, cluster.ModeLive)
	r.must(cluster.CommitMigration{Operation: operation})
	r.must(cluster.FinishMigration{Operation: operation, At: time.Unix(6, 0)})
	r.must(cluster.BeginMigration{Operation: cluster.Operation{ID: "op2", Kind: cluster.OpMigrate, Container: ctid, Generation: r.container().Generation, From: "b", To: "a", Started: time.Unix(7, 0)}})
	r.must(cluster.CommitMigration{Operation: "op2"})
	r.must(cluster.FinishMigration{Operation: "op2", At: time.Unix(8, 0)})
	if err := r.source(r.agents["a"]).Recover(ctx, r.op(), spec()); err != nil {
		t.Fatal(err)
	}
	if c := r.copies["a"]; !c.running || c.memory != "counter=42" {
		t.Errorf("the container that came back is %+v", c)
	}
}

// A committed copy that is held and has not all of its memory, because an agent died while it was brought in, must be
// restored once more before it goes on.
func TestRecoverOfAnUnfilledCopy(t *testing.T) {
	ctx := bounded(t)
	r := newRun(t, cluster.ModeLive)
	r.must(cluster.CommitMigration{Operation: operation})
	a := r.agents["b"]
	images := filepath.Join(r.dirs["b"], operation)
	content := append([]byte("counter=42"), make([]byte, 100)...)
	err := errors.Join(os.MkdirAll(images, 0o755), os.WriteFile(filepath.Join(images, "pages-1.img"), content, 0o600), a.Split(images),
		journal{Operation: operation, Container: ctid, Boot: LocalDisk{}.Boot(), Stage: stagePrepared}.save(LocalDisk{}, r.dirs["b"]))
	if err != nil {
		t.Fatal(err)
	}
	r.copies["b"] = &copyOf{layer: r.copies["a"].layer}
	if err := a.Restore(ctx, spec(), images); err != nil {
		t.Fatal(err)
	}
	if err := r.target(a).Recover(ctx, r.op(), spec()); err != nil {
		t.Fatal(err)
	}
	if c := r.copies["b"]; !c.running || c.frozen || c.memory != "counter=42" || r.container().Restarted != 0 {
		t.Errorf("the copy is %+v, restarts: %d", c, r.container().Restarted)
	}
}

func (r *run) isKilled(killed chan struct{}) bool {
	select {
	case <-killed:
		return true
	default:
		return false
	}
}

func TestLostReplies(t *testing.T) {
	for _, what := range []string{"commit", "abort"} {
		for _, p := range append([]Point{""}, PointSourceAllow, PointTargetHeld, PointTargetCommit, PointTargetCommitted) {
			t.Run(what+" "+string(p), func(t *testing.T) {
				t.Parallel()
				ctx := bounded(t)
				r := newRun(t, cluster.ModeLive)
				r.loseReply[what] = 2
				failed := false
				r.hook = func(at Point, _ string) error {
					r.mu.Lock()
					defer r.mu.Unlock()
					if at == p && !failed {
						failed = true
						return errors.New("fault")
					}
					return nil
				}
				r.start(ctx)
				r.settle(ctx, "")
				r.verify()
			})
		}
	}
}

func TestRefusedByPreflight(t *testing.T) {
	ctx := bounded(t)
	r := newRun(t, cluster.ModeLive)
	r.blockers = []runtime.Process{{PID: 1, Name: "init"}, {PID: 7, Name: "dockerd", Unit: "docker.service", Files: []runtime.File{{Target: "anon_inode:bpf-prog"}}}}
	r.start(ctx)
	r.settle(ctx, "b") // the target never hears of it
	r.verify()
	if r.container().Host != "a" || !strings.Contains(r.op().Error, "7 dockerd (docker.service)") {
		t.Errorf("the container is on %s, the reason is %q", r.container().Host, r.op().Error)
	}
}

func TestThawedByCRIU(t *testing.T) {
	r := newRun(t, cluster.ModeLive)
	r.thawDump = true
	r.through("")
	if r.container().Host != "a" {
		t.Error("a container that had run after its checkpoint was moved")
	}
}

func TestFailedDumpGoesBack(t *testing.T) {
	r := newRun(t, cluster.ModeLive)
	r.dumpFails = true
	r.through("")
	if r.container().Host != "a" || !strings.Contains(r.op().Error, "inotify") {
		t.Errorf("the container is on %s, the reason is %q", r.container().Host, r.op().Error)
	}
}

// TestBrokenSource has CRIU killed in the middle of a dump: what cannot go on is started from disk and reported.
func TestBrokenSource(t *testing.T) {
	for _, how := range []string{"infected", "dies"} {
		t.Run(how, func(t *testing.T) {
			r := newRun(t, cluster.ModeLive)
			r.dumpFails, r.broken, r.dies = true, how == "infected", how == "dies"
			r.through("")
			if ct := r.container(); ct.Host != "a" || ct.Restarted != 1 {
				t.Errorf("the container is on %s, restarted %d times", ct.Host, ct.Restarted)
			}
		})
	}
}

func TestRestoreIsTriedTwice(t *testing.T) {
	r := newRun(t, cluster.ModeLive)
	r.badOnce = true
	r.through("")
	if r.container().Host != "b" {
		t.Error("one failed restore undid the migration")
	}
}

func TestTargetThatIsNotThere(t *testing.T) {
	ctx := bounded(t)
	r := newRun(t, cluster.ModeLive)
	r.sourceDone <- r.source(r.agents["a"]).Run(ctx, r.op(), spec())
	r.settle(ctx, "b")
	r.verify()
}

// TestAbortWinsTheRace has the source give up when the target is about to commit: the held copy must never go on.
func TestAbortWinsTheRace(t *testing.T) {
	r := newRun(t, cluster.ModeLive)
	r.hook = func(at Point, _ string) error {
		if at == PointTargetCommit {
			r.conn.Close()
			for !r.op().Final() {
				time.Sleep(time.Millisecond)
			}
		}
		return nil
	}
	r.through("")
	if r.container().Host != "a" || r.op().Status != cluster.OpAborted {
		t.Errorf("the container is on %s, the migration is %s", r.container().Host, r.op().Status)
	}
}

// slowLast is a layer whose last pass takes for ever, unless it is told to stop.
type slowLast struct{ Layers }

func (s slowLast) Send(ctx context.Context, w io.Writer, root string, prev *transfer.Manifest, last bool) (*transfer.Manifest, transfer.Stats, error) {
	if last {
		<-ctx.Done()
		return nil, transfer.Stats{}, ctx.Err()
	}
	return s.Layers.Send(ctx, w, root, prev, last)
}

// A checkpoint that fails gives the container back at once, whatever else is under way, says why in CRIU's words, and
// leaves CRIU's log.
func TestAFailedDumpWaitsForNothing(t *testing.T) {
	ctx := bounded(t)
	r := newRun(t, cluster.ModeLive)
	r.dumpFails = true
	ours, theirs := connect(t)
	r.conn = ours
	go func() {
		r.targetDone <- r.target(r.agents["b"]).Serve(ctx, theirs, "a", func(string) error { return nil })
	}()
	src := r.source(r.agents["a"])
	src.Copy = slowLast{}
	r.sourceDone <- src.Run(ctx, r.op(), spec())
	r.settle(ctx, "")
	r.verify()
	if c := r.copies["a"]; r.container().Host != "a" || !c.running || c.frozen || c.memory != "counter=42" {
		t.Errorf("the container is %+v", c)
	}
	if got := r.op().Error; got != "criu: an inotify watch cannot be dumped" {
		t.Errorf("the reason is %q", got)
	}
	mv := NewMover(nil, src, r.target(r.agents["b"]))
	logs, err := mv.Logs(operation)
	if err != nil || !strings.Contains(string(logs["dump.log"]), "an inotify watch") || len(logs) != 1 {
		t.Errorf("the logs are %q (%v)", logs, err)
	}
	old := time.Now().Add(-2 * youngLog)
	if err := os.Chtimes(filepath.Join(r.dirs["a"], operation+"."+dumpLog), old, old); err != nil {
		t.Fatal(err)
	}
	if mv.pruneLogs(r.state); logsOf(t, mv) != 1 {
		t.Error("the log of a known operation was removed")
	}
	if mv.pruneLogs(cluster.NewState()); logsOf(t, mv) != 0 {
		t.Error("the log of a forgotten operation is kept")
	}
}

func logsOf(t *testing.T, mv *Mover) int {
	t.Helper()
	logs, err := mv.Logs(operation)
	if err != nil {
		t.Fatal(err)
	}
	return len(logs)
}

func TestALargeLogIsCut(t *testing.T) {
	dir := t.TempDir()
	text := append([]byte("begin"), make([]byte, 3*maxLog)...)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, operation), 0o700), os.WriteFile(filepath.Join(dir, operation, dumpLog), append(text, "end"...), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := keepLog(LocalDisk{}, dir, operation, dumpLog); err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(filepath.Join(dir, operation+"."+dumpLog))
	if err != nil || len(kept) > maxLog+100 || !strings.HasPrefix(string(kept), "begin") || !strings.HasSuffix(string(kept), "end") {
		t.Errorf("%d bytes are kept (%v)", len(kept), err)
	}
}

// A target that cannot take the container says so before anything is copied or frozen.
func TestATargetThatDoesNotFitRefuses(t *testing.T) {
	ctx := bounded(t)
	r := newRun(t, cluster.ModeLive)
	r.hook = func(at Point, _ string) error {
		if at == PointSourceCopy || at == PointSourceFreeze || at == PointTargetHello {
			t.Errorf("it came to %s", at)
		}
		return nil
	}
	ours, theirs := connect(t)
	r.conn = ours
	target, src := r.target(r.agents["b"]), r.source(r.agents["a"])
	src.Offer = func(_ int, live bool) (Offer, error) {
		return Offer{Version: Version, Host: "a", Live: live, Facts: runtime.Facts{CRIU: 40201, CPU: []string{"avx2"}}}, nil
	}
	target.Unfit = func(_ context.Context, _ *cluster.Container, o Offer) []Blocker {
		return Unfit(o, Place{Host: "b", Facts: runtime.Facts{CRIU: 40201}})
	}
	go func() { r.targetDone <- target.Serve(ctx, theirs, "a", func(string) error { return nil }) }()
	r.sourceDone <- src.Run(ctx, r.op(), spec())
	r.settle(ctx, "")
	r.verify()
	if op := r.op(); op.Status != cluster.OpAborted || !strings.Contains(op.Error, "the CPU of b lacks what the container may use: avx2") {
		t.Errorf("it is %s: %s", op.Status, op.Error)
	}
}
