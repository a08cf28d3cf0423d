package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime/fault"
)

// crashLab is a lab whose agents can be told to do harm, and one container that is moved in it again and again.
type crashLab struct {
	*kit
	id        int
	name      string
	addr      string
	hosts     []string // that it is moved between; empty: all
	client    *counter
	witness   *witness
	clients   map[string]*api.Client
	within    time.Duration            // all must be well again; recovery, unless a slow machine is given longer
	restarted int                      // as of the last case
	usual     map[string]time.Duration // how long a program works, see strike
}

// rest is the pause between two questions of the client: it counts, it does not measure.
const rest = 5 * time.Millisecond

func newCrashLab(t *testing.T, name string, hosts int) *crashLab {
	t.Helper()
	return newCrashLabOf(t, name, hosts, "busybox")
}

// newCrashLabOf makes one whose container is of a template.
func newCrashLabOf(t *testing.T, name string, hosts int, template string) *crashLab {
	t.Helper()
	skipUnlessAble(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	o := shared.options(name+"-", hosts)
	o.Faults = true
	l, err := lab.Up(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	downAfter(t, l)
	c := &crashLab{kit: &kit{t: t, lab: l}, name: "wounded", clients: map[string]*api.Client{}, usual: map[string]time.Duration{}}
	c.within = time.Duration(number(t, "VZCLUSTER_CRASH_WITHIN", int(recovery/time.Second))) * time.Second
	c.explainFailure()
	for _, h := range l.Hosts() {
		if c.clients[h], err = api.NewClient(l.Endpoint(h), nil); err != nil {
			t.Fatal(err)
		}
	}
	ct := c.run(c.name, template)
	c.id, c.addr = ct.ID, address(ct)+":"+port
	c.serve(ct, "witness :"+port+" /var/log")
	if template == debian { // after a restart from disk it goes on by itself
		c.inside(c.name, `printf '[Service]\nExecStart=/bin/traffic witness :`+port+` /var/log\n[Install]\nWantedBy=multi-user.target\n' > /etc/systemd/system/traffic.service; systemctl enable -q traffic`)
	} else {
		c.inside(c.name, `printf '#!/bin/sh\n/bin/traffic witness :`+port+` /var/log </dev/null >/dev/null 2>&1 &\n' > /etc/rc`)
	}
	c.client = c.startCount(c.addr, rest)
	t.Cleanup(func() { c.client.abandon() })
	c.client.goesOn()
	c.witness = c.watch(c.id)
	return c
}

// during runs one case as a test of its own, so that the next ones are played even if it fails.
func (c *crashLab) during(do func()) {
	outer := c.kit
	outer.t.Run("", func(t *testing.T) {
		c.kit = &kit{t: t, lab: outer.lab}
		c.client.k = c.kit
		c.explainFailure()
		do()
	})
	c.kit, c.client.k = outer, outer
}

// patience is how long one question to an agent may take in a crash test.
const patience = 4 * time.Second

// container asks any agent that answers.
func (c *crashLab) container() (ct api.Container, err error) {
	for _, h := range c.lab.Hosts() {
		ctx, cancel := context.WithTimeout(c.t.Context(), patience)
		ct, err = c.clients[h].Container(ctx, c.name)
		cancel()
		if err == nil {
			return ct, nil
		}
	}
	return ct, err
}

// harm is what is done to one host at one point.
type harm struct {
	role    string // source, target or leader
	point   string
	passage int
	action  fault.Action
}

func (h harm) String() string {
	at := h.point
	if h.passage > 1 {
		at += fmt.Sprintf("#%d", h.passage)
	}
	return fmt.Sprintf("%s %s %s", h.role, at, h.action)
}

// cast says which host plays which role in a move.
type cast map[string]string

func (c *crashLab) cast() cast {
	c.t.Helper()
	var ct api.Container
	c.until("its record", c.within, func() (err error) { ct, err = c.container(); return err })
	hosts := c.hosts
	if len(hosts) == 0 {
		hosts = c.lab.Hosts()
	}
	to := slices.IndexFunc(hosts, func(h string) bool { return h != ct.Host })
	c.restarted = ct.Restarted
	return cast{"source": ct.Host, "target": hosts[to], "leader": c.leaderNow()}
}

// leaderNow waits for a leader that all agents agree on.
func (c *crashLab) leaderNow() (name string) {
	c.t.Helper()
	c.until("all agents agree on a leader", c.within, func() error {
		name = ""
		for _, h := range c.lab.Hosts() {
			ctx, cancel := context.WithTimeout(c.t.Context(), patience)
			st, err := c.clients[h].Status(ctx)
			cancel()
			if err != nil {
				return err
			}
			if !st.Quorum || st.Leader == "" || name != "" && st.Leader != name {
				return fmt.Errorf("%s sees %q, another %q", h, st.Leader, name)
			}
			name = st.Leader
		}
		return nil
	})
	return name
}

func (c *crashLab) file(who cast, h harm) string {
	return filepath.Join(c.lab.FaultDir(who[h.role]), h.point)
}

func (c *crashLab) arm(who cast, h harm) {
	c.t.Helper()
	if err := os.WriteFile(c.file(who, h), fmt.Appendf(nil, "%s %d", h.action, max(1, h.passage)), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// reached says whether a harm was done, or in the case of hold, is being waited with.
func (c *crashLab) reached(who cast, h harm) bool {
	_, err := os.Stat(c.file(who, h) + fault.Reached)
	return err == nil
}

// letGo has a host wait at a point no longer, now or when it comes there.
func (c *crashLab) letGo(who cast, h harm) {
	c.t.Helper()
	for _, f := range []string{c.file(who, h), c.file(who, h) + fault.Reached} {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.t.Fatal(err)
		}
	}
}

func (c *crashLab) disarm() {
	for _, h := range c.lab.Hosts() {
		files, _ := filepath.Glob(filepath.Join(c.lab.FaultDir(h), "*"))
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// move begins a move and returns its operation; it may not have begun, or not be known, if the leader was harmed.
func (c *crashLab) move(who cast, mode string) string {
	asked := c.clients[c.other(who["source"], who["target"])]
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	op, err := asked.Migrate(ctx, c.name, api.MigrateRequest{To: who["target"], Mode: mode})
	if err != nil {
		return ""
	}
	return op.ID
}

// ended says whether an operation has ended, as far as an agent knows.
func (c *crashLab) ended(who cast, op string) bool {
	if op == "" {
		return true
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	o, err := c.clients[c.other(who["source"], who["target"])].Operation(ctx, op, 0)
	return err == nil && o.Final()
}

// settles waits for the one outcome that a fault may have, and says what it cost.
func (c *crashLab) settles(what string, calm time.Duration) (outcome string) {
	c.t.Helper()
	var since time.Time // all is well
	var from int64
	var ct api.Container
	c.until(what+": exactly one copy", c.within, func() (err error) {
		ct, err = c.settled()
		return err
	})
	// A client that met silence tries again less and less often, so its next try may come as late again.
	c.until(what+": the copy goes on", 3*c.within, func() (err error) {
		if ct, err = c.settled(); err != nil {
			since = time.Time{}
			return err
		}
		if since.IsZero() {
			since, from = time.Now(), c.client.now().Last
		}
		switch now := c.client.now().Last; {
		case ct.Restarted > c.restarted || c.client.broken():
			return nil
		case time.Since(since) < calm || now <= from:
			return fmt.Errorf("it has been well for %s, the counter went from %d to %d", time.Since(since), from, now)
		}
		return nil
	})
	if ct.Restarted == c.restarted && !c.client.broken() {
		return "goes on"
	}
	return c.newClient(what, ct)
}

// newClient follows a container whose connection was lost: what was answered before must not be answered again, and
// nothing may be missing but the answer that was on its way.
func (c *crashLab) newClient(what string, ct api.Container) string {
	c.t.Helper()
	c.client.abandon()
	last := c.client.now().Last
	c.until(what+": a new connection", c.within, func() error { // after a restart it takes a moment until it listens
		if c.client.broken() {
			c.client = c.startCount(c.addr, rest)
		}
		if c.client.now().Sent == 0 {
			return errors.New("no answer yet")
		}
		return nil
	})
	first := c.client.now().First
	if first != last+1 && first != last+2 {
		c.t.Errorf("%s: the last answer was %d, the first of the next connection %d", what, last, first)
	}
	if ct.Restarted > c.restarted {
		return "restarted"
	}
	return "connection lost"
}

// settled says what is not as it must be.
func (c *crashLab) settled() (api.Container, error) {
	ct, err := c.container()
	if err != nil {
		return ct, err
	}
	if wrong := c.witness.twice(); len(wrong) > 0 {
		c.t.Fatalf("two copies have run: %s", strings.Join(wrong, "; "))
	}
	if copies := c.copies(c.id); len(copies) != 1 || copies[0] != ct.Host {
		return ct, fmt.Errorf("it belongs to %s and runs on %v", ct.Host, copies)
	}
	if ct.State != cluster.Running || ct.Operation != "" {
		return ct, fmt.Errorf("it is %s, operation %q", ct.State, ct.Operation)
	}
	if host, generation := c.witness.latest(); host != ct.Host || generation != ct.Generation {
		return ct, fmt.Errorf("it belongs to %s with generation %d, and signs with %s and %d", ct.Host, ct.Generation, host, generation)
	}
	for _, h := range c.lab.Hosts() {
		if c.init1(h) == 0 {
			return ct, fmt.Errorf("%s is off", h)
		}
		left := c.traces(h, c.id)
		if h == ct.Host {
			left = c.leftMigrations(h)
		}
		if len(left) > 0 {
			return ct, fmt.Errorf("%s, owned by %s, has left on %s: %s", c.name, ct.Host, h, strings.Join(left, ", "))
		}
	}
	if left := (&faulty{kit: c.kit}).strays(); len(left) > 0 {
		return ct, fmt.Errorf("criu still runs, or what it has half restored: %v", left)
	}
	return ct, c.adds()
}

// adds checks that every agent answers and sees that what is reserved is what the container needs.
func (c *crashLab) adds() error {
	for _, asked := range c.lab.Hosts() {
		ctx, cancel := context.WithTimeout(c.t.Context(), patience)
		st, err := c.clients[asked].Status(ctx)
		cancel()
		if err != nil {
			return err
		}
		if !st.Quorum || len(st.Containers) != 1 || len(st.Operations) != 0 {
			return fmt.Errorf("%s sees quorum %t, %d containers, %d operations", asked, st.Quorum, len(st.Containers), len(st.Operations))
		}
		ct := st.Containers[0]
		for _, h := range st.Hosts {
			want := cluster.Resources{}
			if h.Name == ct.Host {
				want = ct.Limits.Resources()
			}
			if h.Reserved != want {
				return fmt.Errorf("%s sees %v reserved on %s, and the container needs %v on %s", asked, h.Reserved, h.Name, ct.Limits.Resources(), ct.Host)
			}
		}
	}
	return nil
}
