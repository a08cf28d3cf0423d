package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// serve answers on a unix socket and returns a client of it.
func serve(t *testing.T, h http.Handler) *api.Client {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	c, err := api.NewClient("unix://"+sock, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestEveryRoute calls every method and checks what it sends.
func TestEveryRoute(t *testing.T) {
	ctx := t.Context()
	var got string
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.URL.RequestURI() + " " + string(body)
		switch r.URL.Path {
		case "/v1/tokens", "/v1/hosts", "/v1/templates", "/v1/operations", "/v1/doctor", "/v1/containers":
			if r.Method == http.MethodGet {
				_, _ = io.WriteString(w, "[]")
				return
			}
		}
		_, _ = io.WriteString(w, "{}")
	}))
	for _, call := range []struct {
		want string
		do   func() error
	}{
		{"GET /v1/status ", func() error { _, err := c.Status(ctx); return err }},
		{`POST /v1/init {"pool":"10.0.0.0/24","pool_first":"","pool_last":"","gateway":""}`, func() error {
			_, err := c.Init(ctx, api.InitRequest{Pool: "10.0.0.0/24"})
			return err
		}},
		{`POST /v1/join-cluster {"address":"a:1","token":"T"}`, func() error {
			_, err := c.Join(ctx, api.JoinRequest{Address: "a:1", Token: "T"})
			return err
		}},
		{"GET /v1/tokens ", func() error { _, err := c.Tokens(ctx); return err }},
		{`POST /v1/tokens {"ttl":1000000000}`, func() error { _, err := c.CreateToken(ctx, time.Second); return err }},
		{"DELETE /v1/tokens/abc ", func() error { return c.RevokeToken(ctx, "abc") }},
		{"GET /v1/hosts ", func() error { _, err := c.Hosts(ctx); return err }},
		{`PUT /v1/hosts/host1/state {"state":"cordoned"}`, func() error {
			_, err := c.SetHostState(ctx, "host1", cluster.HostCordoned)
			return err
		}},
		{`POST /v1/hosts/host1/drain {"dry_run":true}`, func() error {
			_, err := c.Drain(ctx, "host1", api.PlanRequest{DryRun: true})
			return err
		}},
		{`POST /v1/consolidate {"dry_run":false,"max":2}`, func() error {
			_, err := c.Consolidate(ctx, api.PlanRequest{Max: 2})
			return err
		}},
		{"GET /v1/containers ", func() error { _, err := c.Containers(ctx); return err }},
		{"GET /v1/containers/a%2Fb%20c ", func() error { _, err := c.Container(ctx, "a/b c"); return err }},
		{`PATCH /v1/containers/web {"ram":5}`, func() error {
			n := int64(5)
			_, err := c.Set(ctx, "web", api.SetRequest{RAM: &n})
			return err
		}},
		{`POST /v1/containers/web/stop {"wait":0,"force":true}`, func() error {
			_, err := c.Action(ctx, "web", "stop", api.ActionRequest{Force: true})
			return err
		}},
		{`POST /v1/containers/web/migrate {"to":"host2"}`, func() error {
			_, err := c.Migrate(ctx, "web", api.MigrateRequest{To: "host2", CheckOnly: true})
			return err
		}},
		{`POST /v1/containers/web/migrate {"to":"host2","check_only":true}`, func() error {
			_, err := c.Check(ctx, "web", api.MigrateRequest{To: "host2"})
			return err
		}},
		{"GET /v1/containers/web/logs?follow=1 ", func() error { return c.Logs(ctx, "web", true, io.Discard) }},
		{"GET /v1/templates ", func() error { _, err := c.Templates(ctx); return err }},
		{"GET /v1/templates/busybox ", func() error { _, err := c.Template(ctx, "busybox"); return err }},
		{"PUT /v1/templates/busybox?systemd=auto TAR", func() error {
			_, err := c.PutTemplate(ctx, "busybox", url.Values{"systemd": {"auto"}}, strings.NewReader("TAR"))
			return err
		}},
		{"DELETE /v1/templates/busybox ", func() error { return c.DropTemplate(ctx, "busybox") }},
		{`POST /v1/templates/gc {"older_ms":60000,"dry_run":true}`, func() error {
			_, err := c.Collect(ctx, api.CollectRequest{OlderMS: 60_000, DryRun: true})
			return err
		}},
		{"GET /v1/operations ", func() error { _, err := c.Operations(ctx); return err }},
		{"GET /v1/operations/op1?wait=30 ", func() error { _, err := c.Operation(ctx, "op1", 30*time.Second); return err }},
		{"GET /v1/doctor ", func() error { _, err := c.Doctor(ctx); return err }},
	} {
		if err := call.do(); err != nil || got != call.want {
			t.Errorf("sent %q, want %q (error %v)", got, call.want, err)
		}
	}
	if _, err := c.Place(ctx, api.CreateRequest{Name: "x"}); err != nil || !strings.HasPrefix(got, `POST /v1/place {"name":"x"`) {
		t.Errorf("place sent %q (%v)", got, err)
	}
	if _, err := c.Create(ctx, api.CreateRequest{Name: "x"}); err != nil || !strings.HasPrefix(got, `POST /v1/containers {"name":"x"`) {
		t.Errorf("create sent %q (%v)", got, err)
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	sent := api.Errorf(api.CodeNoFit, "free some memory", "no host can take it")
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/status":
			w.WriteHeader(sent.Code.HTTP())
			_ = json.NewEncoder(w).Encode(sent)
		case "/v1/hosts":
			http.Error(w, "page not found", http.StatusNotFound)
		default:
			_, _ = io.WriteString(w, "not JSON")
		}
	}))
	_, err := c.Status(t.Context())
	var e *api.Error
	if !errors.As(err, &e) || *e != *sent {
		t.Errorf("got %#v, want %#v", err, sent)
	}
	_, err = c.Hosts(t.Context())
	if api.CodeOf(err) != api.CodeFailed || !strings.Contains(err.Error(), "answered 404 Not Found: page not found") {
		t.Errorf("a page that is no Error: %v", err)
	}
	if _, err = c.Tokens(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("an answer that is no JSON: %v", err)
	}
}

func TestNoAgent(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for _, endpoint := range []string{"unix://" + dir + "/none.sock", "https://" + l.Addr().String()} {
		c, err := api.NewClient(endpoint, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := "no agent answers at " + endpoint + "; start it with `vzcluster agent` or set VZCLUSTER_HOST"
		if _, err = c.Status(t.Context()); err == nil || err.Error() != want || api.CodeOf(err) != api.CodeFailed {
			t.Errorf("status: %v, want %s", err, want)
		}
		if _, err = c.Exec(t.Context(), "web", api.Exec{}, api.Streams{}); err == nil || err.Error() != want {
			t.Errorf("exec: %v, want %s", err, want)
		}
	}
}

func TestContextEnds(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := c.Status(ctx); api.CodeOf(err) != api.CodeTimeout {
		t.Errorf("after the deadline: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := c.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

func TestBadEndpoints(t *testing.T) {
	for _, e := range []string{"", "host1", "http://host1:7900", "unix://run/x", "https://", "https://h:1/path", "unix://", "https://h:x"} {
		if _, err := api.NewClient(e, nil); api.CodeOf(err) != api.CodeUsage {
			t.Errorf("%q: %v, want a usage error", e, err)
		}
	}
}

func TestHTTPS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"host":"host1"}`)
	}))
	defer s.Close()
	c, err := api.NewClient(s.URL, s.Client().Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.Host != "host1" {
		t.Errorf("got %+v, %v", st, err)
	}
	stranger, err := api.NewClient(s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Status(t.Context()); api.CodeOf(err) != api.CodeDenied {
		t.Errorf("an agent that is not trusted: %v", err)
	}
}

// upper is a session that answers its input in capitals on stdout, tells its arguments and sizes on stderr, and exits
// with 42 at the end of the input.
func upper(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		ws.SetReadLimit(api.MaxExecMessage)
		send := func(ch byte, data string) {
			if err := ws.Write(r.Context(), websocket.MessageBinary, append([]byte{ch}, data...)); err != nil {
				t.Error(err)
			}
		}
		_, first, err := ws.Read(r.Context())
		if err != nil {
			t.Error(err)
			return
		}
		var e api.Exec
		_ = json.Unmarshal(first, &e)
		if e.Args[0] == "vanish" {
			return
		}
		if e.Args[0] == "missing" {
			exit, _ := json.Marshal(api.ExecExit{Error: api.Errorf(api.CodeFailed, "", "there is no missing")})
			send(api.ExecDone, string(exit))
			return
		}
		send(api.ExecStderr, fmt.Sprint(e.Args))
		for {
			_, msg, err := ws.Read(r.Context())
			if err != nil {
				return
			}
			switch msg[0] {
			case api.ExecStdin:
				send(api.ExecStdout, strings.ToUpper(string(msg[1:])))
			case api.ExecResize:
				send(api.ExecStderr, string(msg[1:]))
			case api.ExecStdinEnd:
				send(api.ExecDone, `{"code":42}`)
				_, _, _ = ws.Read(r.Context()) // the client closes
				return
			}
		}
	}
}

func TestExec(t *testing.T) {
	c := serve(t, upper(t))
	input := strings.Repeat("abc", 100_000)
	var out, errs bytes.Buffer
	code, err := c.Exec(t.Context(), "web", api.Exec{Args: []string{"tr", "a"}}, api.Streams{Stdin: strings.NewReader(input), Stdout: &out, Stderr: &errs})
	if err != nil || code != 42 || out.String() != strings.ToUpper(input) || errs.String() != "[tr a]" {
		t.Errorf("code %d, error %v, %d bytes out, stderr %q", code, err, out.Len(), errs.String())
	}
}

func TestExecWithoutInputAndWithSizes(t *testing.T) {
	c := serve(t, upper(t))
	if code, err := c.Exec(t.Context(), "web", api.Exec{Args: []string{"x"}}, api.Streams{Stdout: io.Discard, Stderr: io.Discard}); err != nil || code != 42 {
		t.Errorf("no input: code %d, %v", code, err)
	}
	// The input ends only when the size has come back.
	r, w := io.Pipe()
	sizes := make(chan api.Resize, 1)
	sizes <- api.Resize{Rows: 24, Cols: 80}
	seen := writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), `{"rows":24,"cols":80}`) {
			w.Close()
		}
		return len(p), nil
	})
	if code, err := c.Exec(t.Context(), "web", api.Exec{Args: []string{"x"}}, api.Streams{Stdin: r, Stdout: io.Discard, Stderr: seen, Resize: sizes}); err != nil || code != 42 {
		t.Errorf("sizes: code %d, %v", code, err)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestExecFails(t *testing.T) {
	c := serve(t, upper(t))
	s := api.Streams{Stdout: io.Discard, Stderr: io.Discard}
	if _, err := c.Exec(t.Context(), "web", api.Exec{Args: []string{"missing"}}, s); err == nil || err.Error() != "there is no missing" {
		t.Errorf("an error at the end: %v", err)
	}
	if _, err := c.Exec(t.Context(), "web", api.Exec{Args: []string{"vanish"}}, s); err == nil || !strings.Contains(err.Error(), "the exec session broke") {
		t.Errorf("a session that breaks: %v", err)
	}
	refusing := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(api.Errorf(api.CodeNotFound, "", "there is no container web"))
	}))
	if _, err := refusing.Exec(t.Context(), "web", api.Exec{}, s); api.CodeOf(err) != api.CodeNotFound || err.Error() != "there is no container web" {
		t.Errorf("a refused session: %v", err)
	}
}
