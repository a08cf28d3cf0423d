package vzctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// TestTranscripts plays the conversations in testdata against an agent whose containers live in a map: output and exit
// code of every line are what a user of OpenVZ is used to.
func TestTranscripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			a := &fakeAgent{socket: filepath.Join(e.WorkDir, "agent.sock"), containers: map[int]*api.Container{}}
			l, err := net.Listen("unix", a.socket)
			if err != nil {
				return err
			}
			s := &http.Server{Handler: a.routes()}
			go func() { _ = s.Serve(l) }()
			e.Defer(func() { _ = s.Close() })
			e.Values["agent"] = a
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"vzctl": called("vzctl"), "vzlist": called("vzlist"), "vzmigrate": called("vzmigrate"), "code": code,
			"locked": func(ts *testscript.TestScript, neg bool, _ []string) { agentOf(ts).locked = !neg },
		},
	})
}

func agentOf(ts *testscript.TestScript) *fakeAgent { return ts.Value("agent").(*fakeAgent) }

// called returns the command of a transcript that runs a tool.
func called(name string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		a := agentOf(ts)
		env := Env{
			Stdin: strings.NewReader(""), Stdout: ts.Stdout(), Stderr: ts.Stderr(), Version: "1",
			Hash:    func(password string) (string, error) { return fmt.Sprintf("$6$%d", len(password)), nil },
			Connect: func() (*api.Client, error) { return api.NewClient("unix://"+a.socket, nil) },
			Session: func(_ context.Context, _ *api.Client, ct string, x api.Exec) (int, error) {
				return a.session(ts.Stdout(), ct, x)
			},
		}
		a.code = Run(context.Background(), name, args, env)
		if neg != (a.code != 0) {
			ts.Fatalf("%s %s: exit code %d", name, strings.Join(args, " "), a.code)
		}
	}
}

// code compares the last exit code.
func code(ts *testscript.TestScript, _ bool, args []string) {
	if got := strconv.Itoa(agentOf(ts).code); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// fakeAgent is a cluster of two hosts with one template.
type fakeAgent struct {
	socket string
	code   int // of the last command

	mu         sync.Mutex
	locked     bool
	containers map[int]*api.Container
}

func (a *fakeAgent) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(route string, answer func(r *http.Request) any) {
		mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
			a.mu.Lock()
			defer a.mu.Unlock()
			v := answer(r)
			if e, bad := v.(*api.Error); bad {
				w.WriteHeader(e.Code.HTTP())
			}
			_ = json.NewEncoder(w).Encode(v)
		})
	}
	handle(api.RouteTemplates, func(*http.Request) any {
		return []cluster.Template{{Name: "debian-12"}, {Name: "busybox"}}
	})
	handle(api.RouteHosts, func(*http.Request) any {
		return []api.Host{{Host: cluster.Host{Name: "host1", Address: "10.0.0.1:7443"}}, {Host: cluster.Host{Name: "host2", Address: "10.0.0.2:7443"}}}
	})
	handle(api.RouteContainers, func(*http.Request) any {
		cs := []api.Container{}
		for _, c := range a.containers {
			cs = append(cs, *c)
		}
		slices.SortFunc(cs, func(x, y api.Container) int { return x.ID - y.ID })
		return cs
	})
	handle(api.RouteCreate, a.create)
	handle(api.RouteContainer, a.one(func(c *api.Container, _ *http.Request) any { return c }))
	handle(api.RouteSet, a.one(a.set))
	handle(api.RouteAction, a.one(a.act))
	handle(api.RouteInside, a.one(a.inside))
	handle(api.RouteSnapshot, a.one(func(c *api.Container, r *http.Request) any {
		var q api.SnapshotRequest
		_ = json.NewDecoder(r.Body).Decode(&q)
		c.Snapshots = append(c.Snapshots, cluster.Snapshot{Name: q.Name, Text: q.Text, Memory: q.Memory, Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)})
		return c
	}))
	handle(api.RouteSwitch, a.one(func(c *api.Container, _ *http.Request) any { return c }))
	handle(api.RouteSnapshotDrop, a.one(func(c *api.Container, r *http.Request) any {
		c.Snapshots = slices.DeleteFunc(c.Snapshots, func(s cluster.Snapshot) bool { return s.Name == r.PathValue("name") })
		return c
	}))
	handle(api.RouteMigrate, a.one(a.migrate))
	return mux
}

func (a *fakeAgent) one(do func(c *api.Container, r *http.Request) any) func(r *http.Request) any {
	return func(r *http.Request) any {
		word := r.PathValue("ct")
		for _, c := range a.containers {
			if c.Name == word || strconv.Itoa(c.ID) == word {
				if a.locked && r.Method != http.MethodGet {
					return api.Errorf(api.CodeLocked, "", "the migration m-1 of %s is under way", c.Name)
				}
				return do(c, r)
			}
		}
		return api.Errorf(api.CodeNotFound, "", "there is no container %s", word)
	}
}

func (a *fakeAgent) create(r *http.Request) any {
	var q api.CreateRequest
	_ = json.NewDecoder(r.Body).Decode(&q)
	if q.Limits.RAM > 1<<40 {
		return api.Errorf(api.CodeNoFit, "", "no host can take it: memory: needs %s", cluster.Bytes(q.Limits.RAM))
	}
	if strings.HasPrefix(q.IP, "192.") {
		return api.Errorf(api.CodeUsage, "", "%s is not among the containers' addresses", q.IP)
	}
	if q.Name == "" {
		q.Name = fmt.Sprintf("ct%d", q.ID)
	}
	if q.Hostname == "" {
		q.Hostname = q.Name
	}
	c := &api.Container{Container: cluster.Container{
		ID: q.ID, Name: q.Name, Hostname: q.Hostname, Host: "host1", Template: q.Template, Limits: q.Limits, State: cluster.Stopped, Placement: "host1 has the most room",
	}}
	if q.IP != "none" {
		c.Addresses = []string{q.IP + "/24"}
	}
	a.containers[q.ID] = c
	return c
}

func (a *fakeAgent) set(c *api.Container, r *http.Request) any {
	var q api.SetRequest
	_ = json.NewDecoder(r.Body).Decode(&q)
	c.Limits = q.LimitsOver(c.Limits)
	for _, ip := range q.IPAdd {
		if strings.HasPrefix(ip, "192.") {
			return api.Errorf(api.CodeUsage, "", "%s is not among the containers' addresses", ip)
		}
	}
	if q.OnBoot != nil {
		c.OnBoot = *q.OnBoot
	}
	if q.BootOrder != nil {
		c.BootOrder = *q.BootOrder
	}
	if q.Text != nil {
		c.Text = *q.Text
	}
	if q.Hostname != nil {
		c.Hostname = *q.Hostname
	}
	for _, ns := range q.NameServers {
		if ns == "ns" {
			return api.Errorf(api.CodeUsage, "", "%q is no address of a name server", ns)
		}
	}
	if q.NameServers != nil {
		c.NameServers = q.NameServers
	}
	for _, n := range q.NICAdd {
		if n.Network == "none-such" {
			return api.Errorf(api.CodeNotFound, "", "there is no network %q", n.Network)
		}
	}
	c.NICs = append(c.NICs, q.NICAdd...)
	c.NICs = slices.DeleteFunc(c.NICs, func(n cluster.NIC) bool { return slices.Contains(q.NICDel, n.Name) })
	if q.Name != nil {
		for _, o := range a.containers {
			if o.Name == *q.Name {
				return api.Errorf(api.CodeConflict, "", "the name %s is that of %s", *q.Name, o.Ref())
			}
		}
		c.Name = *q.Name
	}
	return c
}

// inside knows the user root only, and takes hashes only.
func (a *fakeAgent) inside(_ *api.Container, r *http.Request) any {
	var q api.InsideRequest
	_ = json.NewDecoder(r.Body).Decode(&q)
	for user, hash := range q.Passwords {
		if user != "root" || !strings.HasPrefix(hash, "$6$") {
			return api.Errorf(api.CodeFailed, "", "there is no user %q in the container", user)
		}
	}
	return struct{}{}
}

func (a *fakeAgent) act(c *api.Container, r *http.Request) any {
	switch r.PathValue("action") {
	case "suspend":
		c.State = cluster.Suspended
	case "start", "resume":
		c.State = cluster.Running
	case "stop":
		if c.Name == "stubborn" {
			return api.Errorf(api.CodeTimeout, "", "it is still stopping")
		}
		c.State = cluster.Stopped
	case "destroy":
		delete(a.containers, c.ID)
	}
	return c
}

func (a *fakeAgent) migrate(c *api.Container, r *http.Request) any {
	var q api.MigrateRequest
	_ = json.NewDecoder(r.Body).Decode(&q)
	if q.CheckOnly {
		return api.Verdict{Blockers: []api.Blocker{{Process: "fuse (12)", What: "a FUSE mount", Remedy: "unmount /mnt"}}}
	}
	op := cluster.Operation{ID: "m-1", Status: cluster.OpDone, From: c.Host, To: q.To, Mode: q.Mode, Result: &cluster.MoveResult{
		BlackoutMS: 420, Phases: []cluster.Phase{{Name: "dump", MS: 100}},
	}}
	if c.Name == "fuse" && q.Mode == cluster.ModeLive {
		op.Status, op.Refused, op.Error = cluster.OpAborted, true, "process fuse (12) has a FUSE mount"
		return op
	}
	c.Host = q.To
	return op
}

// session is a command in a container: it prints what it was given, and `exit N` at its end is its code.
func (a *fakeAgent) session(stdout io.Writer, ct string, x api.Exec) (int, error) {
	last := x.Args[len(x.Args)-1]
	fmt.Fprintf(stdout, "%s> %s\n", ct, last)
	if _, n, ok := strings.Cut(last, "exit "); ok {
		return strconv.Atoi(strings.TrimSpace(n))
	}
	return 0, nil
}
