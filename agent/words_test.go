package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func wantSays(t *testing.T, err error, code api.Code, says ...string) {
	t.Helper()
	wantCode(t, err, code)
	for _, s := range says {
		if err != nil && !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not say %q", err, s)
		}
	}
}

// Who asks for something on a host that is down is told at once when it will be done.
func TestHostIsDown(t *testing.T) {
	l, hosts := newCluster(t, 3)
	eventually(t, "three voters", func() error { return threeVoters(hosts[0]) })
	down := l.followers()[0]
	for _, name := range []string{"one", "two"} {
		_, err := hosts[0].Create(t.Context(), api.CreateRequest{
			Name: name, Template: "tiny", Host: down.cfg.Name, Limits: cluster.Limits{RAM: 64 << 20}, Start: true,
		})
		must(t, err)
	}
	down.stop()
	h := l.leader()
	began := time.Now()
	_, err := h.Action(t.Context(), "one", "stop", api.ActionRequest{})
	wantSays(t, err, api.CodeTimeout, down.cfg.Name+" is down; it will be done when "+down.cfg.Name+" is back")
	_, err = h.Action(t.Context(), "two", "restart", api.ActionRequest{})
	wantSays(t, err, api.CodeTimeout, "is down; it will be done")
	_, err = h.Action(t.Context(), "one", "destroy", api.ActionRequest{Force: true, Now: true})
	wantSays(t, err, api.CodeTimeout, "is down; it will be done")
	ram := int64(128 << 20)
	_, err = h.Set(t.Context(), "two", api.SetRequest{RAM: &ram})
	wantSays(t, err, api.CodeTimeout, "recorded; it takes effect when "+down.cfg.Name+" is back")
	_, err = h.Migrate(t.Context(), "two", api.MigrateRequest{})
	wantSays(t, err, api.CodeConflict, "two (102)", "is down")
	if took := time.Since(began); took > patience {
		t.Errorf("it took %s", took)
	}
	down.start()
	eventually(t, "it is done when the host is back", func() error {
		if n := down.engine.limits(102).RAM; n != ram {
			return fmt.Errorf("two has %d bytes", n)
		}
		if _, err := h.Container(t.Context(), "one"); api.CodeOf(err) != api.CodeNotFound {
			return fmt.Errorf("one is still there: %w", err)
		}
		return nil
	})
}

// What does not run is moved offline, also by one who does not say so.
func TestStoppedIsMovedOffline(t *testing.T) {
	_, hosts := newCluster(t, 2)
	h := hosts[0]
	_, err := h.Create(t.Context(), api.CreateRequest{Name: "web", Template: "tiny", Limits: cluster.Limits{RAM: 64 << 20}})
	must(t, err)
	for _, mode := range []string{"", cluster.ModeLive, cluster.ModeOffline} {
		op, err := h.Migrate(t.Context(), "web", api.MigrateRequest{Mode: mode})
		must(t, err)
		if op.Mode != cluster.ModeOffline {
			t.Errorf("mode %q became %q, want offline", mode, op.Mode)
		}
		eventually(t, "the move ends", func() error {
			op, err := h.Operation(t.Context(), op.ID, 0)
			if err == nil && op.Status != cluster.OpDone {
				err = errors.New(string(op.Status))
			}
			return err
		})
	}
}

func TestSentences(t *testing.T) {
	l, hosts := newCluster(t, 1)
	h, e := hosts[0], l.engines["host1"]
	h.create("web", 64<<20)
	place := func(r api.CreateRequest) error {
		r.Limits.RAM = 64 << 20
		_, err := h.Place(t.Context(), r)
		return err
	}
	wantSays(t, place(api.CreateRequest{Name: "web"}), api.CodeConflict, "web")
	wantSays(t, place(api.CreateRequest{Template: "tiny", ID: 101}), api.CodeConflict, "101")
	wantSays(t, place(api.CreateRequest{Template: "tiny", IP: "192.0.2.1"}), api.CodeUsage, "192.0.2.1")
	must(t, place(api.CreateRequest{Name: "new"}))

	e.set(func(e *fakeEngine) { e.refuse = fmt.Errorf("write /sys/fs/cgroup/x: %w", unix.EBUSY) })
	ram := int64(4 << 20)
	_, err := h.Set(t.Context(), "web", api.SetRequest{RAM: &ram})
	wantSays(t, err, api.CodeRefused, "web uses more than 4M now")
	if strings.Contains(err.Error(), "/sys") {
		t.Errorf("%q shows the kernel's files", err)
	}
	e.set(func(e *fakeEngine) { e.refuse = nil })

	name := "other"
	c, err := h.Set(t.Context(), "web", api.SetRequest{Hostname: &name})
	must(t, err)
	if len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "started next") {
		t.Errorf("its notes are %q, want one about the next start", c.Notes)
	}
	_, err = h.Migrate(t.Context(), "web", api.MigrateRequest{To: "host1"})
	wantSays(t, err, api.CodeConflict, "web (101) is on host1 already")
	_, err = h.Action(t.Context(), "web", "stop", api.ActionRequest{})
	must(t, err)
	_, err = h.Exec(t.Context(), "101", api.Exec{Args: []string{"cat"}}, api.Streams{})
	wantSays(t, err, api.CodeConflict, "web (101) does not run")
}
