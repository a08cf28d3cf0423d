package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// fake is an agent that answers from a map of routes and remembers what it was asked.
type fake struct {
	t       *testing.T
	answers map[string]any // by route; an *api.Error is an error, a func() any is called
	asked   []string       // "POST /v1/init {...}"
	socket  string
}

func newFake(t *testing.T, answers map[string]any) *fake {
	t.Helper()
	f := &fake{t: t, answers: answers, socket: filepath.Join(t.TempDir(), "agent.sock")}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for route, answer := range answers {
		mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) { f.answer(w, r, answer) })
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux}}
	s.Start()
	t.Cleanup(s.Close)
	return f
}

func (f *fake) answer(w http.ResponseWriter, r *http.Request, answer any) {
	if h, ok := answer.(http.HandlerFunc); ok {
		h(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	f.asked = append(f.asked, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
	if next, ok := answer.(func() any); ok {
		answer = next()
	}
	if e, ok := answer.(*api.Error); ok {
		w.WriteHeader(e.Code.HTTP())
	}
	if text, ok := answer.(string); ok {
		_, _ = io.WriteString(w, text)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// last returns the body of the last request.
func (f *fake) last() string {
	if len(f.asked) == 0 {
		return ""
	}
	_, body, _ := strings.Cut(f.asked[len(f.asked)-1], " {")
	return "{" + body
}

// result is what a command line did.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a command line against the fake agent.
func (f *fake) run(args ...string) result {
	f.t.Helper()
	return f.runWith(nil, "", args...)
}

// runWith changes the environment first and gives the command an input.
func (f *fake) runWith(change func(*env), stdin string, args ...string) result {
	f.t.Helper()
	var stdout, stderr bytes.Buffer
	e := testEnv(&stdout, &stderr)
	e.stdin = strings.NewReader(stdin)
	if change != nil {
		change(e)
	}
	f.t.Setenv("VZCLUSTER_HOST", "unix://"+f.socket)
	code := e.run(f.t.Context(), append([]string{"vzcluster"}, args...))
	return result{code, stdout.String(), stderr.String()}
}

func testEnv(stdout, stderr io.Writer) *env {
	return &env{
		stdin: strings.NewReader(""), stdout: stdout, stderr: stderr,
		getenv:   func(string) string { return "" },
		terminal: func(any) bool { return false },
		pause:    func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		labs:     func() []string { return nil },
	}
}

func onTerminal(e *env) { e.terminal = func(any) bool { return true } }

// sequence answers with one value after the other, then always with the last.
func sequence(values ...any) func() any {
	return func() any {
		v := values[0]
		if len(values) > 1 {
			values = values[1:]
		}
		return v
	}
}

func web() api.Container {
	return api.Container{Container: cluster.Container{
		ID: 101, Name: "web", Host: "host2", Generation: 3, Desired: cluster.WantRunning, State: cluster.Running, Template: "debian-12", Digest: "sha256:abc",
		Limits:   cluster.Limits{RAM: 512 << 20, MilliCPU: 1500, CPUUnits: 1024, Disk: 2 << 30},
		Hostname: "web", Addresses: []string{"10.77.0.5/16"}, MAC: "02:76:7a:00:00:65", UIDBase: 1 << 20,
		Labels: map[string]string{"tier": "front"}, Created: at(0), Placement: "host2 has the most room",
	}}
}

func db() api.Container {
	return api.Container{Container: cluster.Container{ID: 102, Name: "db", Host: "host1", Generation: 1, State: cluster.Stopped, Template: "busybox", Limits: cluster.Limits{RAM: 2 << 30}}}
}

func hosts() []api.Host {
	capacity := cluster.Resources{MilliCPU: 4000, RAM: 8 << 30, Disk: 100 << 30}
	return []api.Host{
		{
			Host:   cluster.Host{Name: "host1", Address: "10.0.0.1:7443", Gossip: "10.0.0.1:7946", State: cluster.HostActive, Voter: true, Capacity: capacity},
			Leader: true, Alive: true, Reserved: cluster.Resources{RAM: 2 << 30}, Containers: 1,
		},
		{
			Host:     cluster.Host{Name: "host2", Address: "10.0.0.2:7443", State: cluster.HostCordoned, Voter: true, Capacity: capacity},
			Reserved: cluster.Resources{MilliCPU: 1500, RAM: 512 << 20, Disk: 2 << 30}, Containers: 1,
		},
	}
}

func at(seconds int) time.Time {
	return time.Date(2026, 3, 1, 12, 0, seconds, 0, time.UTC)
}

// execServer runs a session that echoes its input and ends with a code.
func execServer(t *testing.T, code int, got *api.Exec) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		_, first, err := ws.Read(r.Context())
		if err == nil {
			err = json.Unmarshal(first, got)
		}
		for err == nil {
			var msg []byte
			if _, msg, err = ws.Read(r.Context()); err != nil {
				break
			}
			switch msg[0] {
			case api.ExecStdin:
				err = ws.Write(r.Context(), websocket.MessageBinary, append([]byte{api.ExecStdout}, msg[1:]...))
			case api.ExecStdinEnd:
				_ = ws.Write(r.Context(), websocket.MessageBinary, append([]byte{api.ExecStderr}, "bye\n"...))
				exit, _ := json.Marshal(api.ExecExit{Code: code})
				_ = ws.Write(r.Context(), websocket.MessageBinary, append([]byte{api.ExecDone}, exit...))
				_, _, err = ws.Read(r.Context())
			}
		}
	}
}
