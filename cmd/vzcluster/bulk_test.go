package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestSelected(t *testing.T) {
	all := []api.Container{web(), db()}
	for args, want := range map[string]string{
		"stop --all":                    "web db",
		"stop -l tier=front":            "web",
		"suspend -l tier":               "web",
		"destroy -y -l tier=front -f":   "web",
		"restart -l tier=front -l tier": "web",
	} {
		f := newFake(t, map[string]any{api.RouteAction: web(), api.RouteContainers: all})
		r := f.run(strings.Fields(args)...)
		var names []string
		for _, line := range f.asked {
			if p := strings.Split(line, "/"); strings.HasPrefix(line, "POST ") {
				names = append(names, p[3])
			}
		}
		if got := strings.Join(names, " "); r.code != 0 || got != want {
			t.Errorf("%s acts on %q, want %q (%+v)", args, got, want, r)
		}
	}
	f := newFake(t, map[string]any{api.RouteAction: web(), api.RouteContainers: all})
	for args, code := range map[string]int{"stop": 2, "stop web --all": 2, "start -l none=x": 3} {
		if r := f.run(strings.Fields(args)...); r.code != code || r.stdout != "" {
			t.Errorf("%s: %+v", args, r)
		}
	}
}

func TestStartWaits(t *testing.T) {
	var got api.Exec
	f := newFake(t, map[string]any{
		api.RouteAction: db(), api.RouteContainer: db(), api.RouteTemplate: cluster.Template{Name: "busybox"}, api.RouteExec: execServer(t, 0, &got),
	})
	if r := f.run("start", "db", "--wait"); r.code != 0 || len(got.Args) != 0 {
		t.Errorf("without systemd: %+v, %v", r, got)
	}
}

func TestRunScript(t *testing.T) {
	var got api.Exec
	f := newFake(t, map[string]any{api.RouteExec: execServer(t, 5, &got)})
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("echo hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := f.run("runscript", "web", script, "--quick", "-x")
	if r.code != 5 || r.stdout != "echo hello\n" || strings.Join(got.Args, " ") != "/bin/sh -s -- --quick -x" {
		t.Errorf("%+v, %v", r, got)
	}
	if r := f.run("runscript", "web", "/no/such/file"); r.code != 2 {
		t.Errorf("%+v", r)
	}
	if r := f.run("enter", "-u", "www", "web"); r.code != 5 || got.User != "www" || got.TTY {
		t.Errorf("%+v, %+v", r, got)
	}
	if r := f.run("exec", "-u", "www:web", "-w", "/srv", "web", "true"); r.code != 5 || got.User != "www:web" || got.Dir != "/srv" {
		t.Errorf("%+v, %+v", r, got)
	}
}
