package agent

import (
	"io"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestFiles(t *testing.T) {
	h, c := oneHost(t)
	get := func(path string) (text string, err error) {
		err = h.Files(t.Context(), "web", path, func(r io.Reader) error {
			b, err := io.ReadAll(r)
			text = string(b)
			return err
		})
		return text, err
	}
	for _, stopped := range []bool{false, true} {
		if stopped {
			h.act("web", "stop", api.ActionRequest{})
		}
		must(t, h.PutFiles(t.Context(), "web", "/etc/a", strings.NewReader("an archive"), true, true))
		if text, err := get("/etc/a"); err != nil || text != "an archive" {
			t.Errorf("it reads %q: %v", text, err)
		}
	}
	_, err := get("/etc/none")
	wantSays(t, err, api.CodeNotFound, "/etc/none")
	_, err = get("etc/a")
	wantSays(t, err, api.CodeUsage, "not the path")
	must(t, h.PutFiles(t.Context(), "web", "/broken", strings.NewReader("x"), false, false))
	_, err = get("/broken")
	wantSays(t, err, api.CodeFailed, "not complete: the disk is broken")
	h.act("web", "start", api.ActionRequest{})
	h.act("web", "suspend", api.ActionRequest{})
	wantSays(t, h.PutFiles(t.Context(), "web", "/etc/a", strings.NewReader("y"), false, false), api.CodeConflict, "suspended")
	h.act("web", "resume", api.ActionRequest{})
	// A copy does not keep the container from being stopped.
	r, w := io.Pipe()
	put := make(chan error, 1)
	go func() { put <- h.PutFiles(t.Context(), "web", "/slow", r, false, false) }()
	_, err = io.WriteString(w, "begun")
	must(t, err)
	if c = h.act("web", "stop", api.ActionRequest{}); c.State != cluster.Stopped {
		t.Errorf("it is %s", c.State)
	}
	w.Close()
	if err := <-put; err == nil {
		t.Error("a copy that was cut short went well")
	}
}

func TestInside(t *testing.T) {
	h, _ := oneHost(t)
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2bLQYkPMSd1TnPLEfzD9TNBEH6PK2ni4t2xZq0vBPo me"
	must(t, h.Inside(t.Context(), "web", api.InsideRequest{Passwords: map[string]string{"root": "$6$salt$hash"}, Keys: map[string]string{"root": key}, TimeZone: "UTC"}))
	h.engine.set(func(e *fakeEngine) {
		if len(e.edits) != 1 || e.edits[0].Passwords["root"] != "$6$salt$hash" || e.edits[0].TimeZone != "UTC" {
			t.Errorf("edited %+v", e.edits)
		}
	})
	for says, bad := range map[string]api.InsideRequest{
		"no hash":   {Passwords: map[string]string{"root": "$6$a:b\nevil::0:0::/:/bin/sh"}},
		"no public": {Keys: map[string]string{"root": "nothing"}},
	} {
		wantSays(t, h.Inside(t.Context(), "web", bad), api.CodeUsage, says)
	}
}
