package doctor

import (
	"os"
	"path/filepath"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]version{
		"6.18.44-fc-v782":       {6, 18, 44, release},
		"6.12.48+deb13-amd64":   {6, 12, 48, release},
		"6.16.0-rc1":            {6, 16, 0, 1},
		"1.4.0-rc.3":            {1, 4, 0, 3},
		"runc version 1.1.5+ds": {1, 1, 5, release},
		"4.2":                   {4, 2, 0, release},
	} {
		if got, ok := parseVersion(text); !ok || got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if _, ok := parseVersion("none"); ok {
		t.Error("a version was found in a text without")
	}
}

// program writes a script that stands for a program.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAsk(t *testing.T) {
	for script, want := range map[string]Program{
		"echo Version: 4.2.1; echo GitID: v4.2.1": {Version: "4.2.1"},
		"echo runc version 1.5.2; echo spec: 1.3": {Version: "1.5.2"},
		"echo hello":           {Version: "of unknown version"},
		"echo no vdso; exit 1": {Error: "no vdso"},
		"exit 3":               {Error: "exit status 3"},
	} {
		path := program(t, script)
		want.Path = path
		if got := ask(t.Context(), path, "--version"); got != want {
			t.Errorf("%s: %+v", script, got)
		}
	}
	if got := ask(t.Context(), "/does/not/exist", "--version"); got != (Program{}) {
		t.Errorf("%+v", got)
	}
}

func TestCriuCheck(t *testing.T) {
	for script, want := range map[string]string{
		"echo Looks good.": "",
		"echo 'Warn  (criu/x.c:1): slow'; echo 'Error (criu/cr-check.c:5): Dirty tracking is OFF'; exit 1": "Dirty tracking is OFF",
		"exit 1": "exit status 1",
	} {
		if got := criuCheck(t.Context(), program(t, script)); got != want {
			t.Errorf("%s: %q", script, got)
		}
	}
}

func TestCgroupMode(t *testing.T) {
	file := func(top string, parts ...string) {
		path := filepath.Join(append([]string{top}, parts...)...)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("cpu io memory\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	none, v1, hybrid, v2 := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	for _, top := range []string{v1, hybrid} {
		for _, name := range []string{"freezer", "memory", "cpu", "cpuacct", "pids", "systemd"} {
			file(top, name, "cgroup.procs")
		}
	}
	file(hybrid, "unified", "cgroup.procs")
	file(v2, "cgroup.controllers")
	for top, want := range map[string]string{none: "", v1: "v1", hybrid: "hybrid", v2: "v2"} {
		if got := cgroupMode(top); got.Mode != want {
			t.Errorf("%+v, want %q", got, want)
		}
	}
	if l := cgroupMode(v2).Lacking; len(l) != 1 || l[0] != "pids" {
		t.Errorf("v2 lacks %v", l)
	}
	if l := cgroupMode(hybrid).Lacking; len(l) != 0 {
		t.Errorf("hybrid lacks %v", l)
	}
}

func TestClosed(t *testing.T) {
	top := t.TempDir()
	shut := filepath.Join(top, "shut")
	inner := filepath.Join(shut, "inner")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(top), 0o711); err != nil { // the testing package keeps it closed
		t.Fatal(err)
	}
	missing := filepath.Join(inner, "not-made-yet")
	if got := closed(missing); got != "" {
		t.Skipf("%s is closed on this machine", got)
	}
	if err := os.Chmod(shut, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := closed(missing); got != shut {
		t.Errorf("closed is %q, want %q", got, shut)
	}
}

// TestProbeLeavesNothing runs the real probes, as far as the user may, and looks for traces.
func TestProbeLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	f := Probe(t.Context(), Config{DataDir: filepath.Join(dir, "data"), Runc: "/does/not/exist", CRIU: "/does/not/exist", Bridge: "vzprobe", NAT: true})
	if f.Release == "" || f.Cgroup.Mode == "" || f.RunFS == "" || len(f.Sysctls) == 0 {
		t.Errorf("%+v", f)
	}
	if f.Root {
		for _, x := range []Feature{UserNamespace, Overlay, IDMap, Bridge, Veth, NFTables, NAT} {
			if _, tried := f.Features[x]; !tried {
				t.Errorf("%s was not tried", x)
			}
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if l := link("vzdoctor0"); l != (Link{}) {
		t.Errorf("the probe's bridge is in this namespace: %+v", l)
	}
	if l := link("lo"); l.Kind != "device" {
		t.Errorf("lo is %+v", l)
	}
}
