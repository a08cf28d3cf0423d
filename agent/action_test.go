package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// oneHost is a cluster of one host with a container that runs.
func oneHost(t *testing.T) (*testHost, api.Container) {
	t.Helper()
	_, hosts := newCluster(t, 1)
	return hosts[0], hosts[0].create("web", 64<<20)
}

func (h *testHost) act(ct, action string, r api.ActionRequest) api.Container {
	h.t.Helper()
	r.Wait = patience
	c, err := h.Action(h.t.Context(), ct, action, r)
	if err != nil {
		h.t.Fatalf("%s %s: %v", action, ct, err)
	}
	return c
}

func (h *testHost) refused(ct, action string, r api.ActionRequest, code api.Code, says ...string) {
	h.t.Helper()
	r.Wait = patience
	_, err := h.Action(h.t.Context(), ct, action, r)
	wantSays(h.t, err, code, says...)
}

func TestSuspend(t *testing.T) {
	h, c := oneHost(t)
	if c = h.act("web", "suspend", api.ActionRequest{}); c.State != cluster.Suspended || h.engine.runs(c.ID) {
		t.Fatalf("it is %s", c.State)
	}
	h.act("web", "suspend", api.ActionRequest{})
	h.refused("web", "stop", api.ActionRequest{}, api.CodeRefused, "is suspended", "throws its memory away")
	h.refused("web", "restart", api.ActionRequest{}, api.CodeRefused, "is suspended")

	// A reboot of the host: nothing runs, nothing is remembered but what is on disk.
	h.stop()
	h.start()
	if c = h.act("web", "resume", api.ActionRequest{}); c.State != cluster.Running || c.Detail != "" {
		t.Fatalf("it is %s, %q", c.State, c.Detail)
	}
	if is, _ := h.engine.Suspension(c.ID); is != "" {
		t.Error("its memory was not used")
	}
	h.act("web", "suspend", api.ActionRequest{})
	c = h.act("web", "stop", api.ActionRequest{Force: true})
	if is, _ := h.engine.Suspension(c.ID); is != "" || c.State != cluster.Stopped {
		t.Errorf("after a stop its memory is %q, it is %s", is, c.State)
	}
	h.act("web", "stop", api.ActionRequest{}) // stopping a stopped one succeeds
	h.refused("web", "suspend", api.ActionRequest{}, api.CodeConflict, "nothing to suspend")
}

func TestSuspendThatFails(t *testing.T) {
	h, c := oneHost(t)
	before := h.engine.count()
	h.engine.set(func(e *fakeEngine) { e.refuse = errors.New("the disk is full") })
	h.refused("web", "suspend", api.ActionRequest{}, api.CodeFailed, "could not be suspended", "the disk is full")
	if !h.engine.runs(c.ID) || h.engine.count() != before {
		t.Error("it does not run on")
	}
	h.engine.set(func(e *fakeEngine) { e.refuse = nil })
	if c = h.act("web", "suspend", api.ActionRequest{}); c.State != cluster.Suspended {
		t.Errorf("the second try: it is %s", c.State)
	}
}

func TestSuspendIsRefusedBeforehand(t *testing.T) {
	h, c := oneHost(t)
	h.lab.found = nil
	h.stop()
	h.lab.found = func(int) []api.Blocker {
		return []api.Blocker{{Process: "7 sleep", What: "it was started by exec", Remedy: "end it", Session: true}}
	}
	h.start()
	h.refused("web", "suspend", api.ActionRequest{}, api.CodeRefused, "7 sleep: it was started by exec", "end it")
	if !h.engine.runs(c.ID) {
		t.Error("it was ended")
	}
	if c = h.act("web", "suspend", api.ActionRequest{Force: true}); c.State != cluster.Suspended {
		t.Errorf("it is %s", c.State)
	}
}

func TestTrashAndBack(t *testing.T) {
	h, c := oneHost(t)
	gone := h.act("web", "destroy", api.ActionRequest{})
	if !gone.InTrash() || h.engine.runs(c.ID) {
		t.Fatalf("destroyed it is %+v", gone)
	}
	if cs, err := h.Containers(t.Context()); err != nil || len(cs) != 0 {
		t.Errorf("ls shows %v, %v", cs, err)
	}
	trash, err := h.Trash(t.Context())
	if err != nil || len(trash) != 1 || trash[0].ID != c.ID {
		t.Fatalf("the trash has %+v, %v", trash, err)
	}
	h.refused("101", "start", api.ActionRequest{}, api.CodeConflict, "trash restore 101")
	other := h.create("web", 64<<20) // its name is free
	_, err = h.Restore(t.Context(), "web", api.RestoreRequest{})
	wantSays(t, err, api.CodeConflict, "taken")
	back, err := h.Restore(t.Context(), "web", api.RestoreRequest{Name: "old"})
	must(t, err)
	if back.ID != c.ID || back.InTrash() || back.State != cluster.Stopped {
		t.Errorf("back is %+v", back)
	}
	h.act("old", "start", api.ActionRequest{})
	h.act("old", "destroy", api.ActionRequest{})
	h.act("101", "destroy", api.ActionRequest{Now: true}) // out of the trash
	h.act("web", "destroy", api.ActionRequest{Now: true}) // past it
	if ids, _ := h.engine.List(); len(ids) != 0 {
		t.Errorf("of %d and %d is left: %v", c.ID, other.ID, ids)
	}
}

func TestTrashIsEmptied(t *testing.T) {
	h, c := oneHost(t)
	h.act("web", "destroy", api.ActionRequest{})
	m := h.agent.member.Load()
	m.emptyTrash(t.Context(), time.Now().Add(23*time.Hour))
	if m.store.State().Container(c.ID).Desired == cluster.WantDestroyed {
		t.Fatal("it was deleted before its time")
	}
	m.emptyTrash(t.Context(), time.Now().Add(25*time.Hour))
	eventually(t, "it is deleted", func() error {
		if m.store.State().Container(c.ID) != nil {
			return errors.New("it is still there")
		}
		return nil
	})
}

func TestDecideAboutMemory(t *testing.T) {
	ct := func(want cluster.Desired, state cluster.ContainerState) *cluster.Container {
		return &cluster.Container{ID: 101, Host: "host1", Generation: 3, Epoch: 5, Desired: want, State: state}
	}
	did := acted{Generation: 3, Epoch: 5}
	for name, c := range map[string]struct {
		c    *cluster.Container
		l    local
		want verb
	}{
		"to be suspended":                      {ct(cluster.WantSuspended, cluster.Running), local{Running: true, Acted: did}, doSuspend},
		"cut off behind its checkpoint":        {ct(cluster.WantSuspended, cluster.Running), local{Running: true, Memory: runtime.Suspended, Acted: did}, doSuspend},
		"suspended, not yet reported":          {ct(cluster.WantSuspended, cluster.Running), local{Memory: runtime.Suspended, Acted: did}, doReport},
		"suspended":                            {ct(cluster.WantSuspended, cluster.Suspended), local{Memory: runtime.Suspended}, doNothing},
		"it ended before":                      {ct(cluster.WantSuspended, cluster.Running), local{Acted: did}, doReport},
		"to go on":                             {ct(cluster.WantRunning, cluster.Suspended), local{Memory: runtime.Suspended}, doStart},
		"a resume was cut off":                 {ct(cluster.WantRunning, cluster.Starting), local{Running: true, Memory: runtime.Resuming, Acted: did}, doStart},
		"its host went down while it resumed":  {ct(cluster.WantRunning, cluster.Starting), local{Memory: runtime.Resuming}, doStart},
		"to be stopped for good":               {ct(cluster.WantStopped, cluster.Suspended), local{Memory: runtime.Suspended}, doForget},
		"a local operation":                    {ct(cluster.WantRunning, cluster.Running), local{Running: true, Task: true, Acted: did}, doTask},
		"a local operation on what is to stop": {ct(cluster.WantStopped, cluster.Running), local{Running: true, Task: true}, doTask},
	} {
		if got := decide("host1", c.c, c.l).Do; got != c.want {
			t.Errorf("%s: it does %s, want %s", name, got, c.want)
		}
	}
}
