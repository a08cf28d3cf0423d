package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestExitCodes(t *testing.T) {
	for code, want := range map[api.Code]int{
		api.CodeFailed: 1, api.CodeUsage: 2, api.CodeNotFound: 3, api.CodeConflict: 1, api.CodeNoFit: 4, api.CodeNoQuorum: 5,
		api.CodeTimeout: 6, api.CodeRefused: 7, api.CodeDenied: 1,
	} {
		f := newFake(t, map[string]any{api.RouteContainers: api.Errorf(code, "do that", "this happened")})
		if r := f.run("ls"); r.code != want || r.stderr != "vzcluster: this happened; do that\n" || r.stdout != "" {
			t.Errorf("%s: %+v, want exit code %d", code, r, want)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteTemplates: []cluster.Template{{Name: "a"}, {Name: "b"}}})
	for args, want := range map[string]string{
		"":                                   "", // the help, no error
		"frobnicate":                         "vzcluster: there is no command `frobnicate`",
		"ls --frob":                          "ls has no flag `--frob`",
		"status extra":                       "status takes no arguments, but got `extra`",
		"show":                               "show needs CT",
		"show a b":                           "show takes CT, `b` is too much",
		"ls -o xml":                          "xml is not an output format, write one of table, wide, json, yaml, name",
		"create --template a --ram 12X":      "ram: 12X is not a size, write for example 512M or 2G",
		"create --template a --cpus x":       "cpus: x is not a number of cores",
		"create --template a --cpuunits x":   "cpuunits: x is not a number; see",
		"create --template a --ram 100":      "ram: 100 bytes is too little, write for example 100M",
		"create --template a --disk 5":       "disk: 5 bytes is too little, write for example 5M",
		"set web --swap 64":                  "swap: 64 bytes is too little, write for example 64M",
		"destroy web --yes=maybe":            "yes: maybe is neither true nor false",
		"create --template a --pids many":    "pids: many is not a number",
		"create --template a --pids -5":      "pids: -5 is not a number",
		"create --template a --net-in 10bit": "net-in: 10bit is not a rate, write for example 100mbit",
		"create --template a --net-in 9":     "net-in: 9 is not a rate",
		"set web --cpu-mask=":                "cpu-mask: write a list as 0-3,8, or none",
		"create --template a --cpuunits 0":   "cpuunits: 0 is not a weight",
		"create --template a --ip 10.0":      "ip: 10.0 is not an address",
		"create --template a --label x":      "label: x is not a label",
		"create --template a web --name db":  "it cannot be named both web and db",
		"create --template a -- -5":          "-5 is not a CTID",
		"create --template a 0":              "0 is not a CTID",
		"create web":                         "which template? write --template with one of: a, b",
		"set web":                            "set needs something to change",
		"set web --name=":                    "name: it cannot be empty",
		"set web --ram lots":                 "ram: lots is not a size",
		"stop web --timeout soon":            "timeout: soon is not a time",
		"destroy web":                        "this is no terminal; say -y if you mean it",
		"exec web":                           "exec needs CT [--] CMD...",
		"exec -e X web env":                  "env: X is not a variable",
		"join host1:7443":                    "join needs --token",
		"join host1:7443 --token vz1.a.b.c":  "token: it is no join token; copy all of what `vzcluster token create` printed",
		"lab up --hosts 500":                 "hosts: a lab has between 1 and 200 hosts, not 500",
		"lab up --hosts 0":                   "hosts: a lab has between 1 and 200 hosts, not 0",
		"lab up --name=":                     `name: "" cannot name a lab`,
		"lab status --name A_B":              `name: "A_B" cannot name a lab`,
		"lab down --name ../x":               `name: "../x" cannot name a lab`,
		"lab exec outside":                   "vzcluster: lab exec needs HOST [--] CMD...",
		"template build nosuch":              `there is no recipe named "nosuch"`,
		"template build busybox --include a": "busybox has no packages, so nothing can be included",
		"setup bla":                          "setup takes install, remove or list, not `bla`",
		"setup list --keep-packages":         "keep-packages: only `vzcluster setup remove` takes it",
		"token create --ttl 0":               "a token that expires at once",
		"consolidate --max -1":               "max: -1 is not a number of hosts",
		"consolidate --parallel 0":           "parallel: 0 moves at once cannot be made, write a number from 1 to 16",
		"host drain a --parallel 17":         "parallel: 17 moves at once cannot be made, write a number from 1 to 16",
		"host drain a --parallel x":          "parallel: x is not a number",
		"migrate web --mode warm":            "mode: warm is not a mode, write one of live, post-copy, near-live, offline, auto",
		"migrate web --mode=":                "mode: nothing is not a mode",
		"migrate web --offline --mode live":  "offline: --mode says live",
		"migrate web --max-downtime 300":     "max-downtime: 300 is not a downtime, write at least 1ms, for example 300ms or 2s",
		"migrate web --max-downtime 0s":      "max-downtime: 0s is not a downtime",
		"migrate web --max-downtime=-1s":     "max-downtime: -1s is not a downtime",
		"migrate web --max-downtime soon":    "max-downtime: soon is not a downtime",
		"migrate":                            "migrate needs CT [HOST]",
		"template import x /does/not/exist":  "/does/not/exist cannot be read",
		"ls -H tcp://x":                      `"tcp://x" is not the address of an agent`,
		"host cordon":                        "host cordon needs HOST",
		"version x":                          "takes no arguments",
		"consolidate now":                    "takes no arguments, but got `now`",
		"template build a --include x extra": "`extra` is too much",
	} {
		r := f.run(strings.Fields(args)...)
		if want == "" {
			if r.code != 0 || !strings.Contains(r.stdout, "CONTAINERS:") {
				t.Errorf("no arguments: %+v, want the help", r)
			}
			continue
		}
		if r.code != 2 || !strings.Contains(r.stderr, want) || strings.Count(r.stderr, "\n") != 1 || r.stdout != "" {
			t.Errorf("%s: %+v\nwant exit code 2 and one line with %q", args, r, want)
		}
	}
}

func TestNoAgentAnswers(t *testing.T) {
	f := newFake(t, nil)
	socket := "unix://" + filepath.Join(t.TempDir(), "none.sock")
	r := f.run("ls", "-H", socket)
	if want := "vzcluster: no agent answers at " + socket + "; start it with `vzcluster agent` or set VZCLUSTER_HOST\n"; r.code != 1 || r.stderr != want {
		t.Errorf("got %+v, want %q", r, want)
	}
	aLab := func(e *env) { e.labs = func() []string { return []string{"lab"} } }
	r = f.runWith(aLab, "", "ls", "-H", socket)
	if want := "; start it with `vzcluster agent` or set VZCLUSTER_HOST; a lab is up: eval \"$(vzcluster lab env)\"\n"; r.code != 1 || !strings.HasSuffix(r.stderr, want) {
		t.Errorf("with a lab: %+v, want %q", r, want)
	}
	r = f.runWith(func(e *env) { e.getenv = func(string) string { return "/does/not/exist" } }, "", "ls", "-H", "https://127.0.0.1:1")
	if r.code != 1 || !strings.Contains(r.stderr, "there is no identity in /does/not/exist to show to https://127.0.0.1:1") {
		t.Errorf("https without an identity: %+v", r)
	}
}

func TestHelp(t *testing.T) {
	f := newFake(t, nil)
	for args, want := range map[string]string{
		"--help":            "GLOBAL OPTIONS",
		"help":              "GLOBAL OPTIONS",
		"create --help":     "--ram SIZE",
		"help host drain":   "vzcluster host drain [command options] HOST",
		"host --help":       "COMMANDS:",
		"exec web --help":   "", // belongs to the container
		"template build -h": "--include PACKAGES",
	} {
		r := f.run(strings.Fields(args)...)
		if want != "" && (r.code != 0 || !strings.Contains(r.stdout, want)) {
			t.Errorf("%s: %+v, want %q", args, r, want)
		}
		if want == "" && strings.Contains(r.stdout, "USAGE") {
			t.Errorf("%s shows our help", args)
		}
	}
}

// TestNamesLikeHelp: cli gives every command a subcommand "help" unless it is told not to.
func TestNamesLikeHelp(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteContainer: web()})
	for _, name := range []string{"h", "help"} {
		if r := f.run("show", name); r.code != 0 || !strings.HasPrefix(r.stdout, "id ") {
			t.Errorf("show %s: %+v", name, r)
		}
	}
}

func TestVersionFlag(t *testing.T) {
	f := newFake(t, nil)
	for _, args := range [][]string{{"version"}, {"--version"}, {"-o", "json", "--version"}} {
		if r := f.run(args...); r.code != 0 || !strings.Contains(r.stdout, version().Go) {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

func TestAbsentLab(t *testing.T) {
	f := newFake(t, nil)
	if r := f.run("lab", "down", "--name", "no-such-lab-here"); r.code != 3 || !strings.Contains(r.stderr, "there is no lab no-such-lab-here; ") {
		t.Errorf("down: %+v", r)
	}
	if r := f.run("lab", "status", "--name", "no-such-lab-here"); r.code != 3 || r.stderr != "vzcluster: no-such-lab-here: no such lab is up; `vzcluster lab up --name no-such-lab-here` makes it\n" {
		t.Errorf("status: %+v", r)
	}
}
