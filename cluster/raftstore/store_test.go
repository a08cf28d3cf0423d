package raftstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/vzcluster/vzcluster/cluster"
)

const testTimeout = 30 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, n *network, dir, name string) *Store {
	t.Helper()
	s, err := Open(Config{
		Dir: filepath.Join(dir, name), Name: name, Address: name, Layer: n.layer(name),
		HeartbeatTimeout: 200 * time.Millisecond, ElectionTimeout: 200 * time.Millisecond,
		LeaderLease: 100 * time.Millisecond, CallTimeout: 5 * time.Second, TrailingLogs: 4,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// eventually waits for a condition that raft will make true by itself.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s", testTimeout, what)
		}
		<-tick.C
	}
}

// leaderOf waits until one of the stores leads and can commit.
func leaderOf(t *testing.T, stores ...*Store) *Store {
	t.Helper()
	var leader *Store
	eventually(t, "a leader", func() bool {
		for _, s := range stores {
			if s.IsLeader() && s.Barrier(context.Background()) == nil {
				leader = s
				return true
			}
		}
		return false
	})
	return leader
}

func initCommand() cluster.InitCluster {
	return cluster.InitCluster{Settings: cluster.Settings{ID: "c1"}, Host: cluster.Host{Name: "h1"}}
}

func tokenCommand(id string) cluster.AddToken {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return cluster.AddToken{Token: cluster.Token{ID: id, Hash: "h", Created: now, Expires: now.Add(time.Hour)}}
}

func mustApply(t *testing.T, s *Store, c cluster.Command) any {
	t.Helper()
	result, err := s.Apply(testContext(t), c)
	if err != nil {
		t.Fatalf("%T: %v", c, err)
	}
	return result
}

// threeReplicas starts h1, h2 and h3 as voters of one cluster.
func threeReplicas(t *testing.T, n *network, dir string) []*Store {
	t.Helper()
	stores := []*Store{open(t, n, dir, "h1"), open(t, n, dir, "h2"), open(t, n, dir, "h3")}
	if err := stores[0].Bootstrap("h1", "h1"); err != nil {
		t.Fatal(err)
	}
	leader := leaderOf(t, stores[0])
	mustApply(t, leader, initCommand())
	for _, name := range []string{"h2", "h3"} {
		if err := leader.SetMember(name, name, true); err != nil {
			t.Fatal(err)
		}
	}
	return stores
}

func hasToken(s *Store, id string) bool { return s.State().Token(id) != nil }

func TestSingleReplica(t *testing.T) {
	dir, n := t.TempDir(), newNetwork()
	s := open(t, n, dir, "h1")
	if _, err := s.Apply(testContext(t), initCommand()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("before the bootstrap: %v", err)
	}
	if err := s.Bootstrap("h1", "h1"); err != nil {
		t.Fatal(err)
	}
	if leads := <-s.LeaderCh(); !leads {
		t.Error("the first news is a loss")
	}
	leaderOf(t, s)
	if err := s.Bootstrap("h1", "h1"); err != nil {
		t.Errorf("a repeated bootstrap: %v", err)
	}
	if err := s.Bootstrap("h2", "h2"); err == nil {
		t.Error("a replica with state was bootstrapped as another host")
	}
	if name, address := s.Leader(); name != "h1" || address != "h1" {
		t.Errorf("the leader is %q at %q", name, address)
	}

	changed := s.Changed()
	if h, ok := mustApply(t, s, initCommand()).(*cluster.Host); !ok || h != s.State().Host("h1") {
		t.Error("the result is not what the state holds")
	}
	<-changed
	changed = s.Changed()
	if _, err := s.Apply(testContext(t), cluster.RevokeToken{ID: "nope"}); !errors.Is(err, cluster.ErrNotFound) {
		t.Errorf("a refused command: %v", err)
	}
	mustApply(t, s, initCommand())
	select {
	case <-changed:
		t.Error("commands that changed nothing woke the watchers")
	default:
	}

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range s.LeaderCh() { // closed, after at most a loss
	}
	if err := s.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	s = open(t, n, dir, "h1")
	leaderOf(t, s)
	if s.State().Settings() == nil {
		t.Error("the state did not survive a restart")
	}
}

func TestApplyLimits(t *testing.T) {
	n := newNetwork()
	s := open(t, n, t.TempDir(), "h1")
	if err := s.Bootstrap("h1", "h1"); err != nil {
		t.Fatal(err)
	}
	leaderOf(t, s)
	big := tokenCommand("big")
	big.Token.Hash = strings.Repeat("x", maxCommand)
	if _, err := s.Apply(testContext(t), big); !errors.Is(err, cluster.ErrInvalid) {
		t.Errorf("a huge command: %v", err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Apply(cancelled, tokenCommand("t")); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if hasToken(s, "t") || hasToken(s, "big") {
		t.Error("a command that was not sent changed the state")
	}
}

func TestThreeReplicas(t *testing.T) {
	n := newNetwork()
	stores := threeReplicas(t, n, t.TempDir())
	leader := leaderOf(t, stores...)
	mustApply(t, leader, tokenCommand("a"))
	for _, s := range stores {
		eventually(t, "the command everywhere", func() bool { return hasToken(s, "a") })
		eventually(t, "all know the leader", func() bool { name, _ := s.Leader(); return name == leader.cfg.Name })
		if s != leader {
			if _, err := s.Apply(testContext(t), tokenCommand("b")); !errors.Is(err, ErrNotLeader) {
				t.Errorf("a follower applied: %v", err)
			}
			if err := s.Barrier(testContext(t)); !errors.Is(err, ErrNotLeader) {
				t.Errorf("a follower's barrier: %v", err)
			}
			if err := s.SetMember("h9", "h9", true); !errors.Is(err, ErrNotLeader) {
				t.Errorf("a follower changed the members: %v", err)
			}
		}
	}
}

// A host that comes back must not disturb the leader. On a busy machine a leader may lose its followers by itself, so one
// undisturbed return in three is enough; without pre-vote there is none.
func TestLeaderIsLost(t *testing.T) {
	for range 3 {
		if !leaderIsLost(t) {
			return
		}
	}
	t.Error("the host that came back disturbs the leader: pre-vote does not work")
}

func leaderIsLost(t *testing.T) (disturbed bool) {
	t.Helper()
	n := newNetwork()
	stores := threeReplicas(t, n, t.TempDir())
	old := leaderOf(t, stores...)
	for leads := false; !leads; {
		leads = <-old.LeaderCh()
	}
	var rest []*Store
	for _, s := range stores {
		if s != old {
			rest = append(rest, s)
		}
	}

	n.isolate(old.cfg.Name)
	// The isolated leader takes the command, but nobody confirms it: its fate is unknown, or it has stepped down.
	_, err := old.Apply(testContext(t), tokenCommand("lost"))
	if !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("applying without a quorum: %v", err)
	}
	if err := old.Barrier(testContext(t)); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a barrier without a quorum: %v", err)
	}
	if leads := <-old.LeaderCh(); leads {
		t.Error("the loss was not told")
	}
	began := time.Now()
	leader := leaderOf(t, rest...)
	t.Logf("a new leader after %s", time.Since(began))
	mustApply(t, leader, tokenCommand("kept"))

	n.heal()
	eventually(t, "the old leader follows", func() bool { return hasToken(old, "kept") })
	if hasToken(old, "lost") || hasToken(leader, "lost") {
		t.Error("a command without a quorum came through")
	}
	return leaderOf(t, stores...) != leader
}

func TestDeadlineMeansUnknown(t *testing.T) {
	n := newNetwork()
	stores := threeReplicas(t, n, t.TempDir())
	leader := leaderOf(t, stores...)
	n.isolate("h1", "h2", "h3")
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := leader.Apply(ctx, tokenCommand("t")); !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("a command whose time ran out: %v", err)
	}
	n.heal()
	mustApply(t, leaderOf(t, stores...), tokenCommand("after"))
}

func TestStepDown(t *testing.T) {
	stores := threeReplicas(t, newNetwork(), t.TempDir())
	old := leaderOf(t, stores...)
	if err := old.StepDown(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another leader", func() bool { return leaderOf(t, stores...) != old })
}

func TestMembers(t *testing.T) {
	n, dir := newNetwork(), t.TempDir()
	stores := threeReplicas(t, n, dir)
	leader := leaderOf(t, stores...)
	h4 := open(t, n, dir, "h4")
	text := func() string {
		var parts []string
		for _, m := range leader.Members() {
			parts = append(parts, fmt.Sprintf("%s@%s:%v", m.Name, m.Address, m.Voter))
		}
		return strings.Join(parts, " ")
	}
	for _, step := range []struct {
		do   func() error
		want string
	}{
		{func() error { return nil }, "h1@h1:true h2@h2:true h3@h3:true"},
		{func() error { return leader.SetMember("h4", "h4", false) }, "h1@h1:true h2@h2:true h3@h3:true h4@h4:false"},
		{func() error { return leader.SetMember("h4", "h4", false) }, "h1@h1:true h2@h2:true h3@h3:true h4@h4:false"},
		{func() error { return leader.SetMember("h4", "h4", true) }, "h1@h1:true h2@h2:true h3@h3:true h4@h4:true"},
		{func() error { return leader.SetMember("h4", "h4b", false) }, "h1@h1:true h2@h2:true h3@h3:true h4@h4b:false"},
		{func() error { return leader.SetMember("h4", "h4", false) }, "h1@h1:true h2@h2:true h3@h3:true h4@h4:false"},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := text(); got != step.want {
			t.Fatalf("members are %s, want %s", got, step.want)
		}
	}
	mustApply(t, leader, tokenCommand("a"))
	eventually(t, "a member without vote follows", func() bool { return hasToken(h4, "a") })
	for range 2 {
		if err := leader.Remove("h4"); err != nil {
			t.Fatal(err)
		}
	}
	if got := text(); got != "h1@h1:true h2@h2:true h3@h3:true" {
		t.Errorf("after the removal members are %s", got)
	}
	if h4.Err() != nil || !hasToken(h4, "a") {
		t.Errorf("the removed replica stopped: %v", h4.Err())
	}
}

// A replica that comes too late for the log gets a snapshot; a restarted one starts from its own.
func TestSnapshots(t *testing.T) {
	n, dir := newNetwork(), t.TempDir()
	s := open(t, n, dir, "h1")
	if err := s.Bootstrap("h1", "h1"); err != nil {
		t.Fatal(err)
	}
	leaderOf(t, s)
	mustApply(t, s, initCommand())
	for i := range 20 {
		mustApply(t, s, tokenCommand(fmt.Sprintf("t%d", i)))
	}
	for range 2 { // the second finds nothing new
		if err := s.Snapshot(); err != nil {
			t.Fatal(err)
		}
	}
	if first := mustFirstIndex(t, s); first <= 1 {
		t.Fatalf("the log still begins at %d, the test proves nothing", first)
	}
	mustApply(t, s, tokenCommand("after"))
	want := text(t, s.State())

	h2 := open(t, n, dir, "h2")
	if err := s.SetMember("h2", "h2", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new replica has everything", func() bool { return text(t, h2.State()) == want })

	for _, r := range []*Store{s, h2} {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, n, dir, "h1")
	if s.State().Token("t19") == nil {
		t.Error("the restarted replica does not start from its snapshot")
	}
	leaderOf(t, s)
	if text(t, s.State()) != want {
		t.Error("the restarted replica has another state")
	}
}

func mustFirstIndex(t *testing.T, s *Store) uint64 {
	t.Helper()
	for _, c := range s.closers {
		if log, ok := c.(raft.LogStore); ok {
			first, err := log.FirstIndex()
			if err != nil {
				t.Fatal(err)
			}
			return first
		}
	}
	t.Fatal("no log among the parts")
	return 0
}

func text(t *testing.T, s *cluster.State) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A replica that meets a command of a later version must stop before it differs from the others.
func TestNewerCommandStopsTheReplica(t *testing.T) {
	s := open(t, newNetwork(), t.TempDir(), "h1")
	if err := s.Bootstrap("h1", "h1"); err != nil {
		t.Fatal(err)
	}
	leaderOf(t, s)
	mustApply(t, s, initCommand())
	ignorable := append(binary.BigEndian.AppendUint16(nil, uint16(999|cluster.Ignorable)), "{}"...)
	if err := s.raft.Apply(ignorable, 0).Error(); err != nil || s.Err() != nil {
		t.Fatalf("an ignorable command: %v, %v", err, s.Err())
	}
	newer := append(binary.BigEndian.AppendUint16(nil, 999), "{}"...)
	_ = s.raft.Apply(newer, 0).Error()
	<-s.Failed()
	if !errors.Is(s.Err(), cluster.ErrNewer) || !errors.Is(s.Err(), ErrStopped) {
		t.Errorf("it stopped with %v", s.Err())
	}
	if _, err := s.Apply(testContext(t), tokenCommand("t")); !errors.Is(err, ErrStopped) {
		t.Errorf("a stopped replica applied: %v", err)
	}
	for range s.LeaderCh() {
	}
	if s.IsLeader() {
		t.Error("a stopped replica leads")
	}
	if s.State().Settings() == nil {
		t.Error("its last state cannot be read any more")
	}
}

func TestFSM(t *testing.T) {
	f := newFSM(nil)
	if a := f.Apply(&raft.Log{Index: 7, Data: []byte{0}}).(applied); !errors.Is(a.err, ErrStopped) || !strings.Contains(a.err.Error(), "entry 7") {
		t.Errorf("a broken entry: %v", a.err)
	}
	good, err := cluster.Encode(tokenCommand("t"))
	if err != nil {
		t.Fatal(err)
	}
	if a := f.Apply(&raft.Log{Data: good}).(applied); a.err == nil || f.state.Load().Token("t") != nil {
		t.Error("a failed replica goes on")
	}
	if _, err := f.Snapshot(); err == nil {
		t.Error("a failed replica makes snapshots")
	}
	g := newFSM(nil)
	if err := g.Restore(io.NopCloser(strings.NewReader(`{"version": 99}`))); !errors.Is(err, cluster.ErrNewer) {
		t.Errorf("a newer snapshot: %v", err)
	}
	<-g.failed
}

func TestOpenRefuses(t *testing.T) {
	dir, n := t.TempDir(), newNetwork()
	open(t, n, dir, "h1")
	if s, err := Open(Config{Dir: filepath.Join(dir, "h1", "raft.db"), Name: "x", Layer: n.layer("x")}); err == nil {
		_ = s.Close()
		t.Error("a file was opened as a directory")
	}
	if s, err := Open(Config{Dir: filepath.Join(dir, "y"), Layer: n.layer("y")}); err == nil {
		_ = s.Close()
		t.Error("a replica without a name was opened")
	}
}

func TestLogBridge(t *testing.T) {
	var out bytes.Buffer
	log := hclogTo(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	log.Named("x").With("peer", "h2").Error("no answer", "after", 3)
	log.Log(hclog.Info, "fine")
	log.Trace("detail")
	for _, want := range []string{`level=WARN msg="no answer"`, "part=raft", "peer=h2", "after=3", "level=INFO msg=fine", "level=DEBUG msg=detail"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, out.String())
		}
	}
}
