package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/raftstore"
	"github.com/vzcluster/vzcluster/migrate"
)

// patience is how long a test waits for something that must happen.
const patience = 20 * time.Second

// testTick is longer than an election takes in a test.
const testTick = 500 * time.Millisecond

// testHost is one host: its agent may be replaced, its kernel and files stay.
type testHost struct {
	t      *testing.T
	cfg    Config
	engine *fakeEngine
	images *fakeTemplates
	lab    *testCluster
	agent  *Agent
	ended  chan error // gets Run's error
	*api.Client
}

// testCluster is a few hosts on the loopback interface.
type testCluster struct {
	t        *testing.T
	engines  map[string]*fakeEngine
	hosts    []*testHost
	fail     func(op *cluster.Operation) string // see fakeMigrator
	unfit    func(c *cluster.Container, o migrate.Offer) []migrate.Blocker
	found    func(id int) []api.Blocker
	survey   time.Duration // of Timing; zero: many times a second
	calm     bool          // the timing of real clusters: no leader is lost because the machine is slow
	room     int64         // of each host, zero: 1 GiB
	at       func(host, point string)
	hooksDir string
}

func (l *testCluster) host(name string) *testHost {
	t := l.t
	t.Helper()
	dir := t.TempDir()
	cfg := DefaultConfig()
	cfg.Name, cfg.DataDir, cfg.RunDir = name, filepath.Join(dir, "data"), socketDir(t)
	cfg.Listen, cfg.Gossip.Bind = freePort(t), freePort(t)
	cfg.Advertise, cfg.Gossip.Advertise = cfg.Listen, cfg.Gossip.Bind
	cfg.Capacity = CapacityConfig{CPUs: 4, RAM: Size(cmp.Or(l.room, 1<<30)), Disk: 10 << 30}
	if l.hooksDir != "" {
		cfg.HooksDir = l.hooksDir
	}
	h := &testHost{t: t, cfg: cfg, engine: newFakeEngine(dir), images: &fakeTemplates{blobs: map[string][]byte{}}, lab: l}
	l.engines[name] = h.engine
	l.hosts = append(l.hosts, h)
	t.Cleanup(func() { h.stop() })
	h.start()
	return h
}

// socketDir is short: the path of a unix socket is bounded.
func socketDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "vz")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func freePort(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

func (h *testHost) start() {
	h.t.Helper()
	deps := Deps{
		Engine: h.engine, Templates: h.images, Version: "test", Log: testLog(h.t),
		Migrator: func(a *Agent) Migrator { return &fakeMigrator{a, h.lab.engines, h.lab.fail, h.lab.unfit, h.lab.found} },
		Raft: raftstore.Config{
			HeartbeatTimeout: 150 * time.Millisecond, ElectionTimeout: 150 * time.Millisecond, LeaderLease: 100 * time.Millisecond,
		},
		Timing: Timing{Quorum: 3 * time.Second, Stale: time.Second, DeadHost: time.Second, Retry: 20 * time.Millisecond, Survey: cmp.Or(h.lab.survey, 120*time.Millisecond)},
	}
	if h.lab.calm {
		deps.Raft, deps.Timing = raftstore.Config{}, Timing{}
	}
	if h.lab.at != nil {
		deps.Raft.At = func(point string) error {
			h.lab.at(h.cfg.Name, point)
			return nil
		}
	}
	a, err := New(h.cfg, deps)
	must(h.t, err)
	h.agent, h.ended = a, make(chan error, 1)
	go func() { h.ended <- a.Run(context.Background()) }()
	select {
	case <-a.Ready():
	case err := <-h.ended:
		h.t.Fatalf("the agent of %s ended: %v", h.cfg.Name, err)
	case <-time.After(patience):
		h.t.Fatalf("the agent of %s does not become ready", h.cfg.Name)
	}
	h.Client, err = api.NewClient("unix://"+a.SocketPath(), nil)
	must(h.t, err)
}

// stop ends the agent and leaves the containers running.
func (h *testHost) stop() {
	if h.agent == nil {
		return
	}
	h.agent.Close()
	h.agent = nil
	if err := <-h.ended; err != nil {
		h.t.Errorf("the agent of %s ended with an error: %v", h.cfg.Name, err)
	}
}

func testLog(t *testing.T) *slog.Logger {
	if os.Getenv("VZ_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("test", t.Name())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until what must become true is, and fails with what it last said.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// newCluster makes a cluster of n hosts named host1..hostN with a template "tiny" on the first one.
func newCluster(t *testing.T, n int) (*testCluster, []*testHost) {
	t.Helper()
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	l.grow(n)
	return l, l.hosts
}

// grow makes the hosts, the first of them the leader, and the template.
func (l *testCluster) grow(n int) {
	t := l.t
	t.Helper()
	for i := range n {
		l.host(fmt.Sprintf("host%d", i+1))
	}
	_, err := l.hosts[0].Init(t.Context(), api.InitRequest{})
	must(t, err)
	for _, h := range l.hosts[1:] {
		_, err := h.Join(t.Context(), api.JoinRequest{Address: l.hosts[0].cfg.Advertise, Token: l.hosts[0].token(time.Hour)})
		must(t, err)
	}
	_, err = l.hosts[0].PutTemplate(t.Context(), "tiny", nil, strings.NewReader("a tiny root"))
	must(t, err)
}

func (h *testHost) token(ttl time.Duration) string {
	h.t.Helper()
	r, err := h.CreateToken(h.t.Context(), ttl)
	must(h.t, err)
	return r.Token
}

func (h *testHost) create(name string, ram int64) api.Container {
	h.t.Helper()
	c, err := h.Create(h.t.Context(), api.CreateRequest{Name: name, Template: "tiny", Limits: cluster.Limits{RAM: ram}, Start: true})
	must(h.t, err)
	if c.State != cluster.Running {
		h.t.Fatalf("container %s is %s (%s), want running", name, c.State, c.Detail)
	}
	return c
}

func (l *testCluster) leader() *testHost {
	l.t.Helper()
	var leader *testHost
	eventually(l.t, "a leader", func() error {
		for _, h := range l.hosts {
			if h.agent == nil {
				continue
			}
			if m := h.agent.member.Load(); m != nil {
				if _, mine := m.leader(); mine {
					leader = h
					return nil
				}
			}
		}
		return errors.New("none")
	})
	return leader
}

func (l *testCluster) followers() (out []*testHost) {
	leader := l.leader()
	for _, h := range l.hosts {
		if h != leader && h.agent != nil {
			out = append(out, h)
		}
	}
	return out
}

func threeVoters(h *testHost) error {
	hosts, err := h.Hosts(h.t.Context())
	if err != nil {
		return err
	}
	voters := 0
	for _, x := range hosts {
		if x.Voter && x.Alive {
			voters++
		}
	}
	if voters != 3 {
		return fmt.Errorf("%d living voters of %d hosts", voters, len(hosts))
	}
	return nil
}

func TestThreeHosts(t *testing.T) {
	l, hosts := newCluster(t, 3)
	eventually(t, "three voters", func() error { return threeVoters(hosts[2]) })

	t.Run("a follower creates, the leader spreads", func(t *testing.T) {
		f := l.followers()[0]
		on := map[string]int{}
		for i := range 6 {
			c := f.create(fmt.Sprintf("web%d", i), 128<<20)
			on[c.Host]++
			if !l.engines[c.Host].runs(c.ID) {
				t.Errorf("container %d does not run on %s", c.ID, c.Host)
			}
		}
		for _, h := range hosts {
			if on[h.cfg.Name] != 2 {
				t.Errorf("containers by host: %v, want two on each", on)
			}
		}
		tiny, err := f.Template(t.Context(), "tiny")
		must(t, err)
		if got := sorted(tiny.Hosts); len(got) != 3 {
			t.Errorf("the template is on %v, want all three hosts", got)
		}
	})
	t.Run("stop, start, restart", func(t *testing.T) {
		h := hosts[1]
		c, err := h.Container(t.Context(), "web0")
		must(t, err)
		e := l.engines[c.Host]
		c, err = h.Action(t.Context(), "web0", "stop", api.ActionRequest{})
		must(t, err)
		if c.State != cluster.Stopped || e.runs(c.ID) {
			t.Errorf("after stop it is %s, runs: %v", c.State, e.runs(c.ID))
		}
		c, err = h.Action(t.Context(), "web0", "start", api.ActionRequest{})
		must(t, err)
		before := e.count()
		c, err = h.Action(t.Context(), "web0", "restart", api.ActionRequest{})
		must(t, err)
		if c.State != cluster.Running || e.count() != before+1 {
			t.Errorf("after restart it is %s and was started %d times more, want once", c.State, e.count()-before)
		}
	})
	t.Run("a stubborn one is killed with force", func(t *testing.T) {
		c, err := hosts[0].Container(t.Context(), "web1")
		must(t, err)
		e := l.engines[c.Host]
		e.set(func(e *fakeEngine) { e.stubbor = true })
		defer e.set(func(e *fakeEngine) { e.stubbor = false })
		_, err = hosts[0].Action(t.Context(), "web1", "stop", api.ActionRequest{Force: true, Wait: patience})
		must(t, err)
	})
	t.Run("limits reach the kernel or are put back", func(t *testing.T) {
		c, err := hosts[2].Container(t.Context(), "web2")
		must(t, err)
		e, ram := l.engines[c.Host], int64(192<<20)
		c, err = hosts[2].Set(t.Context(), "web2", api.SetRequest{RAM: &ram})
		must(t, err)
		if c.Limits.RAM != ram || e.limits(c.ID).RAM != ram {
			t.Errorf("record %d, kernel %d, want %d", c.Limits.RAM, e.limits(c.ID).RAM, ram)
		}
		e.set(func(e *fakeEngine) { e.refuse = errors.New("it uses more") })
		less := int64(64 << 20)
		_, err = hosts[2].Set(t.Context(), "web2", api.SetRequest{RAM: &less})
		e.set(func(e *fakeEngine) { e.refuse = nil })
		wantCode(t, err, api.CodeRefused)
		c, err = hosts[2].Container(t.Context(), "web2")
		must(t, err)
		if c.Limits.RAM != ram {
			t.Errorf("after a refusal the record says %d, want the old %d", c.Limits.RAM, ram)
		}
	})
	t.Run("an init that ends is a failure, start is the way out", func(t *testing.T) {
		c, err := hosts[0].Container(t.Context(), "web3")
		must(t, err)
		l.engines[c.Host].end(c.ID)
		eventually(t, "failed", func() error {
			c, err := hosts[0].Container(t.Context(), "web3")
			if err == nil && (c.State != cluster.Failed || !strings.Contains(c.Detail, "by itself")) {
				err = fmt.Errorf("%s %q", c.State, c.Detail)
			}
			return err
		})
		_, err = hosts[0].Action(t.Context(), "web3", "start", api.ActionRequest{})
		must(t, err)
	})
	t.Run("destroy leaves nothing", func(t *testing.T) {
		c, err := hosts[1].Container(t.Context(), "web4")
		must(t, err)
		_, err = hosts[1].Action(t.Context(), "web4", "destroy", api.ActionRequest{Now: true})
		must(t, err)
		ids, _ := l.engines[c.Host].List()
		for _, id := range ids {
			if id == c.ID {
				t.Errorf("container %d has left a trace on %s", id, c.Host)
			}
		}
		_, err = hosts[1].Container(t.Context(), "web4")
		wantCode(t, err, api.CodeNotFound)
	})
}

func TestBadRequests(t *testing.T) {
	_, hosts := newCluster(t, 1)
	h, ctx := hosts[0], t.Context()
	h.create("taken", 64<<20)
	for name, c := range map[string]struct {
		req  api.CreateRequest
		code api.Code
	}{
		"unknown template": {api.CreateRequest{Template: "none", Limits: cluster.Limits{RAM: 64 << 20}}, api.CodeNotFound},
		"unknown host":     {api.CreateRequest{Template: "tiny", Host: "none", Limits: cluster.Limits{RAM: 64 << 20}}, api.CodeNotFound},
		"name taken":       {api.CreateRequest{Template: "tiny", Name: "taken", Limits: cluster.Limits{RAM: 64 << 20}}, api.CodeConflict},
		"ctid taken":       {api.CreateRequest{Template: "tiny", ID: 101, Limits: cluster.Limits{RAM: 64 << 20}}, api.CodeConflict},
		"too much memory":  {api.CreateRequest{Template: "tiny", Limits: cluster.Limits{RAM: 64 << 30}}, api.CodeNoFit},
		"no memory":        {api.CreateRequest{Template: "tiny"}, api.CodeUsage},
		"address not ours": {api.CreateRequest{Template: "tiny", IP: "192.0.2.1", Limits: cluster.Limits{RAM: 64 << 20}}, api.CodeUsage},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.Create(ctx, c.req)
			wantCode(t, err, c.code)
		})
	}
	_, err := h.PutTemplate(ctx, "bad", nil, strings.NewReader("hostile"))
	wantCode(t, err, api.CodeUsage)
	_, err = h.Init(ctx, api.InitRequest{})
	wantCode(t, err, api.CodeConflict)
	_, err = h.Action(ctx, "none", "start", api.ActionRequest{})
	wantCode(t, err, api.CodeNotFound)
	_, err = h.Action(ctx, "taken", "dance", api.ActionRequest{})
	wantCode(t, err, api.CodeUsage)
	wantCode(t, h.DropTemplate(ctx, "tiny"), api.CodeConflict)
	all, err := h.Containers(ctx)
	must(t, err)
	if len(all) != 1 {
		t.Errorf("refused requests have left %d containers, want the one", len(all))
	}
}

func TestStartFailure(t *testing.T) {
	l, hosts := newCluster(t, 1)
	e := l.engines["host1"]
	e.set(func(e *fakeEngine) { e.fail = errors.New("no such init") })
	c, err := hosts[0].Create(t.Context(), api.CreateRequest{Template: "tiny", Limits: cluster.Limits{RAM: 64 << 20}, Start: true})
	must(t, err)
	if c.State != cluster.Failed || !strings.Contains(c.Detail, "no such init") {
		t.Errorf("it is %s (%q), want failed and the reason", c.State, c.Detail)
	}
	_, err = hosts[0].Action(t.Context(), c.Name, "start", api.ActionRequest{})
	wantCode(t, err, api.CodeFailed)
	e.set(func(e *fakeEngine) { e.fail = nil })
	_, err = hosts[0].Action(t.Context(), c.Name, "start", api.ActionRequest{})
	must(t, err)
}

func wantCode(t *testing.T, err error, code api.Code) {
	t.Helper()
	if err == nil || api.CodeOf(err) != code {
		t.Errorf("got error %v (code %s), want code %s", err, api.CodeOf(err), code)
	}
}
