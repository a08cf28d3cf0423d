package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate"
	"github.com/vzcluster/vzcluster/runtime"
	"github.com/vzcluster/vzcluster/runtime/image"
)

// fakeEngine is the kernel of one host in a test. It outlives agents, as containers do.
type fakeEngine struct {
	dir string

	mu      sync.Mutex
	cts     map[int]*fakeContainer
	starts  int
	resumed bool        // the last start was from memory
	how     runtime.End // that containers say when they end
	files   map[int]map[string]string

	processes []runtime.Running // that every container has
	edits     []runtime.Edits
	unwritten error       // why no file can be edited
	words     runtime.End // that they are heard to say when nobody waited
	order     []string    // of starts
	hanging   int         // exec sessions that do not end by themselves
	fail      error       // of Start
	refuse    error       // of Update
	stubbor   bool        // containers do not end when they are asked to
	beans     []runtime.Bean
}

type fakeContainer struct {
	spec   runtime.Spec
	limits runtime.Limits
	ended  chan struct{} // closed when it does not run any more
}

func newFakeEngine(dir string) *fakeEngine {
	return &fakeEngine{dir: dir, cts: map[int]*fakeContainer{}}
}

func (c *fakeContainer) running() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

func (e *fakeEngine) Setup(context.Context) error { return nil }

func (e *fakeEngine) Start(_ context.Context, spec runtime.Spec) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fail != nil {
		return e.fail
	}
	if c := e.cts[spec.ID]; c != nil && c.running() {
		return nil
	}
	e.starts++
	e.order = append(e.order, spec.Name)
	e.resumed = os.Remove(filepath.Join(e.MemoryDir(spec.ID), "pages.img")) == nil
	if err := os.RemoveAll(e.MemoryDir(spec.ID)); err != nil {
		return err
	}
	e.cts[spec.ID] = &fakeContainer{spec: spec, limits: spec.Limits, ended: make(chan struct{})}
	return os.WriteFile(e.log(spec.ID), []byte("hello from "+spec.Hostname+"\n"), 0o600)
}

func (e *fakeEngine) end(id int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.cts[id]; c != nil && c.running() {
		close(c.ended)
	}
}

func (e *fakeEngine) Stop(ctx context.Context, id int, _ bool, timeout time.Duration) error {
	e.mu.Lock()
	c, stubborn := e.cts[id], e.stubbor
	e.mu.Unlock()
	if c == nil {
		return nil
	}
	if stubborn && timeout > 0 {
		select {
		case <-c.ended:
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(timeout):
		}
	}
	e.end(id)
	return nil
}

func (e *fakeEngine) Suspend(_ context.Context, spec runtime.Spec) error {
	e.mu.Lock()
	err := e.refuse
	e.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := e.MakeSaved(spec.ID); err != nil {
		return err
	}
	e.end(spec.ID)
	return os.Mkdir(e.MemoryDir(spec.ID), 0o755)
}

func (e *fakeEngine) Suspension(id int) (runtime.Suspension, error) {
	if _, err := os.Stat(e.MemoryDir(id)); err == nil {
		return runtime.Suspended, nil
	}
	return "", nil
}

func (e *fakeEngine) DropMemory(_ context.Context, id int) error {
	return os.RemoveAll(e.MemoryDir(id))
}

func (e *fakeEngine) EndSessions(context.Context, int) error { return nil }

func (e *fakeEngine) Kill(_ context.Context, id int) error {
	e.end(id)
	return nil
}

func (e *fakeEngine) Destroy(_ context.Context, id int) error {
	e.end(id)
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.cts, id)
	return os.RemoveAll(filepath.Join(e.dir, fmt.Sprint(id)))
}

func (e *fakeEngine) Update(id int, l runtime.Limits) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refuse != nil {
		return e.refuse
	}
	e.cts[id].limits = l
	return nil
}

func (e *fakeEngine) Reach(runtime.Reach) error { return nil }

func (e *fakeEngine) Connect(id int, nics []runtime.NIC) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refuse != nil {
		return e.refuse
	}
	e.cts[id].spec.NICs = nics
	return nil
}

func (e *fakeEngine) Status(id int) (runtime.Status, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.cts[id]
	return runtime.Status{Running: c != nil && c.running()}, nil
}

func (e *fakeEngine) List() ([]int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ids []int
	for id := range e.cts {
		ids = append(ids, id)
	}
	return ids, nil
}

func (e *fakeEngine) WaitEnd(ctx context.Context, id int) (is runtime.End, err error) {
	e.mu.Lock()
	c := e.cts[id]
	e.mu.Unlock()
	if c == nil {
		return "", nil
	}
	select {
	case <-c.ended:
		e.set(func(e *fakeEngine) { is = e.how })
		return is, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (e *fakeEngine) LastWords(int) (is runtime.End, err error) {
	e.set(func(e *fakeEngine) { is = e.words })
	return is, nil
}

// Within hands out a root that lasts as long as the call.
func (e *fakeEngine) Within(_ context.Context, s runtime.Spec, do func(runtime.Inside) error) error {
	return do(&fakeRoot{e, s.ID})
}

// fakeRoot has the files that were put into it; their archives are kept as they are.
type fakeRoot struct {
	e  *fakeEngine
	id int
}

func (r *fakeRoot) Find(path string) (err error) {
	r.e.set(func(e *fakeEngine) {
		if e.files[r.id][path] == "" {
			err = &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		}
	})
	return err
}

func (r *fakeRoot) Pack(path string, w io.Writer) (err error) {
	r.e.set(func(e *fakeEngine) { _, err = io.WriteString(w, e.files[r.id][path]) })
	if err == nil && path == "/broken" {
		err = errors.New("the disk is broken")
	}
	return err
}

func (r *fakeRoot) Unpack(path string, archive io.Reader, _ runtime.UnpackOptions) error {
	b, err := io.ReadAll(archive)
	r.e.set(func(e *fakeEngine) {
		if e.files == nil {
			e.files = map[int]map[string]string{}
		}
		if e.files[r.id] == nil {
			e.files[r.id] = map[string]string{}
		}
		e.files[r.id][path] = string(b)
	})
	return err
}

func (r *fakeRoot) Edit(e runtime.Edits) (err error) {
	r.e.set(func(f *fakeEngine) {
		if err = f.unwritten; err == nil {
			f.edits = append(f.edits, e)
		}
	})
	return err
}

func (e *fakeEngine) Processes(int) (found []runtime.Running, err error) {
	e.set(func(e *fakeEngine) { found = e.processes })
	return found, nil
}

// Which finds what any container has in the container that was made first.
func (e *fakeEngine) Which(pid int) (id int, p runtime.Running, err error) {
	ids, err := e.List()
	e.set(func(e *fakeEngine) {
		if i := slices.IndexFunc(e.processes, func(p runtime.Running) bool { return p.PID == pid }); i >= 0 && len(ids) > 0 {
			id, p = slices.Min(ids), e.processes[i]
		}
	})
	return id, p, err
}

func (r *fakeRoot) Close() error { return nil }

// Exec knows cat, which copies, tty, which says whether there is one, and exit.
func (e *fakeEngine) Exec(ctx context.Context, id int, o runtime.ExecOptions) (int, error) {
	switch o.Args[0] {
	case "cat":
		_, err := io.Copy(o.Stdout, o.Stdin)
		return 0, err
	case "tty":
		_, err := fmt.Fprintf(o.TTY, "a terminal in %d", id)
		return 0, err
	case "hang":
		e.set(func(e *fakeEngine) { e.hanging++ })
		defer e.set(func(e *fakeEngine) { e.hanging-- })
		<-ctx.Done()
		return 0, ctx.Err()
	}
	fmt.Fprint(o.Stderr, "no such command")
	return 127, nil
}

func (e *fakeEngine) sessions() (n int) {
	e.set(func(e *fakeEngine) { n = e.hanging })
	return n
}

func (e *fakeEngine) Log(id int) (*os.File, error) { return os.Open(e.log(id)) }
func (e *fakeEngine) log(id int) string            { return filepath.Join(e.dir, fmt.Sprintf("%d.log", id)) }

func (e *fakeEngine) Beans(int) ([]runtime.Bean, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.beans, nil
}

func (e *fakeEngine) Usage(int) (runtime.Usage, error) { return runtime.Usage{CPUUsec: 5000}, nil }
func (e *fakeEngine) limits(id int) (l runtime.Limits) {
	e.with(id, func(c *fakeContainer) { l = c.limits })
	return l
}

func (e *fakeEngine) runs(id int) (yes bool) { st, _ := e.Status(id); return st.Running }

func (e *fakeEngine) set(change func(*fakeEngine)) { e.mu.Lock(); defer e.mu.Unlock(); change(e) }

func (e *fakeEngine) with(id int, see func(*fakeContainer)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.cts[id]; c != nil {
		see(c)
	}
}

func (e *fakeEngine) count() (starts int) {
	e.set(func(e *fakeEngine) { starts = e.starts })
	return starts
}

// fakeTemplates is a template store in memory.
type fakeTemplates struct {
	mu    sync.Mutex
	blobs map[string][]byte
	used  map[string]time.Time // those that came or were touched
}

func (t *fakeTemplates) Has(digest string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.blobs[digest] != nil
}

func (t *fakeTemplates) Archive(digest string) (io.ReadCloser, int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.blobs[digest]
	if b == nil {
		return nil, 0, runtime.ErrNoTemplate
	}
	return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
}

func (t *fakeTemplates) Import(_ context.Context, r io.Reader, _ image.ImportOptions) (image.Info, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return image.Info{}, err
	}
	if bytes.Contains(b, []byte("hostile")) {
		return image.Info{}, errors.New("the archive is hostile")
	}
	sum := sha256.Sum256(b)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	t.blobs[digest] = b
	t.touch(digest, time.Now())
	return image.Info{Digest: digest, Size: int64(len(b)), Init: []string{"/init"}, Systemd: true}, nil
}

func (t *fakeTemplates) Fetch(ctx context.Context, digest string, r io.Reader) (image.Info, error) {
	info, err := t.Import(ctx, r, image.ImportOptions{})
	if err == nil && info.Digest != digest {
		err = errors.New("another digest")
	}
	return info, err
}

func (t *fakeTemplates) Remove(digest string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.blobs, digest)
	return nil
}

func (t *fakeTemplates) List() ([]image.Info, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []image.Info
	for d := range t.blobs {
		out = append(out, image.Info{Digest: d, Size: int64(len(t.blobs[d])), Used: t.used[d]})
	}
	return out, nil
}

func (t *fakeTemplates) Touch(digest string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.touch(digest, time.Now())
	return nil
}

func (t *fakeTemplates) touch(digest string, at time.Time) {
	if t.used == nil {
		t.used = map[string]time.Time{}
	}
	t.used[digest] = at
}

// age makes all of them unused for so long.
func (t *fakeTemplates) age(by time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for d := range t.blobs {
		t.touch(d, time.Now().Add(-by))
	}
}

// fakeMigrator commits every migration at once: the source carries its copy over to the target's fake kernel.
type fakeMigrator struct {
	a       *Agent
	engines map[string]*fakeEngine
	fail    func(op *cluster.Operation) string                            // why a migration is aborted; may be nil
	unfit   func(c *cluster.Container, o migrate.Offer) []migrate.Blocker // why a target takes none; may be nil
	found   func(id int) []api.Blocker                                    // what is in the way of a live move; may be nil
}

func (f *fakeMigrator) Run(ctx context.Context) error {
	begun := map[string]bool{}
	var all sync.WaitGroup
	defer all.Wait()
	for {
		changed, s := f.a.Changed(), f.a.State()
		for _, op := range s.Operations() {
			if op.Kind == cluster.OpMigrate && op.Status == cluster.OpRunning && op.From == f.a.Name() && !begun[op.ID] {
				begun[op.ID] = true
				all.Go(func() { f.move(ctx, op) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func (f *fakeMigrator) move(ctx context.Context, op *cluster.Operation) {
	if f.fail != nil {
		if why := f.fail(op); why != "" {
			_, _ = f.a.Apply(ctx, cluster.AbortMigration{Operation: op.ID, Reason: why, At: time.Now()})
			f.a.Poke(op.Container)
			return
		}
	}
	from, to := f.engines[op.From], f.engines[op.To]
	var spec runtime.Spec
	running := from.runs(op.Container)
	from.with(op.Container, func(c *fakeContainer) { spec = c.spec })
	if _, err := f.a.Apply(ctx, cluster.CommitMigration{Operation: op.ID}); err != nil {
		return
	}
	if running {
		_ = from.Destroy(ctx, op.Container)
		_ = to.Start(ctx, spec)
	}
	_, _ = f.a.Apply(ctx, cluster.FinishMigration{
		Operation: op.ID, At: time.Now(), Result: cluster.MoveResult{From: op.From, To: op.To, Mode: op.Mode, BlackoutMS: 42},
	})
}

// Progress is made up, so that a test can see whose it is.
func (f *fakeMigrator) Progress(operation string) cluster.Progress {
	return cluster.Progress{Stages: []cluster.Stage{{Name: operation + " on " + f.a.Name(), Bytes: 1, Of: 2}}}
}

func (f *fakeMigrator) Busy(int) bool { return false }

func (f *fakeMigrator) Kept() []api.KeptLayer { return nil }

func (f *fakeMigrator) Handle(conn net.Conn, _ string) { conn.Close() }

func (f *fakeMigrator) Offer(id int, live bool) (migrate.Offer, error) {
	return migrate.Offer{Version: migrate.Version, Host: f.a.Name(), Live: live, Need: runtime.Need{Room: runtime.Room{RAM: int64(id)}}}, nil
}

// Unfit takes everything unless the test says otherwise.
func (f *fakeMigrator) Unfit(_ context.Context, c *cluster.Container, o migrate.Offer) []migrate.Blocker {
	if f.unfit == nil {
		return nil
	}
	return f.unfit(c, o)
}

func (f *fakeMigrator) Logs(operation string) (map[string][]byte, error) {
	return map[string][]byte{"dump.log": []byte("Error of " + operation + " on " + f.a.Name())}, nil
}

func (f *fakeMigrator) Check(_ context.Context, id int) (api.Verdict, error) {
	v := api.Verdict{OK: id%2 == 1, Blockers: []api.Blocker{}}
	if f.found != nil {
		v.Blockers = f.found(id)
		v.OK = len(v.Blockers) == 0
	}
	return v, nil
}

func sorted[T ~string](in []T) []T { return slices.Sorted(slices.Values(in)) }
