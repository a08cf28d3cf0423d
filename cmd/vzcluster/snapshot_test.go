package main

import (
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestSnapshotCommands(t *testing.T) {
	c := web()
	c.Snapshots = []cluster.Snapshot{{Name: "before", Created: at(1), Bytes: 3 << 20, Memory: true}}
	f := newFake(t, map[string]any{
		api.RouteSnapshot: c, api.RouteSwitch: c, api.RouteSnapshotDrop: c, api.RouteClone: db(), api.RouteReinstall: c, api.RouteContainer: c,
	})
	for args, want := range map[string]string{
		"snapshot create web before --memory":        `POST /v1/containers/web/snapshots {"wait":600000000000,"name":"before","memory":true}`,
		"snapshot create web --description x":        `POST /v1/containers/web/snapshots {"wait":600000000000,"text":"x"}`,
		"snapshot switch -y web before --timeout 1m": `POST /v1/containers/web/snapshots/before/switch {"wait":60000000000}`,
		"snapshot rm web before":                     `DELETE /v1/containers/web/snapshots/before`,
		"clone web web2 --start --ip none":           `POST /v1/containers/web/clone {"wait":600000000000,"name":"web2","ip":"none","start":true}`,
		"clone web 105 --snapshot before":            `POST /v1/containers/web/clone {"wait":600000000000,"id":105,"ip":"auto","snapshot":"before"}`,
		"reinstall -y web --keep /srv --keep /etc/x": `POST /v1/containers/web/reinstall {"wait":600000000000,"keep":["/srv","/etc/x"]}`,
	} {
		r := f.run(strings.Fields(args)...)
		if sent := f.asked[len(f.asked)-1]; r.code != 0 || sent != want {
			t.Errorf("%s sends %s, want %s (%+v)", args, sent, want, r)
		}
	}
	want := "NAME    CREATED               SIZE  MEMORY  DESCRIPTION\nbefore  2026-03-01T12:00:01Z  3M    yes     -\n"
	if r := f.run("snapshot", "ls", "web"); r.stdout != want {
		t.Errorf("%+v, want\n%s", r, want)
	}
	f.asked = nil
	for _, args := range []string{"snapshot switch web before", "reinstall web"} {
		if r := f.run(strings.Fields(args)...); r.code != 2 || len(f.asked) != 0 {
			t.Errorf("%s without a terminal: %+v after %v", args, r, f.asked)
		}
		if r := f.runWith(onTerminal, "n\n", strings.Fields(args)...); r.code != 1 || len(f.asked) != 0 {
			t.Errorf("%s, answered with no: %+v after %v", args, r, f.asked)
		}
	}
}
