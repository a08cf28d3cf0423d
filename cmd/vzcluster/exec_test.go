package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
)

func TestExec(t *testing.T) {
	var got api.Exec
	f := newFake(t, map[string]any{api.RouteExec: execServer(t, 42, &got)})
	r := f.runWith(nil, "hello\n", "exec", "-e", "A=b", "web", "--", "cat", "-n")
	if r != (result{42, "hello\n", "bye\n"}) {
		t.Errorf("got %+v", r)
	}
	if !slices.Equal(got.Args, []string{"cat", "-n"}) || !slices.Equal(got.Env, []string{"A=b"}) || got.TTY {
		t.Errorf("sent %+v", got)
	}
	// On a terminal the input is kept, unless it is asked for.
	if r := f.runWith(onTerminal, "hello\n", "exec", "web", "cat"); r.stdout != "" || r.code != 42 {
		t.Errorf("without -i: %+v", r)
	}
	if r := f.runWith(onTerminal, "hello\n", "exec", "-i", "web", "cat"); r.stdout != "hello\n" {
		t.Errorf("with -i: %+v", r)
	}
	// -t without a terminal gives the process one all the same.
	term := func(e *env) { e.getenv = func(string) string { return "xterm" } }
	if r := f.runWith(term, "x", "exec", "-t", "web", "sh"); r.code != 42 || !got.TTY || !slices.Equal(got.Env, []string{"TERM=xterm"}) {
		t.Errorf("with -t: %+v, sent %+v", r, got)
	}
	f = newFake(t, map[string]any{api.RouteExec: execServer(t, 0, &got)})
	if r := f.run("exec", "web", "true"); r.code != 0 {
		t.Errorf("code 0: %+v", r)
	}
	f = newFake(t, map[string]any{api.RouteExec: api.Errorf(api.CodeNotFound, "", "there is no container web")})
	if r := f.run("exec", "web", "true"); r.code != 3 || r.stderr != "vzcluster: there is no container web\n" {
		t.Errorf("no container: %+v", r)
	}
}

func TestLogs(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteLogs: "boot\nlogin:"})
	for args, want := range map[string]string{"logs web": "GET /v1/containers/web/logs", "console web -f": "GET /v1/containers/web/logs?follow=1"} {
		if r := f.run(strings.Fields(args)...); r.stdout != "boot\nlogin:" || f.asked[len(f.asked)-1] != want {
			t.Errorf("%s: %+v, asked %v", args, r, f.asked)
		}
	}
}
