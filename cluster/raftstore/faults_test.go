package raftstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/vzcluster/vzcluster/cluster"
)

// While leaders are cut off again and again, many clients add tokens, each once. In the end every acknowledged token
// is there, every refused one is not, and all replicas agree; only those of unknown outcome may be either.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	n := newNetwork()
	stores := threeReplicas(t, n, t.TempDir())
	leaderOf(t, stores...)
	var (
		mu                      sync.Mutex
		acked, refused, unknown []string
		clients                 sync.WaitGroup
	)
	ctx, cancel := context.WithCancel(testContext(t))
	for client := range 3 {
		clients.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("c%d-%d", client, i)
				call, done := context.WithTimeout(context.Background(), time.Second)
				_, err := stores[client].Apply(call, tokenCommand(id))
				done()
				mu.Lock()
				switch {
				case err == nil:
					acked = append(acked, id)
				case errors.Is(err, ErrNotLeader):
					if len(refused) < 1000 {
						refused = append(refused, id)
					}
				default:
					unknown = append(unknown, id)
				}
				mu.Unlock()
				if errors.Is(err, ErrNotLeader) {
					select { // until something happens here
					case <-stores[client].Changed():
					case <-time.After(20 * time.Millisecond):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	for round := range 3 {
		eventually(t, "some commands come through", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acked) >= 20*(round+1)
		})
		leader := leaderOf(t, stores...)
		n.isolate(leader.cfg.Name)
		eventually(t, "the isolated leader gives up", func() bool { return !leader.IsLeader() })
		var rest []*Store
		for _, s := range stores {
			if s != leader {
				rest = append(rest, s)
			}
		}
		leaderOf(t, rest...)
		n.heal()
	}
	cancel()
	clients.Wait()

	leader := leaderOf(t, stores...)
	want := text(t, leader.State())
	for _, s := range stores {
		eventually(t, "all replicas agree", func() bool { return text(t, s.State()) == want })
	}
	for _, id := range acked {
		if !hasToken(leader, id) {
			t.Errorf("the acknowledged command %s is lost", id)
		}
	}
	for _, id := range refused {
		if hasToken(leader, id) {
			t.Errorf("the refused command %s was carried out", id)
		}
	}
	t.Logf("%d acknowledged, %d refused, %d of unknown outcome", len(acked), len(refused), len(unknown))
	if len(refused) == 0 {
		t.Error("no command was refused, the test did not exercise that")
	}
}

// All replicas stop and start again: nothing is lost, and the cluster goes on without being told.
func TestAllReplicasRestart(t *testing.T) {
	n, dir := newNetwork(), t.TempDir()
	stores := threeReplicas(t, n, dir)
	leader := leaderOf(t, stores...)
	for i := range 10 {
		mustApply(t, leader, tokenCommand(fmt.Sprintf("t%d", i)))
	}
	if err := leader.Snapshot(); err != nil { // one restarts from a snapshot, the others from their logs
		t.Fatal(err)
	}
	mustApply(t, leader, tokenCommand("last"))
	want := text(t, leader.State())
	for i, s := range stores {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		stores[i] = nil
	}
	for i := range stores {
		stores[i] = open(t, n, dir, fmt.Sprintf("h%d", i+1))
	}
	leader = leaderOf(t, stores...)
	for _, s := range stores {
		eventually(t, "the old state everywhere", func() bool { return text(t, s.State()) == want })
	}
	mustApply(t, leader, tokenCommand("after"))
}

// A follower that was away for longer than the log reaches back catches up by a snapshot, over what it had.
func TestFollowerThatWasAwayForLong(t *testing.T) {
	n, dir := newNetwork(), t.TempDir()
	stores := threeReplicas(t, n, dir)
	leader := leaderOf(t, stores...)
	var away *Store
	for _, s := range stores {
		if s != leader {
			away = s
		}
	}
	mustApply(t, leader, tokenCommand("before"))
	eventually(t, "it has what came before", func() bool { return hasToken(away, "before") })
	n.isolate(away.cfg.Name)
	mustApply(t, leader, cluster.RevokeToken{ID: "before"})
	for i := range 20 {
		mustApply(t, leader, tokenCommand(fmt.Sprintf("t%d", i)))
	}
	if err := leader.Snapshot(); err != nil {
		t.Fatal(err)
	}
	if first := mustFirstIndex(t, leader); first < 15 {
		t.Fatalf("the log still begins at %d, the test proves nothing", first)
	}
	changed := away.Changed()
	n.heal()
	<-changed
	want := text(t, leader.State())
	eventually(t, "it has caught up", func() bool { return text(t, away.State()) == want })
	if hasToken(away, "before") {
		t.Error("it kept what was revoked while it was away")
	}
}

// A watcher that takes the channel before it reads the state misses nothing.
func TestWatchersMissNothing(t *testing.T) {
	n := newNetwork()
	s := open(t, n, t.TempDir(), "h1")
	if err := s.Bootstrap("h1", "h1"); err != nil {
		t.Fatal(err)
	}
	leaderOf(t, s)
	const last = 50
	var watchers sync.WaitGroup
	for range 3 {
		watchers.Go(func() {
			for {
				changed := s.Changed()
				if hasToken(s, fmt.Sprintf("t%d", last)) {
					return
				}
				select {
				case <-changed:
				case <-time.After(testTimeout):
					t.Error("a watcher sleeps although the state has changed")
					return
				}
			}
		})
	}
	for i := range last + 1 {
		mustApply(t, s, tokenCommand(fmt.Sprintf("t%d", i)))
	}
	watchers.Wait()
}

// Nobody reads LeaderCh while leadership is won and lost: raft must not wait, and a late reader sees how it ended.
func TestLeaderChWithoutReader(t *testing.T) {
	n := newNetwork()
	stores := threeReplicas(t, n, t.TempDir())
	first := leaderOf(t, stores...)
	for range 3 {
		old := leaderOf(t, stores...)
		n.isolate(old.cfg.Name)
		eventually(t, "it steps down", func() bool { return !old.IsLeader() })
		n.heal()
		leaderOf(t, stores...)
	}
	n.isolate(first.cfg.Name)
	eventually(t, "the first one does not lead", func() bool { return !first.IsLeader() })
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	leads := false
	for leads = range first.LeaderCh() {
		t.Logf("late news: %v", leads)
	}
	if leads {
		t.Error("the last news of a replica that lost leadership is that it leads")
	}
}

// tcpLayer is the plainest StreamLayer over a real network.
type tcpLayer struct{ net.Listener }

func (tcpLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(address), timeout)
}

func TestOverLoopback(t *testing.T) {
	dir := t.TempDir()
	var stores []*Store
	for i := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("h%d", i+1)
		s, err := Open(Config{Dir: filepath.Join(dir, name), Name: name, Address: l.Addr().String(), Layer: tcpLayer{l}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		stores = append(stores, s)
	}
	began := time.Now()
	if err := stores[0].Bootstrap("h1", stores[0].cfg.Address); err != nil {
		t.Fatal(err)
	}
	leader := leaderOf(t, stores...)
	t.Logf("a first leader with the default timing after %s", time.Since(began))
	mustApply(t, leader, initCommand())
	for _, s := range stores[1:] {
		if err := leader.SetMember(s.cfg.Name, s.cfg.Address, true); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range stores { // one who does not know a member yet gives it no vote
		eventually(t, s.cfg.Name+" knows three members", func() bool { return len(s.Members()) == 3 })
	}
	if err := leader.Close(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	next := leaderOf(t, stores[1:]...)
	t.Logf("the next leader after %s", time.Since(began))
	if next.State().Settings() == nil {
		t.Error("the next leader does not have the state")
	}
	if name, address := next.Leader(); name != next.cfg.Name || address != next.cfg.Address {
		t.Errorf("it says the leader is %q at %q", name, address)
	}
}
