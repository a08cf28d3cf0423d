package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestLs(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteContainers: []api.Container{web(), db()}})
	for format, want := range map[string]string{
		"table": `ID   NAME  HOST   STATE    ADDRESS       RAM   CPUS  TEMPLATE
101  web   host2  running  10.77.0.5/16  512M  1.5   debian-12
102  db    host1  stopped  -             2G    -     busybox
`,
		"wide": `ID   NAME  HOST   STATE    ADDRESS       RAM   CPUS  TEMPLATE   GENERATION  MAC                UIDBASE  RESTARTED  MOVABLE  DETAIL
101  web   host2  running  10.77.0.5/16  512M  1.5   debian-12  3           02:76:7a:00:00:65  1048576  0          -        -
102  db    host1  stopped  -             2G    -     busybox    1           -                  0        0          -        -
`,
		"name": "web\ndb\n",
	} {
		if r := f.run("ls", "-o", format); r.code != 0 || r.stdout != want {
			t.Errorf("%s: code %d, %s\n%s\nwant\n%s", format, r.code, r.stderr, r.stdout, want)
		}
	}
	if r := f.run("ls", "-o", "yaml"); !strings.HasPrefix(r.stdout, "- id: 101\n  name: web\n  host: host2\n  generation: 3\n") || !strings.Contains(r.stdout, "    ram: 536870912\n") {
		t.Errorf("yaml:\n%s", r.stdout)
	}
}

func TestLsOfSome(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteContainers: []api.Container{web(), db()}})
	for args, want := range map[string]string{
		"ls -q": "101\n102\n", "ls db -q": "102\n", "ls 101 db -q": "101\n102\n", "ls web -o name": "web\n",
	} {
		if r := f.run(strings.Fields(args)...); r.code != 0 || r.stdout != want {
			t.Errorf("%s: %+v, want %q", args, r, want)
		}
	}
	if r := f.run("ls", "web", "nosuch"); r.code != 3 || r.stdout != "" || !strings.Contains(r.stderr, "there is no container nosuch") {
		t.Errorf("a name that is none: %+v", r)
	}
}

// TestPlainLog also splits the log in the middle of a priority.
func TestPlainLog(t *testing.T) {
	log := "<30>systemd[1]: Hello.\n<6 <7>x\n\n<12>\na <30>b\n<3"
	f := newFake(t, map[string]any{api.RouteLogs: log})
	want := "systemd[1]: Hello.\n<6 <7>x\n\n\na <30>b\n<3"
	if r := f.run("logs", "web"); r.stdout != want {
		t.Errorf("got %q, want %q", r.stdout, want)
	}
	if r := f.run("logs", "web", "--raw"); r.stdout != log {
		t.Errorf("raw: %q", r.stdout)
	}
	var out strings.Builder
	w := &plainLog{to: &out, begins: true}
	for i := range log {
		if n, err := w.Write([]byte(log[i : i+1])); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := w.flush(); err != nil || out.String() != want {
		t.Errorf("byte by byte: %q, %v", out.String(), err)
	}
}

func TestWidth(t *testing.T) {
	op := plan(cluster.OpRunning, "")
	op.Steps[0].Why = strings.Repeat("word ", 40)
	table := planView(op).table()
	if !strings.Contains(table, "…") || strings.Contains(planView(op).cut(false).table(), "…") {
		t.Errorf("not cut:\n%s", table)
	}
	lines := wrap(strings.TrimSpace(op.Steps[0].Why), 50)
	if len(lines) != 4 || len(lines[0]) != 49 || strings.Join(lines, " ") != strings.TrimSpace(op.Steps[0].Why) {
		t.Errorf("wrapped into %q", lines)
	}
	text := templateRecord(cluster.Template{Name: "x", Prepared: []string{op.Steps[0].Why, "short"}}).text
	for line := range strings.Lines(text) {
		if len(line) > lineMost+1 {
			t.Errorf("too long: %s", line)
		}
	}
	if !strings.Contains(text, "\n            word") || !strings.Contains(text, "\n          short\n") {
		t.Errorf("the sentences are not told apart:\n%s", text)
	}
}

// TestJSONFields checks the names that scripts rely on.
func TestJSONFields(t *testing.T) {
	f := newFake(t, map[string]any{
		api.RouteContainers: []api.Container{web()}, api.RouteContainer: web(), api.RouteHosts: hosts(), api.RouteStatus: api.Status{Host: "host1", Joined: true},
		api.RouteTokens: []cluster.Token{{ID: "x"}}, api.RouteTemplates: []cluster.Template{{Name: "x"}}, api.RouteOperations: []cluster.Operation{{ID: "x"}},
	})
	for args, want := range map[string]string{
		"ls":             "id name host state addresses generation",
		"show web":       "id name host state addresses generation",
		"host list":      "name state leader voter capacity reserved alive containers",
		"status":         "host joined leader quorum hosts containers operations",
		"token list":     "id created expires",
		"template list":  "name digest size systemd hosts",
		"operation list": "id kind status",
		"version":        "version go platform",
	} {
		r := f.run(append(strings.Fields(args), "-o", "json")...)
		var list []map[string]any
		text := r.stdout
		if !strings.HasPrefix(text, "[") {
			text = "[" + text + "]"
		}
		if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) == 0 {
			t.Errorf("%s: %v in %s", args, err, r.stdout)
			continue
		}
		for _, field := range strings.Fields(want) {
			if _, ok := list[0][field]; !ok {
				t.Errorf("%s -o json: %s is missing", args, field)
			}
		}
	}
}

func TestEmptyLists(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteContainers: "null", api.RouteHosts: "[]"})
	for _, args := range []string{"ls -o json", "host ls -o json", "ls -o yaml"} {
		if r := f.run(strings.Fields(args)...); r.code != 0 || r.stdout != "[]\n" {
			t.Errorf("%s prints %q, want []", args, r.stdout)
		}
	}
	if r := f.run("ls"); r.stdout != "ID  NAME  HOST  STATE  ADDRESS  RAM  CPUS  TEMPLATE\n" {
		t.Errorf("ls prints %q", r.stdout)
	}
}

func TestStatus(t *testing.T) {
	st := api.Status{Host: "host1", Joined: true, Leader: "host1", Quorum: true, Hosts: hosts(), Containers: []api.Container{web(), db()}}
	st.Operations = []cluster.Operation{{ID: "op7", Kind: cluster.OpMigrate, Status: cluster.OpRunning, Container: 101, From: "host2", To: "host1", Started: at(0)}}
	f := newFake(t, map[string]any{api.RouteStatus: func() any { return st }})
	want := `leader host1, quorum, 2 hosts (1 down), 2 containers (1 running), asked host1

HOST   STATE          ROLE    RAM                    CPUS                 DISK                   CONTAINERS
host1  active         leader  [##........]  2G/8G    [..........]  0/4    [..........]  0/100G   1
host2  down,cordoned  voter   [#.........]  512M/8G  [###.......]  1.5/4  [#.........]  2G/100G  1

ID   NAME  HOST   STATE    ADDRESS       RAM   CPUS  TEMPLATE
101  web   host2  running  10.77.0.5/16  512M  1.5   debian-12
102  db    host1  stopped  -             2G    -     busybox

ID   KIND     STATUS   WHAT                STARTED               TOOK  ERROR
op7  migrate  running  101 host2 -> host1  2026-03-01T12:00:00Z  -     -
`
	if r := f.run("status"); r.stdout != want {
		t.Errorf("status:\n%s\nwant\n%s", r.stdout, want)
	}
	st.Quorum, st.Leader = false, ""
	if r := f.run("status"); !strings.HasPrefix(r.stdout, "no leader, NO QUORUM: nothing can be changed until more hosts are back, ") {
		t.Errorf("without quorum: %s", r.stdout)
	}
	st = api.Status{Host: "host9"}
	if r := f.run("status"); r.stdout != "host9 belongs to no cluster yet: run `vzcluster init` here, or `vzcluster join ADDR --token T`\n" {
		t.Errorf("not joined: %s", r.stdout)
	}
}

func TestHosts(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteHosts: hosts(), api.RouteHostState: hosts()[1]})
	want := `NAME   STATE          ROLE    CONTAINERS  CPUS   RAM      DISK     ADDRESS
host1  active         leader  1           0/4    2G/8G    0/100G   10.0.0.1:7443
host2  down,cordoned  voter   1           1.5/4  512M/8G  2G/100G  10.0.0.2:7443
`
	if r := f.run("host", "list"); r.stdout != want {
		t.Errorf("host list:\n%s\nwant\n%s", r.stdout, want)
	}
	for verb, state := range map[string]string{"cordon": "cordoned", "activate": "active"} {
		r := f.run("host", verb, "host2", "-o", "name")
		if sent := f.last(); r.code != 0 || r.stdout != "host2\n" || sent != `{"state":"`+state+`"}` {
			t.Errorf("%s: %+v, sent %s", verb, r, sent)
		}
	}
}

func TestShowAndSet(t *testing.T) {
	c := web()
	c.LastMove = &cluster.MoveResult{From: "host1", To: "host2", Mode: "live", BlackoutMS: 143.2, TotalMS: 2100, Bytes: 3 << 20}
	f := newFake(t, map[string]any{api.RouteContainer: c, api.RouteSet: web()})
	want := `id          101
name        web
host        host2
state       running
wanted      running
generation  3
template    debian-12
digest      sha256:abc
hostname    web
addresses   10.77.0.5/16
mac         02:76:7a:00:00:65
uid base    1048576
ram         512M
swap        0
cpus        1.5
cpu units   1024
disk        2G
labels      tier=front
created     2026-03-01T12:00:00Z
placed      host2 has the most room
last move   host1 -> host2, live, blackout 143 ms, total 2100 ms, 3M
`
	if r := f.run("show", "web"); r.stdout != want {
		t.Errorf("show:\n%s\nwant\n%s", r.stdout, want)
	}
	noted := web()
	noted.Notes = []string{"its memory was not shrunk"}
	g := newFake(t, map[string]any{api.RouteSet: noted})
	if r := g.run("set", "web", "--ram", "1G"); r.code != 0 || r.stderr != "web: its memory was not shrunk\n" {
		t.Errorf("notes: %+v", r)
	}
	for args, want := range map[string]string{
		"set web --ram 1G":                    `{"ram":1073741824}`,
		"set web --cpus 0 --swap 0":           `{"swap":0,"milli_cpu":0}`,
		"set web --name db --hostname h":      `{"hostname":"h","name":"db"}`,
		"set web --label a=b --label c=":      `{"labels":{"a":"b","c":""}}`,
		"set --cpuunits 5 web --disk 1G":      `{"cpu_units":5,"disk":1073741824}`,
		"set web --cpu-mask none --pids 50":   `{"cpu_mask":"","pids":50}`,
		"set web --net-in 0 --cpu-count 2":    `{"cpu_count":2,"net_in":0}`,
		"set web -H unix://SOCKET --ram 512K": `{"ram":524288}`,
	} {
		args = strings.ReplaceAll(args, "SOCKET", f.socket)
		if r := f.run(strings.Fields(args)...); r.code != 0 || f.last() != want {
			t.Errorf("%s sends %s, want %s (%+v)", args, f.last(), want, r)
		}
	}
}

func TestOperations(t *testing.T) {
	mig := cluster.Operation{ID: "m", Kind: cluster.OpMigrate, Status: cluster.OpDone, Container: 101, From: "host2", To: "host1", Mode: "live", Started: at(0), Ended: at(3), Result: moveResult()}
	drain := plan(cluster.OpFailed, "done", "failed")
	f := newFake(t, map[string]any{api.RouteOperations: []cluster.Operation{mig, drain}, "GET /v1/operations/m": mig, "GET /v1/operations/op9": drain})
	want := `ID   KIND     STATUS  WHAT                STARTED               TOOK  ERROR
m    migrate  done    101 host2 -> host1  2026-03-01T12:00:00Z  3s    -
op9  drain    failed  host2, 2 moves      2026-03-01T12:00:00Z  -     -
`
	if r := f.run("op", "ls"); r.stdout != want {
		t.Errorf("list:\n%s\nwant\n%s", r.stdout, want)
	}
	if r := f.run("operation", "show", "m"); !strings.Contains(r.stdout, "PHASE      TIME\npreflight  12 ms\n") {
		t.Errorf("migration:\n%s", r.stdout)
	}
	if r := f.run("operation", "show", "op9"); !strings.Contains(r.stdout, "2     db         host2  host1  failed  room\n") {
		t.Errorf("drain:\n%s", r.stdout)
	}
}

// Whether a container can be moved live is said before anyone tries.
func TestMovable(t *testing.T) {
	verdict := cluster.NewVerdict([]cluster.Blocker{{Process: "12 dockerd", Unit: "docker.service", What: "it has a BPF program open", Remedy: "stop it"}, {What: "a nfs file system is mounted on /mnt", Remedy: "unmount it"}})
	for want, c := range map[string]cluster.Container{
		"-":   {State: cluster.Stopped, Verdict: &verdict},
		"yes": {State: cluster.Running, Verdict: &cluster.Verdict{}},
		"no: 12 dockerd (docker.service): it has a BPF program open; stop it": {State: cluster.Running, Verdict: &verdict},
	} {
		if got := movable(api.Container{Container: c}); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := obstacles(api.Container{Container: cluster.Container{State: cluster.Running, Verdict: &verdict}}); strings.Count(got, "\n") != 2 || !strings.Contains(got, "/mnt") {
		t.Errorf("show says %q", got)
	}
}
