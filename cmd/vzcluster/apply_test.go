package main

import (
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
)

const wishes = `name: web
state: stopped
ram: 1G
labels: {tier: front, zone: a}
---
name: new
template: busybox
state: running
cpus: 0.5
bootorder: 3
`

func TestApply(t *testing.T) {
	f := newFake(t, map[string]any{
		api.RouteContainers: []api.Container{web(), db()}, api.RouteCreate: web(), api.RouteSet: web(), api.RouteAction: web(),
	})
	want := "CONTAINER  CHANGE\nweb        ram: 512M to 1G, labels: zone=a\nweb        stop\nnew        create from busybox\nnew        bootorder: 3\nnew        start\n"
	if r := f.runWith(nil, wishes, "diff", "-f", "-"); r.code != 1 || r.stdout != want || len(f.asked) != 1 {
		t.Errorf("%+v after %v, want\n%s", r, f.asked, want)
	}
	f.asked = nil
	r := f.runWith(nil, wishes, "apply", "-f", "-")
	if r.code != 0 || r.stdout != want || len(f.asked) != 6 {
		t.Fatalf("%+v after %v", r, f.asked)
	}
	for i, part := range []string{
		"", `PATCH /v1/containers/web {"ram":1073741824,"labels":{"zone":"a"}}`, "POST /v1/containers/web/stop",
		`POST /v1/containers {"name":"new","template":"busybox"`, `PATCH /v1/containers/new {"boot_order":3}`, "POST /v1/containers/new/start",
	} {
		if !strings.HasPrefix(f.asked[i], part) {
			t.Errorf("request %d is %s, want %s", i, f.asked[i], part)
		}
	}
	f.asked = nil
	if r := f.runWith(nil, "name: web\nstate: running\nram: 512M\n", "diff", "-f", "-"); r.code != 0 {
		t.Errorf("nothing differs: %+v", r)
	}
	f.asked = nil
	for text, word := range map[string]string{
		"name: web\nrams: 1G\n": "rams", "ram: 1G\n": "no name", "name: web\n---\nname: web\n": "another one", "name: web\nstate: asleep\n": "neither running",
		"name: web\nram: much\n": "not a size", "name: fresh\n": "needs one", "name: web\ntemplate: other\n": "reinstall",
	} {
		r := f.runWith(nil, text, "apply", "-f", "-")
		if r.code != 2 || !strings.Contains(r.stderr, word) {
			t.Errorf("%q: %+v, want %q", text, r, word)
		}
	}
	for _, line := range f.asked {
		if !strings.HasPrefix(line, "GET ") {
			t.Errorf("bad input leads to %s", line)
		}
	}
}
