package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestInitJoinTokens(t *testing.T) {
	st := api.Status{Host: "host1", Joined: true, Leader: "host1", Quorum: true, Hosts: hosts()}
	f := newFake(t, map[string]any{
		api.RouteInit: st, api.RouteJoinCluster: st, api.RouteTokenCreate: api.TokenReply{Token: "vz1.a.b.c", ID: "a", Expires: at(9)},
		api.RouteTokenRevoke: struct{}{}, api.RouteTokens: []cluster.Token{{ID: "a", Created: at(1), Expires: at(9), UsedBy: "host2"}},
	})
	if r := f.run("init", "--pool", "10.1.0.0/16", "--gateway", "10.1.0.1"); r.code != 0 || f.last() != `{"pool":"10.1.0.0/16","pool_first":"","pool_last":"","gateway":"10.1.0.1"}` {
		t.Errorf("init: %+v, sent %s", r, f.last())
	}
	token := "vz1." + strings.Repeat("a", 8) + "." + strings.Repeat("b", 32) + "." + strings.Repeat("c", 64)
	if r := f.run("join", "host1:7443", "--token", token); r.code != 0 || f.last() != `{"address":"host1:7443","token":"`+token+`"}` || !strings.Contains(r.stderr, "host1 has joined a cluster of 2 hosts") {
		t.Errorf("join: %+v, sent %s", r, f.last())
	}
	// Only the token goes to stdout, so that TOKEN=$(vzcluster token create) works.
	if r := f.run("token", "create", "--ttl", "90"); r.stdout != "vz1.a.b.c\n" || f.last() != `{"ttl":90000000000}` {
		t.Errorf("token create: %+v, sent %s", r, f.last())
	}
	if r := f.run("token", "list"); r.stdout != "ID  CREATED               EXPIRES               USED BY\na   2026-03-01T12:00:01Z  2026-03-01T12:00:09Z  host2\n" {
		t.Errorf("token list: %+v", r)
	}
	if r := f.run("token", "revoke", "a"); r.stdout != "revoked a\n" {
		t.Errorf("token revoke: %+v", r)
	}
}

func TestTemplates(t *testing.T) {
	tpl := cluster.Template{Name: "x", Digest: "sha256:ab", Size: 5 << 20, Init: []string{"/sbin/init"}, Systemd: true, Prepared: []string{"getty masked", "udev masked"}, Hosts: []string{"host1"}, Created: at(0)}
	f := newFake(t, map[string]any{
		api.RouteTemplates: []cluster.Template{tpl}, api.RouteTemplate: tpl, api.RouteTemplatePut: tpl, api.RouteTemplateDrop: struct{}{}, api.RouteStatus: api.Errorf(api.CodeNoQuorum, "", "no leader"),
	})
	if r := f.run("template", "list"); r.stdout != "NAME  SIZE  SYSTEMD  HOSTS  CREATED\nx     5M    yes      host1  2026-03-01T12:00:00Z\n" {
		t.Errorf("list: %+v", r)
	}
	if r := f.run("template", "show", "x"); !strings.HasSuffix(r.stdout, "prepared  getty masked\n          udev masked\n") {
		t.Errorf("show: %s", r.stdout)
	}
	file := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(file, []byte("TAR"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := f.run("template", "import", "x", file); r.code != 0 || !strings.HasSuffix(f.asked[len(f.asked)-1], "systemd=auto TAR") || !strings.Contains(r.stderr, "prepared: getty masked") {
		t.Errorf("import: %+v, asked %v", r, f.asked)
	}
	if r := f.runWith(nil, "STDIN", "template", "import", "x", "-"); r.code != 0 || !strings.HasSuffix(f.asked[len(f.asked)-1], " STDIN") {
		t.Errorf("import of stdin: %+v, asked %v", r, f.asked)
	}
	if r := f.run("template", "rm", "x"); r.stdout != "removed x\n" {
		t.Errorf("rm: %+v", r)
	}
	if r := f.run("template", "build", "busybox"); r.code != 5 {
		t.Errorf("build without a cluster starts all the same: %+v", r)
	}
}
