package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// files writes what simulate reads into a folder of its own.
func files(t *testing.T, texts map[string]string) func(name string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return func(name string) string { return filepath.Join(dir, name) }
}

const (
	hostsCSV      = "name,cpu_milli,memory_mib,zone\nh1,4000,8192,a\nh2,4000,8192,b\nh3,4000,8192,\n"
	containersCSV = "name,cpu_milli,memory_mib,arrive_s,depart_s\na,3000,1024,,10\nb,2000,1024,,\nc,2000,1024,5,20\nd,1000,64,30,\n"
)

func TestSimulate(t *testing.T) {
	f := newFake(t, nil)
	in := files(t, map[string]string{"H.csv": hostsCSV, "C.csv": containersCSV})
	args := []string{"simulate", "--hosts", in("H.csv"), "--containers", in("C.csv"), "-o", "json"}
	r := f.run(append(args, "--placement", in("P.csv"), "--policy", "spread", "--seed", "3")...)
	var keys map[string]any
	if err := json.Unmarshal([]byte(r.stdout), &keys); err != nil || r.code != 0 {
		t.Fatalf("%v: %+v", err, r)
	}
	for _, k := range []string{"hosts_used", "placed", "unplaced", "moves", "host_seconds", "lower_bound", "seconds", "placements_per_s"} {
		if _, ok := keys[k]; !ok {
			t.Errorf("the result has no %s: %s", k, r.stdout)
		}
	}
	if keys["hosts_used"] != 3.0 || keys["lower_bound"] != 2.0 {
		t.Errorf("spread: %s", r.stdout)
	}
	r = f.run(append(args, "--plan", "consolidate", "--placement", in("P.csv"), "--moves", in("M.csv"), "--max-moves", "1")...)
	if m, err := os.ReadFile(in("M.csv")); r.code != 0 || err != nil || strings.Count(string(m), "\n") > 2 || !strings.HasPrefix(string(m), "step,container,from,to\n") {
		t.Errorf("consolidate: %+v, moves %q, %v", r, m, err)
	}
	r = f.run(append(args, "--plan", "replay", "--moves-per-arrival", "1", "--policy", "pack")...)
	if r.code != 0 || !strings.Contains(r.stdout, `"host_seconds": `) {
		t.Errorf("replay: %+v", r)
	}
}

func TestSimulateSaysWhatStaysUnplaced(t *testing.T) {
	in := files(t, map[string]string{"H.csv": hostsCSV, "C.csv": "name,cpu_milli,memory_mib\nbig,9000,1\n"})
	r := newFake(t, nil).run("simulate", "--hosts", in("H.csv"), "--containers", in("C.csv"), "-o", "json")
	if r.code != 4 || !strings.Contains(r.stdout, `"unplaced": 1`) {
		t.Errorf("%+v", r)
	}
}

// What is wrong is named, the exit code is that of usage, and no file is written.
func TestSimulateRefuses(t *testing.T) {
	const head = "name,cpu_milli,memory_mib"
	for name, c := range map[string]struct {
		hosts, containers, placement string
		args                         []string
		want                         string
	}{
		"column":      {hostsCSV, head + ",colour\n", "", nil, "C.csv:1: column 4"},
		"twice":       {head + "\nh,1,1\nh,1,1\n", containersCSV, "", nil, "H.csv:3: column name"},
		"negative":    {hostsCSV, head + "\na,-1,1\n", "", nil, "C.csv:2: column cpu_milli"},
		"overflow":    {hostsCSV, head + "\na,1,99999999999999999999\n", "", nil, "C.csv:2: column memory_mib"},
		"too early":   {hostsCSV, head + ",arrive_s,depart_s\na,1,1,9,8\n", "", nil, "C.csv:2: column depart_s"},
		"host":        {hostsCSV, head + ",host\na,1,1,h9\n", "", nil, "C.csv:2: column host"},
		"no room":     {hostsCSV, head + "\na,3000,1\nb,3000,1\n", "container,host\na,h1\nb,h1\n", []string{"--plan", "consolidate"}, "P.csv:3: column host"},
		"container":   {hostsCSV, head + "\na,3000,1\n", "container,host\nx,h1\n", []string{"--plan", "consolidate"}, "P.csv:2: column container"},
		"plan":        {hostsCSV, containersCSV, "", []string{"--plan", "dance"}, "dance"},
		"policy":      {hostsCSV, containersCSV, "", []string{"--policy", "dance"}, "dance"},
		"max-moves":   {hostsCSV, containersCSV, "", []string{"--plan", "replay", "--max-moves", "-1"}, "max-moves"},
		"per arrival": {hostsCSV, containersCSV, "", []string{"--plan", "replay", "--moves-per-arrival", "-1"}, "moves-per-arrival"},
	} {
		in := files(t, map[string]string{"H.csv": c.hosts, "C.csv": c.containers, "P.csv": c.placement})
		args := []string{"simulate", "--hosts", in("H.csv"), "--containers", in("C.csv"), "--moves", in("M.csv")}
		if c.placement != "" {
			args = append(args, "--placement", in("P.csv"))
		}
		r := newFake(t, nil).run(append(args, c.args...)...)
		if r.code != 2 || !strings.Contains(r.stderr, c.want) || r.stdout != "" {
			t.Errorf("%s: %+v, want %q", name, r, c.want)
		}
		if _, err := os.Stat(in("M.csv")); !os.IsNotExist(err) {
			t.Errorf("%s: moves were written: %v", name, err)
		}
	}
}
