package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
)

// workloads is the template with the programs that are moved.
const workloads = "workloads"

// workload is something that runs in a container and must not notice that it is moved.
type workload struct {
	name  string
	start func(k *kit, c api.Container) check
}

// check finds out whether a workload goes on as if nothing had happened.
type check struct {
	goesOn func() // after a move
	end    func() // after the last one; what was begun must come to its end
}

// all of them run in one container and are moved together.
var all = []workload{
	{"objects", startObjects},
	{"redis", startRedis},
	{"postgres", startPostgres},
	{"nginx", startNginx},
	{"download", startDownload},
	{"go", startGo},
	{"udp", startUDP},
	{"python", startPython},
	{"timers", startTimers},
	{"ssh", startSSH},
}

// TestWorkloads moves programs that people run, under load, there and back again, and once while the minute ends, so
// that cron's and systemd's timers fall due while the container stands still. VZCLUSTER_E2E_ROUNDS is how often
// (default 1), VZCLUSTER_E2E_WORKLOADS names which (default all).
func TestWorkloads(t *testing.T) {
	k := sharedLab(t)
	k.buildWorkloads()
	c := k.run("workloads", workloads, "--ram", "1G", "--cpus", "2")
	k.isRunning(c.Name)
	var running []check
	for _, w := range all {
		if only := os.Getenv("VZCLUSTER_E2E_WORKLOADS"); only == "" || slices.Contains(strings.Split(only, ","), w.name) {
			running = append(running, w.start(k, c))
		}
	}
	move := func(args ...string) {
		r := k.migrate(c.Name, args...)
		t.Logf("%s -> %s: blackout %.0f ms, total %.0f ms, %d MiB", r.From, r.To, r.BlackoutMS, r.TotalMS, r.Bytes>>20)
		for _, w := range running {
			w.goesOn()
		}
	}
	there := k.other(c.Host)
	for range setting(t, "VZCLUSTER_E2E_ROUNDS", 1) {
		move(there)
		move(c.Host)
	}
	before := k.show(c.Name).LastMove
	silent := before.TotalMS - before.BlackoutMS // roughly: the freeze is near the end of a migration
	<-time.After(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute - time.Duration(silent+before.BlackoutMS/2)*time.Millisecond)))
	move(there)
	for _, w := range running {
		w.end()
	}
	k.isRunning(c.Name)
}

// setting is a number of the environment.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// buildWorkloads sees to it that the cluster has the template. Building it takes minutes once; then it is cached.
func (k *kit) buildWorkloads() {
	k.t.Helper()
	if r := k.try("template", "show", workloads); r.code == 0 {
		return
	}
	cmd := k.command(k.t.Context(), "host1", "template", "build", workloads, "--suite", debian, "--include", "cron,nginx,postgresql,python3,redis-server")
	if out, err := cmd.CombinedOutput(); err != nil {
		k.t.Fatalf("build the template: %v: %s", err, out)
	}
}

// TestManyConnections moves a server with many established connections: none is reset, and all go on.
// VZCLUSTER_E2E_CONNECTIONS is how many (default 250).
func TestManyConnections(t *testing.T) {
	k := sharedLab(t)
	c := k.run("many", "busybox")
	k.serveCounter(c)
	n := setting(t, "VZCLUSTER_E2E_CONNECTIONS", 250)
	client := k.client(shared.traffic, "count", address(c)+":"+port, "0s", fmt.Sprint(n))
	for range 2 {
		r := k.migrate(c.Name)
		t.Logf("blackout with %d connections: %.0f ms", n, r.BlackoutMS)
		from := client.now().Last
		k.until("every connection goes on", recovery, func() error {
			if client.broken() {
				t.Fatalf("the client has ended: %s", client.errs.String())
			}
			if now := client.now().Last; now < from+2*int64(n) {
				return fmt.Errorf("%d answers since the move", now-from)
			}
			return nil
		})
	}
	client.stop()
}
