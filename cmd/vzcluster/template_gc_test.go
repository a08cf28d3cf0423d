package main

import (
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
)

func TestTemplateGC(t *testing.T) {
	res := api.CollectResult{Copies: []api.TemplateCopy{
		{Host: "host1", Name: "debian-12", Digest: "sha256:aa", Bytes: 1 << 30, Used: at(0), Kept: "used by web (101)"},
		{Host: "host2", Name: "debian-12", Digest: "sha256:aa", Bytes: 1 << 30, Used: at(0)},
		{Host: "host2", Digest: "sha256:bb", Bytes: 512 << 20, Used: at(1)},
	}}
	f := newFake(t, map[string]any{api.RouteCollect: res})
	want := `HOST   TEMPLATE   SIZE  USED                  WHAT
host2  debian-12  1G    2026-03-01T12:00:00Z  would be deleted
host2  sha256:bb  512M  2026-03-01T12:00:01Z  would be deleted
2 of 3 copies would be deleted, about 1.5G
`
	if r := f.run("template", "gc", "--dry-run", "--older", "1h"); r.code != 0 || r.stdout != want || f.last() != `{"older_ms":3600000,"dry_run":true}` {
		t.Errorf("%+v\nwant\n%s\nasked %s", r, want, f.last())
	}
	if r := f.run("template", "gc", "-o", "wide"); r.code != 0 || !strings.Contains(r.stdout, "stays: used by web (101)") || f.last() != `{"older_ms":2592000000}` {
		t.Errorf("wide: %+v, asked %s", r, f.last())
	}
	if r := f.run("template", "gc", "-o", "name"); r.stdout != "host2/debian-12\nhost2/sha256:bb\n" {
		t.Errorf("names: %+v", r)
	}
	if r := f.run("template", "gc", "--older", "soon"); r.code != 2 || !strings.Contains(r.stderr, "not a time") {
		t.Errorf("no time: %+v", r)
	}
	if r := f.run("template", "gc", "all"); r.code != 2 {
		t.Errorf("an argument: %+v", r)
	}
	f = newFake(t, map[string]any{api.RouteCollect: api.CollectResult{Failed: []api.HostFailure{{Host: "host3", Error: "it is down"}}}})
	if r := f.run("template", "gc"); r.code != 1 || !strings.Contains(r.stdout, "0 of 0") || !strings.Contains(r.stderr, "host3: it is down") {
		t.Errorf("a host is down: %+v", r)
	}
}
