package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// faulty is a container that is moved while something is killed.
type faulty struct {
	*kit
	id     int
	name   string
	client *counter
	addr   string
	// A CRIU that dies in a dump leaves sockets in a state in which a process that uses them at once loses its connection;
	// then the memory must live on all the same.
	fragile bool
}

func (k *kit) runFaulty(name string) *faulty {
	k.t.Helper()
	c := k.run(name, "busybox")
	k.serve(c, "serve :"+port+" /var/log/counter")
	f := &faulty{kit: k, id: c.ID, name: name, addr: address(c) + ":" + port}
	f.client = k.count(f.addr)
	return f
}

// wound begins a migration, does harm to it, and waits until all is well again.
func (f *faulty) wound(what string, harm func(source, target string, ended <-chan struct{})) {
	f.t.Helper()
	before := f.show(f.name)
	to := f.other(before.Host)
	asked := f.other(before.Host, to) // its agent may be killed too, and what it answers does not matter
	cmd := f.command(f.t.Context(), asked, "migrate", f.name, to)
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	harm(before.Host, to, ended)
	hurt := time.Now()
	f.settles(what, before.Restarted)
	f.t.Logf("%s: well after %.1f s", what, time.Since(hurt).Seconds())
	select {
	case <-ended:
	case <-time.After(recovery):
		f.t.Errorf("%s: the command line does not end", what)
		_ = cmd.Process.Kill()
		<-ended
	}
}

// settles waits for the one outcome that a fault may have: exactly one running copy, where the cluster says, that goes
// on or is reported as restarted, and nothing of it anywhere else.
func (f *faulty) settles(what string, restarted int) {
	f.t.Helper()
	var calm time.Time // since then all is well
	var from int64
	f.until(what+": exactly one copy", recovery, func() error {
		if err := f.settled(); err != nil {
			calm = time.Time{}
			return err
		}
		if f.show(f.name).Restarted > restarted {
			return nil
		}
		if calm.IsZero() {
			calm, from = time.Now(), f.client.now().Last
		}
		switch well, now := time.Since(calm), f.client.now().Last; {
		case f.client.broken() && f.fragile && well > 3*aftermath:
			return nil
		case f.client.broken():
			return errors.New("the connection is broken, and no restart is reported")
		case well < aftermath || now <= from:
			return fmt.Errorf("it has been well for %s, the counter went from %d to %d", well, from, now)
		}
		return nil
	})
	switch c := f.show(f.name); {
	case c.Restarted > restarted:
		f.t.Logf("%s: %s", what, c.Detail)
		f.serveCounter(c)
		f.client.abandon()
		f.client = f.count(f.addr)
	case f.client.broken():
		last := f.client.now().Last
		f.client.abandon()
		f.client = f.count(f.addr)
		first := f.client.now().First
		f.t.Logf("%s: the connection was lost after %d, the next one begins with %d", what, last, first)
		if first != last+1 && first != last+2 { // the answer to one may have been on its way
			f.t.Errorf("%s: the memory was lost too", what)
		}
	}
}

// aftermath is how long a container must be well until it is believed: what a killed criu has left in a process may
// end it a little later.
const aftermath = time.Second

// settled says what is not as it must be.
func (f *faulty) settled() error {
	r := f.at(f.other(), nil, "show", f.name, "-o", "json")
	var c api.Container
	if err := json.Unmarshal([]byte(r.stdout), &c); err != nil || r.code != 0 {
		return fmt.Errorf("it cannot be asked for: %v", r)
	}
	if copies := f.copies(f.id); len(copies) != 1 || copies[0] != c.Host {
		return fmt.Errorf("it belongs to %s and runs on %v", c.Host, copies)
	}
	if c.State != cluster.Running || c.Operation != "" {
		return fmt.Errorf("it is %s, operation %q", c.State, c.Operation)
	}
	for _, h := range f.lab.Hosts() {
		left := f.traces(h, f.id)
		if h == c.Host {
			left = f.leftMigrations(h)
		}
		if len(left) > 0 {
			return fmt.Errorf("%s, owned by %s, has left on %s: %s", f.name, c.Host, h, strings.Join(left, ", "))
		}
	}
	if left := f.strays(); len(left) > 0 {
		return fmt.Errorf("criu still runs, or what it has half restored: %v", left)
	}
	return f.reservationsAddUp()
}

// strays returns the processes of the lab that are criu, or something half restored that still has its name.
func (f *faulty) strays() (pids []string) {
	f.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, path := range all {
		if name, err := os.ReadFile(path); err != nil || string(name) != "criu\n" {
			continue
		}
		dir := filepath.Dir(path)
		if groups, err := os.ReadFile(filepath.Join(dir, "cgroup")); err == nil && strings.Contains(string(groups), "/vzlab-"+f.lab.Name()+"/") {
			pids = append(pids, filepath.Base(dir))
		}
	}
	return pids
}

// rounds is how often each fault is tried, at another moment each time.
const rounds = 3

// seedOf returns where the moments and the order of a test's faults come from, and prints it.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := shared.seed
	if text := os.Getenv("VZCLUSTER_E2E_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("VZCLUSTER_E2E_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("VZCLUSTER_E2E_SEED=%d", seed)
	return seed
}

// moments makes the moments of a test's faults.
func moments(t *testing.T) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(seedOf(t), 0))
}

// usual is how long a migration takes here without a fault.
func (f *faulty) usual() time.Duration {
	return time.Duration(f.migrate(f.name).TotalMS * float64(time.Millisecond))
}

func TestAgentsAreKilledDuringMigration(t *testing.T) {
	k := ownLab(t, "kill", 3)
	f, random := k.runFaulty("wounded"), moments(t)
	usual := f.usual()
	for round := range rounds {
		for _, victim := range []string{"source", "target", "leader", "both"} {
			after := time.Duration(random.Int64N(int64(usual)))
			what := fmt.Sprintf("round %d, %s killed after %s of usually %s", round, victim, after.Round(time.Millisecond), usual.Round(time.Millisecond))
			leader := k.leader()
			f.wound(what, func(source, target string, _ <-chan struct{}) {
				victims := map[string][]string{"source": {source}, "target": {target}, "leader": {leader}, "both": {source, target}}[victim]
				<-time.After(after)
				for _, h := range victims {
					if err := k.lab.Kill(t.Context(), h, false); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
	f.client.stop()
}

func TestCriuIsKilledDuringMigration(t *testing.T) {
	k := ownLab(t, "criu", 3)
	f, random := k.runFaulty("wounded"), moments(t)
	f.usual()
	for round := range rounds {
		for _, side := range []string{"source", "target"} {
			after := time.Duration(random.Int64N(int64(80 * time.Millisecond)))
			what := fmt.Sprintf("round %d, criu of the %s killed %s after its start", round, side, after.Round(time.Millisecond))
			f.fragile = side == "source"
			f.wound(what, func(source, target string, ended <-chan struct{}) {
				host := map[string]string{"source": source, "target": target}[side]
				if n := k.killCriu(host, after, ended); n == 0 {
					t.Logf("%s: there was none any more", what)
				}
			})
		}
	}
	f.client.stop()
}

// killCriu waits until a host's criu works on a container, and a while more, and kills it.
func (k *kit) killCriu(host string, after time.Duration, ended <-chan struct{}) (killed int) {
	for len(k.working(host, "criu", true)) == 0 {
		select {
		case <-ended:
			return 0
		case <-time.After(time.Millisecond):
		}
	}
	<-time.After(after)
	for _, pid := range k.working(host, "criu", true) {
		if unix.Kill(pid, unix.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}
