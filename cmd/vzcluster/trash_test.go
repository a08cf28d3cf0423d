package main

import (
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
)

func TestTrash(t *testing.T) {
	gone := web()
	gone.Trashed = at(5)
	f := newFake(t, map[string]any{api.RouteTrash: []api.Container{gone}, api.RouteRestore: web(), api.RouteAction: gone})
	if r := f.run("trash", "ls"); r.code != 0 || !strings.Contains(r.stdout, "2026-03-01T12:00:05Z") {
		t.Errorf("%+v", r)
	}
	for args, want := range map[string]string{
		"trash restore web":        `POST /v1/trash/web/restore {}`,
		"undelete 101 --name back": `POST /v1/trash/101/restore {"name":"back"}`,
		"trash empty -y":           `POST /v1/containers/101/destroy {"wait":60000000000,"force":false,"now":true}`,
	} {
		r := f.run(strings.Fields(args)...)
		if sent := f.asked[len(f.asked)-1]; r.code != 0 || sent != want {
			t.Errorf("%s sends %s, want %s (%+v)", args, sent, want, r)
		}
	}
	if r := f.run("destroy", "-y", "web"); r.stdout != "destroyed web (101); it is in the trash\n" {
		t.Errorf("%+v", r)
	}
	f.asked = nil
	if r := f.run("trash", "empty"); r.code != 2 || len(f.asked) != 1 {
		t.Errorf("without a terminal: %+v after %v", r, f.asked)
	}
	if r := f.run("trash", "empty", "-y", "102"); r.code != 3 {
		t.Errorf("what is not there: %+v", r)
	}
}

func TestNames(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteSet: web()})
	for args, want := range map[string]string{
		"rename web www":          `PATCH /v1/containers/web {"name":"www"}`,
		"describe web shop":       `PATCH /v1/containers/web {"text":"shop"}`,
		"label web a=b c=":        `PATCH /v1/containers/web {"labels":{"a":"b","c":""}}`,
		"set web --description=x": `PATCH /v1/containers/web {"text":"x"}`,
	} {
		r := f.run(strings.Fields(args)...)
		if sent := f.asked[len(f.asked)-1]; r.code != 0 || sent != want {
			t.Errorf("%s sends %s, want %s (%+v)", args, sent, want, r)
		}
	}
	if r := f.run("label", "web", "nonsense"); r.code != 2 {
		t.Errorf("%+v", r)
	}
}
