package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime/image"
)

// collected says host by host what became of the copies of a template: why it stays, or "gone".
func (h *testHost) collected(digest string, r api.CollectRequest) []string {
	h.t.Helper()
	res, err := h.Collect(h.t.Context(), r)
	must(h.t, err)
	if len(res.Failed) > 0 {
		h.t.Fatalf("it failed on %+v", res.Failed)
	}
	var out []string
	for _, c := range res.Copies {
		if c.Digest != digest {
			continue
		}
		if c.Kept == "" {
			c.Kept = "gone"
		}
		out = append(out, c.Host+" "+c.Kept)
	}
	return out
}

// A copy of a template is deleted only where nothing lies on it, when it is old, and when another host has it too.
func TestCollect(t *testing.T) {
	_, hosts := newCluster(t, 3)
	ctx := t.Context()
	for i, h := range hosts {
		_, err := h.Create(ctx, api.CreateRequest{
			Name: fmt.Sprintf("c%d", i+1), Template: "tiny", Host: h.cfg.Name, Limits: cluster.Limits{RAM: 64 << 20}, Start: true,
		})
		must(t, err)
	}
	tiny, err := hosts[0].Template(ctx, "tiny")
	must(t, err)
	_, err = hosts[0].Action(ctx, "c2", "destroy", api.ActionRequest{Force: true})
	must(t, err)
	if got := hosts[0].collected(tiny.Digest, api.CollectRequest{}); len(got) != 3 || !strings.Contains(got[1], "used by c2") {
		t.Errorf("one is in the trash: %q", got)
	}
	for _, id := range []string{"102", "103"} {
		_, err := hosts[0].Action(ctx, id, "destroy", api.ActionRequest{Force: true, Now: true})
		must(t, err)
	}
	old := api.CollectRequest{OlderMS: time.Hour.Milliseconds()}
	for _, at := range hosts { // each judges by its replica
		eventually(t, "the replica follows", func() error {
			if cs := at.agent.State().Count(); cs != 1 {
				return fmt.Errorf("%d containers", cs)
			}
			return nil
		})
	}
	if got := hosts[1].collected(tiny.Digest, old); len(got) != 3 || !strings.Contains(got[0], "used by") || !strings.Contains(got[1], "ago") || !strings.Contains(got[2], "ago") {
		t.Errorf("young copies: %q", got)
	}
	for _, h := range hosts {
		h.images.age(2 * time.Hour)
	}
	old.DryRun = true
	if got := hosts[1].collected(tiny.Digest, old); !strings.Contains(got[0], "used by") || !slices.Equal(got[1:], []string{"host2 gone", "host3 gone"}) {
		t.Errorf("a rehearsal: %q", got)
	}
	old.DryRun = false
	busy := hosts[2].agent.member.Load()
	busy.images.RLock() // one is being fetched
	res, err := hosts[1].Collect(ctx, old)
	busy.images.RUnlock()
	must(t, err)
	if len(res.Failed) != 1 || res.Failed[0].Host != "host3" || !hosts[2].images.Has(tiny.Digest) || hosts[1].images.Has(tiny.Digest) {
		t.Errorf("while a template is fetched: %+v", res)
	}
	if got := hosts[1].collected(tiny.Digest, old); len(got) != 2 || got[1] != "host3 gone" || hosts[2].images.Has(tiny.Digest) || !hosts[0].images.Has(tiny.Digest) {
		t.Errorf("all of them: %q", got)
	}
	if tiny, err = hosts[0].Template(ctx, "tiny"); err != nil || !slices.Equal(tiny.Hosts, []string{"host1"}) {
		t.Errorf("the cluster believes copies on %v (%v)", tiny.Hosts, err)
	}

	_, err = hosts[0].Create(ctx, api.CreateRequest{Name: "again", Template: "tiny", Host: "host2", Limits: cluster.Limits{RAM: 64 << 20}, Start: true})
	must(t, err) // it was fetched again
	if !hosts[1].images.Has(tiny.Digest) {
		t.Error("a container runs without its template")
	}
}

// Of a template that nobody uses one copy stays, until it is removed by name.
func TestCollectKeepsTheLastCopy(t *testing.T) {
	_, hosts := newCluster(t, 1)
	ctx, h := t.Context(), hosts[0]
	tiny, err := h.Template(ctx, "tiny")
	must(t, err)
	for _, dry := range []bool{true, false} {
		if got := h.collected(tiny.Digest, api.CollectRequest{DryRun: dry}); len(got) != 1 || got[0] != "host1 the last copy of tiny" {
			t.Errorf("dry %v: %q", dry, got)
		}
	}
	must(t, h.DropTemplate(ctx, "tiny"))
	eventually(t, "the copy of a removed template", func() error {
		if h.images.Has(tiny.Digest) {
			return fmt.Errorf("%s is still there", tiny.Digest)
		}
		return nil
	})
	_, err = h.images.Import(ctx, strings.NewReader("nobody knows this one"), image.ImportOptions{})
	must(t, err)
	images, err := h.images.List()
	must(t, err)
	if got := h.collected(images[0].Digest, api.CollectRequest{}); len(got) != 1 || got[0] != "host1 gone" {
		t.Errorf("of one that is not known: %q", got)
	}
	_, err = h.Collect(ctx, api.CollectRequest{OlderMS: -1})
	wantCode(t, err, api.CodeUsage)
}
