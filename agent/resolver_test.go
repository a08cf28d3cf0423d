package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

func TestSetResolver(t *testing.T) {
	h, c := oneHost(t)
	said := func() (last string) { // of the files that were written while it ran
		h.engine.set(func(e *fakeEngine) {
			if len(e.edits) > 0 {
				last = e.edits[len(e.edits)-1].ResolvConf
			}
		})
		return last
	}
	started := func() (s runtime.Spec) {
		h.engine.with(c.ID, func(f *fakeContainer) { s = f.spec })
		return s
	}
	set := func(servers, domains []string) api.Container {
		t.Helper()
		now, err := h.Set(t.Context(), "web", api.SetRequest{NameServers: servers, SearchDomains: domains})
		must(t, err)
		return now
	}
	usual := started().ResolvConf()
	set([]string{"10.0.0.53"}, []string{"example.org", "example.com"})
	if got := said(); !strings.HasSuffix(got, "search example.org example.com\nnameserver 10.0.0.53\n") {
		t.Errorf("while it runs the file says %q", got)
	}
	// What cannot be written leaves everything as it was.
	h.engine.set(func(e *fakeEngine) { e.unwritten = errors.New("the disk is full") })
	_, err := h.Set(t.Context(), "web", api.SetRequest{NameServers: []string{"10.0.0.54"}})
	wantSays(t, err, api.CodeRefused, "the disk is full")
	h.engine.set(func(e *fakeEngine) { e.unwritten = nil })
	if now, err := h.Container(t.Context(), "web"); err != nil || !slices.Equal(now.NameServers, []string{"10.0.0.53"}) || len(now.SearchDomains) != 2 {
		t.Errorf("after a refusal it has %v, %v: %v", now.NameServers, now.SearchDomains, err)
	}
	_, err = h.Set(t.Context(), "web", api.SetRequest{NameServers: []string{"ns.example.org"}})
	wantSays(t, err, api.CodeUsage, "no address of a name server")

	// A clone has what its origin has; a start writes it.
	clone, err := h.Clone(t.Context(), "web", api.CloneRequest{Name: "web2"})
	must(t, err)
	if !slices.Equal(clone.NameServers, []string{"10.0.0.53"}) {
		t.Errorf("the clone has %v", clone.NameServers)
	}
	h.act("web", "stop", api.ActionRequest{})
	set([]string{"10.0.0.55", "10.0.0.56"}, []string{cluster.DefaultDNS})
	h.act("web", "start", api.ActionRequest{})
	if s := started(); !slices.Equal(s.DNS, []string{"10.0.0.55", "10.0.0.56"}) || slices.Contains(s.Search, "example.org") {
		t.Errorf("it was started with %v, %v", s.DNS, s.Search)
	}
	// One that was suspended goes on with its old file, which is then replaced.
	h.act("web", "suspend", api.ActionRequest{})
	set([]string{cluster.DefaultDNS}, nil)
	h.act("web", "resume", api.ActionRequest{})
	eventually(t, "the file says what all containers have", func() error {
		if got := said(); got != usual {
			return fmt.Errorf("it says %q, not %q", got, usual)
		}
		return nil
	})
}
