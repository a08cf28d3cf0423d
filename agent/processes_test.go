package agent

import (
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/runtime"
)

func TestProcesses(t *testing.T) {
	h, c := oneHost(t)
	h.engine.set(func(e *fakeEngine) { e.processes = []runtime.Running{{PID: 4711, Inside: 1, Command: "init"}} })
	found, err := h.Processes(t.Context(), "web")
	if must(t, err); len(found) != 1 || found[0].Inside != 1 {
		t.Errorf("found %+v", found)
	}
	which, err := h.Which(t.Context(), 4711)
	if must(t, err); which.Container != c.ID || which.Name != "web" || which.Process.Command != "init" {
		t.Errorf("it is %+v", which)
	}
	_, err = h.Which(t.Context(), 1)
	wantSays(t, err, api.CodeNotFound, "in no container")
	_, err = h.Which(t.Context(), -1)
	wantSays(t, err, api.CodeUsage, "not the number")
	h.act("web", "stop", api.ActionRequest{})
	_, err = h.Processes(t.Context(), "web")
	wantSays(t, err, api.CodeConflict, "does not run")
}
