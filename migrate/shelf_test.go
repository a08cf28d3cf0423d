package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate/memory"
	"github.com/vzcluster/vzcluster/migrate/transfer"
)

// store keeps the layers of one host of the world aside.
type store struct {
	a   *agent
	dir string
}

func (s store) aside(id int) string { return filepath.Join(s.dir, fmt.Sprint(id)) }

func (s store) Park(ctx context.Context, id int) error {
	layer, err := s.a.Layer(id)
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(s.aside(id)), os.Rename(filepath.Dir(layer), s.aside(id))); err != nil {
		return err
	}
	return s.a.Destroy(ctx, id)
}

func (s store) Unpark(id int) (string, error) {
	layer, err := s.a.Layer(id)
	if err != nil {
		return "", err
	}
	return layer, errors.Join(os.RemoveAll(filepath.Dir(layer)), os.Rename(s.aside(id), filepath.Dir(layer)))
}

func (s store) DropParked(id int) error { return os.RemoveAll(s.aside(id)) }

// trip is a world whose container goes to and fro.
type trip struct {
	*run
	shelves map[string]*Shelf
	asides  map[string]string
	legs    int
	resumed int // how often kept memory was taken up
}

func newTrip(t *testing.T) *trip {
	tr := &trip{run: newRun(t, cluster.ModeLive), shelves: map[string]*Shelf{}, asides: map[string]string{}}
	for host, a := range tr.agents {
		tr.asides[host] = t.TempDir()
		tr.shelves[host] = &Shelf{Store: store{a, tr.asides[host]}, For: time.Hour, Disk: 1 << 30, Log: slog.New(slog.DiscardHandler)}
	}
	layer := tr.layer("a")
	for i := range 50 {
		if err := os.WriteFile(filepath.Join(layer, fmt.Sprint("file", i)), bytes.Repeat([]byte("x"), 20_000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tr.age()
	tr.hook = func(at Point, _ string) error {
		if at == PointSourcePrepare {
			tr.age()
		}
		return nil
	}
	return tr
}

// age returns when everything that was written before is so old, for the kernel's clock of files, that its time proves
// that it has not changed. In real migrations that much passes anyway.
func (tr *trip) age() {
	probe := filepath.Join(tr.asides["a"], "..", "probe")
	stamp := func() time.Time {
		if err := os.WriteFile(probe, nil, 0o600); err != nil {
			tr.t.Fatal(err)
		}
		st, err := os.Stat(probe)
		if err != nil {
			tr.t.Fatal(err)
		}
		return st.ModTime()
	}
	for began := stamp(); stamp().Before(began.Add(40 * time.Millisecond)); {
	}
}

// keptMemory counts how often memory that was kept is taken up.
type keptMemory struct {
	*memory.Kept
	resumed *int
}

func (k keptMemory) Resume(images string, charge func(bytes int64) error) (PageStore, error) {
	*k.resumed++
	return k.Kept.Resume(images, charge)
}

func (tr *trip) layer(host string) string {
	tr.t.Helper()
	layer, err := tr.agents[host].Layer(ctid)
	if err != nil {
		tr.t.Fatal(err)
	}
	return layer
}

// move carries the operation that is under way out, over connections that wrap has looked at.
func (tr *trip) move(from, to string, wrap func(net.Conn, int) net.Conn) error {
	ctx := bounded(tr.t)
	target := tr.target(tr.agents[to])
	target.Name, target.Dir, target.Shelf = to, tr.dirs[to], tr.shelves[to]
	source := tr.source(tr.agents[from])
	source.Dir, source.Shelf = tr.dirs[from], tr.shelves[from]
	source.KeepMemory = func(_ int, limit int64, round func(memory.Visit) error) (KeptMemory, error) {
		k, err := memory.Keep(filepath.Join(tr.asides[from], "memory"), limit, round)
		return keptMemory{k, &tr.resumed}, err
	}
	busy := make(chan struct{}, 1)
	dials := 0
	source.Dial = func(context.Context, string) (io.ReadWriteCloser, error) {
		ours, theirs := connect(tr.t)
		dials++
		if wrap != nil {
			ours = wrap(ours, dials)
		}
		go func() {
			busy <- struct{}{}
			defer func() { <-busy }()
			_ = target.Serve(ctx, theirs, from, func(string) error { return nil })
		}()
		return ours, nil
	}
	err := source.Run(ctx, tr.state.ActiveMigration(ctid), spec())
	busy <- struct{}{} // the target's part has ended, too
	return err
}

// begin lets the state have another migration.
func (tr *trip) begin(from, to string) {
	tr.t.Helper()
	tr.legs++
	tr.must(cluster.BeginMigration{Operation: cluster.Operation{
		ID: fmt.Sprint("again", tr.legs), Kind: cluster.OpMigrate, Container: ctid, Generation: tr.container().Generation,
		From: from, To: to, Mode: cluster.ModeLive, Started: time.Unix(int64(10+tr.legs), 0),
	}})
}

func (tr *trip) bytes() int64 { return tr.state.LastMove(ctid).Bytes }

// What returns crosses the wire only as far as it is new; what was kept for it is used up.
func TestQuickReturn(t *testing.T) {
	tr := newTrip(t)
	if err := tr.move("a", "b", nil); err != nil {
		t.Fatal(err)
	}
	first := tr.bytes()
	if kept := tr.shelves["a"].Kept(); len(kept) != 1 || kept[0].Container != ctid || kept[0].Disk < 1_000_000 {
		t.Fatalf("kept on a: %+v", kept)
	}
	if err := os.WriteFile(filepath.Join(tr.layer("b"), "file7"), []byte("changed there"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr.begin("b", "a")
	if err := tr.move("b", "a", nil); err != nil {
		t.Fatal(err)
	}
	if back := tr.bytes(); back > first*15/100 {
		t.Errorf("coming back took %d bytes, going %d", back, first)
	}
	got, err := os.ReadFile(filepath.Join(tr.layer("a"), "file7"))
	if err != nil || string(got) != "changed there" {
		t.Errorf("file7 is %q: %v", got, err)
	}
	if entries, _ := os.ReadDir(tr.asides["a"]); len(entries) != 0 || len(tr.shelves["a"].Kept()) != 0 {
		t.Error("what came back is still kept aside")
	}
	if c := tr.copies["a"]; tr.resumed != 1 || c.memory != "counter=42" {
		t.Errorf("the memory that was kept was taken up %d times; the copy is %+v", tr.resumed, c)
	}
	tr.check(51)
}

func (tr *trip) check(files int) {
	tr.t.Helper()
	entries, err := os.ReadDir(tr.layer(tr.container().Host))
	if err != nil || len(entries) != files {
		tr.t.Errorf("the layer has %d files, want %d: %v", len(entries), files, err)
	}
	if len(tr.witness) > 0 {
		tr.t.Error(tr.witness)
	}
}

// A kept layer that was touched, or that is of another session, is not used.
func TestTouchedLayerIsCopiedAnew(t *testing.T) {
	tr := newTrip(t)
	if err := tr.move("a", "b", nil); err != nil {
		t.Fatal(err)
	}
	first := tr.bytes()
	if err := os.WriteFile(filepath.Join(tr.asides["a"], fmt.Sprint(ctid), "upper/file3"), []byte("forged"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr.begin("b", "a")
	if err := tr.move("b", "a", nil); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(tr.layer("a"), "file3")); strings.Contains(string(got), "forged") || tr.bytes() < first*9/10 {
		t.Errorf("a layer that was touched was used: %d of %d bytes", tr.bytes(), first)
	}
}

// cable breaks after so many bytes.
type cable struct {
	net.Conn
	left int
}

func (c *cable) Write(p []byte) (int, error) {
	if len(p) > c.left {
		n, _ := c.Conn.Write(p[:c.left])
		c.left = 0
		c.Close()
		return n, errors.New("cable cut")
	}
	c.left -= len(p)
	return c.Conn.Write(p)
}

// A connection that breaks while files are copied is made again, and what has arrived is not sent again.
func TestBrokenConnectionGoesOn(t *testing.T) {
	tr := newTrip(t)
	err := tr.move("a", "b", func(c net.Conn, dial int) net.Conn {
		if dial < 4 {
			return &cable{c, 600_000}
		}
		return c
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := tr.bytes(); n > 2_200_000 {
		t.Errorf("%d bytes were sent for a layer of 1,000,000", n)
	}
	tr.check(51)
}

// After a migration that failed, the next one begins with what arrived.
func TestFailedMigrationIsTakenUp(t *testing.T) {
	tr := newTrip(t)
	tr.hook = func(at Point, op string) error {
		if at == PointSourcePrepare && op == operation {
			return errors.New("no")
		}
		return nil
	}
	if err := tr.move("a", "b", nil); err == nil {
		t.Fatal("the migration did not fail")
	}
	if len(tr.shelves["b"].Kept()) != 1 {
		t.Fatal("b keeps nothing")
	}
	tr.begin("a", "b")
	if err := tr.move("a", "b", nil); err != nil {
		t.Fatal(err)
	}
	if n := tr.bytes(); n > 100_000 {
		t.Errorf("%d bytes were sent again", n)
	}
	tr.check(51)
}

func keepPages(dir string, n int) (KeptMemory, error) {
	k, err := memory.Keep(dir, 1<<20, func(visit memory.Visit) error {
		return visit(memory.ProcessSpace(1), 16, make([]byte, n*memory.PageSize))
	})
	return keptMemory{k, new(int)}, err
}

func TestShelfIsBounded(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t)
	s := &Shelf{Store: store{w.newAgent("a"), dir}, For: time.Minute, Disk: 100_000, Log: slog.New(slog.DiscardHandler)}
	park := func(id int, size int) bool {
		layer, err := s.Store.(store).a.Layer(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.MkdirAll(layer, 0o755), os.WriteFile(filepath.Join(layer, "f"), make([]byte, size), 0o600)); err != nil {
			t.Fatal(err)
		}
		m, _, err := transfer.Send(context.Background(), io.Discard, layer, nil)
		if err != nil {
			t.Fatal(err)
		}
		k := &shared{session: "s", done: m}
		if id%2 == 1 {
			k.memory, err = keepPages(filepath.Join(dir, fmt.Sprint("memory", id)), 5)
		}
		kept, perr := s.park(context.Background(), id, k)
		if err := errors.Join(err, perr); err != nil {
			t.Fatal(err)
		}
		return kept
	}
	if park(101, 200_000) {
		t.Error("a layer larger than the shelf is kept")
	}
	if !park(102, 60_000) || !park(103, 60_000) {
		t.Error("a small layer is not kept")
	}
	if kept := s.Kept(); len(kept) != 1 || kept[0].Container != 103 || kept[0].Disk < 60_000+5*memory.PageSize {
		t.Errorf("the shelf is fuller than it may be, or the newest went: %+v", kept)
	}
	if err := s.prune(time.Now().Add(59*time.Second), func(int) bool { return true }); err != nil || len(s.Kept()) != 1 {
		t.Errorf("pruned too early: %v", err)
	}
	if err := s.prune(time.Now().Add(61*time.Second), func(int) bool { return true }); err != nil || len(s.Kept()) != 0 {
		t.Errorf("kept too long: %v", err)
	}
	if !park(105, 85_000) || s.Kept()[0].Disk > 100_000 {
		t.Errorf("memory is kept for which there is no room: %+v", s.Kept())
	}
	park(104, 1000)
	if err := s.prune(time.Now(), func(int) bool { return false }); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left aside: %v", entries)
	}
}
