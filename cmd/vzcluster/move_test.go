package main

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func moveResult() *cluster.MoveResult {
	return &cluster.MoveResult{
		From: "host2", To: "host1", Mode: "live", BlackoutMS: 143.25, TotalMS: 2100, Bytes: 3 << 20,
		Phases: []cluster.Phase{{Name: "preflight", MS: 12}, {Name: "dump", MS: 80.5}},
	}
}

func TestMigrate(t *testing.T) {
	op := cluster.Operation{ID: "op1", Kind: cluster.OpMigrate, Status: cluster.OpRunning, Container: 101, From: "host2", To: "host1", Mode: "live", Started: at(0)}
	committed, done := op, op
	committed.Status, done.Status, done.Result = cluster.OpCommitted, cluster.OpDone, moveResult()
	f := newFake(t, map[string]any{api.RouteMigrate: op, api.RouteOperation: sequence(op, committed, done)})
	want := result{0, "web: host2 -> host1, longest silence 143 ms, 2.1 s in all, 3M sent\n", ""}
	if r := f.run("migrate", "web", "host1"); r != want {
		t.Errorf("got\n%+v\nwant\n%+v", r, want)
	}
	if f.asked[0] != `POST /v1/containers/web/migrate {"to":"host1","mode":"live"}` || f.asked[1] != "GET /v1/operations/op1?progress=1&wait=0.25" {
		t.Errorf("asked %v", f.asked)
	}
}

func TestMigrateWide(t *testing.T) {
	op := cluster.Operation{ID: "op1", Kind: cluster.OpMigrate, Status: cluster.OpRunning, From: "host2", To: "host1", Mode: "live"}
	done := op
	done.Status, done.Result = cluster.OpDone, moveResult()
	f := newFake(t, map[string]any{api.RouteMigrate: op, api.RouteOperation: done})
	want := result{0, `FROM   TO     MODE  BLACKOUT  TOTAL    BYTES
host2  host1  live  143 ms    2100 ms  3M

PHASE      TIME
preflight  12 ms
dump       80 ms
`, ""}
	if r := f.run("migrate", "web", "-o", "wide"); r != want {
		t.Errorf("got\n%+v\nwant\n%+v", r, want)
	}
}

// watched is a migration whose stages are seen one after the other.
func watched() (begun cluster.Operation, seen func() any) {
	begun = cluster.Operation{ID: "op1", Kind: cluster.OpMigrate, Status: cluster.OpRunning, Container: 101, From: "host2", To: "host1", Mode: "live", Started: at(0)}
	done := begun
	done.Status, done.Result, done.Ended = cluster.OpDone, moveResult(), at(2)
	stages := []cluster.Stage{{Name: "copying the layer", Bytes: 120 << 20, Of: 480 << 20}, {Name: "copying the memory, round 2", Bytes: 5}, {Name: "frozen, the rest is sent"}, {Name: "on host1, clearing up"}}
	upTo := func(n int) *cluster.Progress { return &cluster.Progress{Stages: stages[:n]} }
	return begun, sequence(api.Operation{Operation: begun}, api.Operation{Operation: begun, Progress: upTo(1)}, api.Operation{Operation: begun, Progress: upTo(1)},
		api.Operation{Operation: begun, Progress: upTo(2)}, api.Operation{Operation: done, Progress: upTo(4)})
}

// Progress is a line per stage, or on a terminal one line that is rewritten and gone in the end. Programs see none of it.
func TestMigrateShowsItsProgress(t *testing.T) {
	moved := "web: host2 -> host1, longest silence 143 ms, 2.1 s in all, 3M sent\n"
	for _, tt := range []struct {
		name, stdout, stderr string
		env                  func(*env)
		args                 []string
	}{
		{"pipe", moved, "web: host2 -> host1, copying the layer\nweb: host2 -> host1, copying the memory, round 2\nweb: host2 -> host1, frozen, the rest is sent\nweb: host2 -> host1, on host1, clearing up\n", nil, nil},
		{"terminal", moved, "\rweb: host2 -> host1, copying the layer, 120 MiB of 480 MiB\x1b[K\rweb: host2 -> host1, copying the memory, round 2, 1 MiB\x1b[K\r\x1b[K", onTerminal, nil},
		{"program", "host1\n", "", onTerminal, []string{"-o", "name"}},
	} {
		begun, seen := watched()
		f := newFake(t, map[string]any{api.RouteMigrate: begun, api.RouteOperation: seen})
		r := f.runWith(tt.env, "", append([]string{"migrate", "web"}, tt.args...)...)
		if tt.name == "program" {
			r.stdout = tt.stdout // whatever it is
		}
		if r != (result{0, tt.stdout, tt.stderr}) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", tt.name, r, result{0, tt.stdout, tt.stderr})
		}
	}
}

func TestWatch(t *testing.T) {
	begun, seen := watched()
	f := newFake(t, map[string]any{api.RouteOperation: sequence(begun, seen(), seen(), seen(), seen(), seen())})
	r := f.run("operation", "watch", "op1")
	if r.code != 0 || strings.Count(r.stderr, "101: host2 -> host1, ") != 4 || !strings.Contains(r.stdout, "done") {
		t.Errorf("%+v", r)
	}
	ct := web()
	ct.State, ct.Progress = cluster.Migrating, &cluster.Progress{Stages: []cluster.Stage{{Name: "copying the layer", Bytes: 1 << 20, Of: 4 << 20}}}
	f = newFake(t, map[string]any{api.RouteContainers: []api.Container{ct}, api.RouteOperation: api.Operation{Operation: begun, Progress: ct.Progress}})
	for _, args := range [][]string{{"ls"}, {"operation", "show", "op1"}} {
		if r := f.run(args...); !strings.Contains(r.stdout, "copying the layer, 1 MiB of 4 MiB") {
			t.Errorf("%v shows %+v", args, r)
		}
	}
}

func TestMigrateStopped(t *testing.T) {
	done := cluster.Operation{ID: "op1", Status: cluster.OpDone, From: "host1", To: "host2", Mode: "offline", Result: moveResult()}
	done.Result.To, done.Result.BlackoutMS = "host2", 0
	f := newFake(t, map[string]any{api.RouteMigrate: done})
	if r := f.run("migrate", "bx"); r != (result{0, "bx is on host2 now (it is stopped)\n", ""}) {
		t.Errorf("%+v", r)
	}
}

func TestMigrateJSON(t *testing.T) {
	done := cluster.Operation{ID: "op1", Status: cluster.OpDone, From: "host2", To: "host1", Mode: "offline", Result: moveResult()}
	f := newFake(t, map[string]any{api.RouteMigrate: done})
	fields := func(text string) []string {
		var m map[string]any
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Errorf("%v in %s", err, text)
		}
		return slices.Sorted(maps.Keys(m))
	}
	r := f.run("migrate", "web", "--offline", "-o", "json")
	if want := []string{"blackout_ms", "bytes", "from", "mode", "phases", "to", "total_ms"}; !slices.Equal(fields(r.stdout), want) {
		t.Errorf("fields %v, want %v", fields(r.stdout), want)
	}
	if f.last() != `{"mode":"offline"}` {
		t.Errorf("sent %s", f.last())
	}
	done.Result.Restarted, done.Result.Phases = true, nil
	f = newFake(t, map[string]any{api.RouteMigrate: done})
	r = f.run("migrate", "web", "-o", "json")
	if !strings.Contains(r.stdout, `"restarted": true`) || !strings.Contains(r.stdout, `"phases": []`) || !strings.Contains(r.stderr, "lost its memory to a fault") {
		t.Errorf("restarted: %+v", r)
	}
}

func TestMigrateFails(t *testing.T) {
	aborted := cluster.Operation{ID: "op1", Status: cluster.OpAborted, From: "host2", To: "host1", Error: "criu was killed"}
	f := newFake(t, map[string]any{api.RouteMigrate: aborted})
	if r := f.run("migrate", "web"); r.code != 1 || r.stdout != "" || !strings.Contains(r.stderr, "the migration of web was undone, it is still on host2: criu was killed") {
		t.Errorf("aborted: %+v", r)
	}
	running := aborted
	running.Status = cluster.OpRunning
	f = newFake(t, map[string]any{api.RouteMigrate: running, api.RouteOperation: api.Errorf(api.CodeNoQuorum, "", "there is no leader")})
	if r := f.run("migrate", "web"); r.code != 5 || !strings.Contains(r.stderr, "it goes on without being watched; `vzcluster operation show op1`") {
		t.Errorf("lost sight: %+v", r)
	}
}

func TestMigrateCheck(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteMigrate: sequence(api.Verdict{OK: true, To: "host1"}, api.Verdict{Blockers: []api.Blocker{{Process: "1234 dockerd", What: "it mounts", Remedy: "stop it"}}})})
	if r := f.run("migrate", "web", "--check-only"); r.code != 0 || r.stdout != "web can be moved live to host1\n" {
		t.Errorf("can: %+v", r)
	}
	if f.last() != `{"mode":"live","check_only":true}` {
		t.Errorf("sent %s", f.last())
	}
	r := f.run("migrate", "web", "--check-only")
	if r.code != 7 || r.stdout != "process 1234 dockerd: mounts; stop it\n" || r.stderr != "vzcluster: web cannot be moved live: 1 blocker\n" {
		t.Errorf("cannot: %+v", r)
	}
	r = f.run("migrate", "web", "--check-only", "-o", "wide")
	if r.code != 7 || r.stdout != "PROCESS       UNIT  BLOCKER    REMEDY\n1234 dockerd  -     it mounts  stop it\n" {
		t.Errorf("wide: %+v", r)
	}
	exec := api.Blocker{Process: "5 sleep", Unit: "x.service", What: "it was started from outside by exec and would be lost", Remedy: "end that session first"}
	if got := blockerText(exec); got != "process 5 sleep (x.service): started from outside by exec and would be lost; end that session first\n" {
		t.Errorf("exec: %q", got)
	}
	if got := blockerText(api.Blocker{What: "a fuse file system is mounted on /x", Remedy: "unmount it"}); got != "a fuse file system is mounted on /x; unmount it\n" {
		t.Errorf("mount: %q", got)
	}
}

func plan(status cluster.OperationStatus, steps ...string) cluster.Operation {
	op := cluster.Operation{ID: "op9", Kind: cluster.OpDrain, Host: "host2", Status: status, Started: at(0)}
	for i, s := range steps {
		m := cluster.Move{Container: 101 + i, Name: []string{"web", "db"}[i], From: "host2", To: "host1", Why: "room", Status: s}
		if s == "done" {
			m.Operation = "mig"
		}
		op.Steps = append(op.Steps, m)
	}
	return op
}

func TestDrain(t *testing.T) {
	answers := func() map[string]any {
		return map[string]any{
			api.RouteContainers:      []api.Container{web()}, // which the plan moves
			api.RouteDrain:           sequence(plan(cluster.OpRunning, "", ""), plan(cluster.OpRunning, "running", "")),
			"GET /v1/operations/op9": sequence(plan(cluster.OpRunning, "done", "running"), plan(cluster.OpDone, "done", "done")),
			"GET /v1/operations/mig": cluster.Operation{ID: "mig", Status: cluster.OpDone, Result: moveResult()},
		}
	}
	f := newFake(t, answers())
	r := f.run("host", "drain", "host2")
	want := `STEP  CONTAINER  FROM   TO     STATUS  WHY
1     web        host2  host1  -       room
2     db         host2  host1  -       room
[1/2] web: host2 -> host1: running
[1/2] web: host2 -> host1: done, blackout 143 ms
[2/2] db: host2 -> host1: running
[2/2] db: host2 -> host1: done, blackout 143 ms
`
	if r.code != 0 || r.stderr != want || !strings.Contains(r.stdout, "1     web        host2  host1  done") {
		t.Errorf("got %d\n%s%s\nwant\n%s", r.code, r.stdout, r.stderr, want)
	}
	if f.asked[0] != `POST /v1/hosts/host2/drain {"dry_run":true,"parallel":2}` || f.asked[2] != `POST /v1/hosts/host2/drain {"dry_run":false,"parallel":2}` {
		t.Errorf("asked %v", f.asked)
	}
	f = newFake(t, answers())
	if r := f.runWith(onTerminal, "n\n", "host", "drain", "host2"); r.code != 1 || len(f.asked) != 2 || !strings.Contains(r.stderr, "carry out 2 moves? [y/N]") {
		t.Errorf("refused: %+v after %v", r, f.asked)
	}
	f = newFake(t, answers())
	if r := f.runWith(onTerminal, "", "host", "drain", "-y", "host2"); r.code != 0 || strings.Contains(r.stderr, "?") {
		t.Errorf("-y: %+v", r)
	}
	f = newFake(t, answers())
	if r := f.run("host", "drain", "host2", "--dry-run", "-o", "name"); r.code != 0 || r.stdout != "web\ndb\n" || len(f.asked) != 2 {
		t.Errorf("dry run: %+v after %v", r, f.asked)
	}
}

func TestImpossibleDrain(t *testing.T) {
	refused := cluster.Operation{Kind: cluster.OpDrain, Host: "host2", Status: cluster.OpDone, Error: "host2 cannot be emptied: 2 containers must stay: web: no room; big: no room"}
	stays := []api.Container{web(), db(), web()}
	stays[2].ID, stays[2].Name = 103, "big"
	f := newFake(t, map[string]any{api.RouteDrain: refused, api.RouteContainers: stays})
	want := "vzcluster: host2 cannot be emptied: 2 containers must stay: web: no room; big: no room\n"
	for _, args := range []string{"host drain host2", "host drain host2 -y", "host drain host2 --dry-run"} {
		f.asked = nil
		if r := f.run(strings.Fields(args)...); r != (result{4, "", want}) || len(f.asked) != 2 {
			t.Errorf("%s: %+v after %v, want %s", args, r, f.asked, want)
		}
	}
	if r := f.run("host", "drain", "host2", "--dry-run", "-o", "json"); r.code != 4 || !strings.HasPrefix(r.stdout, "{") {
		t.Errorf("json: %+v", r)
	}
}

func TestConsolidate(t *testing.T) {
	nothing := cluster.Operation{Kind: cluster.OpConsolidate, Error: "no host can be freed: none has containers"}
	f := newFake(t, map[string]any{api.RouteConsolidate: func() any { return nothing }})
	if r := f.runWith(onTerminal, "", "consolidate", "--max", "2"); r != (result{0, "no host can be freed: none has containers\n", ""}) {
		t.Errorf("nothing to do: %+v", r)
	}
	if f.last() != `{"dry_run":false,"max":2,"parallel":2}` {
		t.Errorf("sent %s", f.last())
	}
	failed := plan(cluster.OpFailed, "done", "failed")
	failed.Error = "db cannot be moved"
	f = newFake(t, map[string]any{api.RouteConsolidate: sequence(plan(cluster.OpRunning, "", ""), failed), api.RouteOperation: api.Errorf(api.CodeNotFound, "", "gone")})
	if r := f.run("consolidate"); r.code != 1 || !strings.Contains(r.stderr, "consolidation has failed: db cannot be moved") || !strings.Contains(r.stdout, "failed") {
		t.Errorf("failed: %+v", r)
	}
}
