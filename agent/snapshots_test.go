package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// put writes a file of a container's layer, got reads it; "" when it is not there.
func (h *testHost) put(id int, name, text string) {
	h.t.Helper()
	layer, err := h.engine.Layer(id)
	must(h.t, err)
	must(h.t, os.MkdirAll(filepath.Dir(filepath.Join(layer, name)), 0o755))
	must(h.t, os.WriteFile(filepath.Join(layer, name), []byte(text), 0o640))
}

func (h *testHost) got(id int, name string) string {
	h.t.Helper()
	layer, err := h.engine.Layer(id)
	must(h.t, err)
	b, err := os.ReadFile(filepath.Join(layer, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.t.Fatal(err)
	}
	return string(b)
}

// onlySaved are the names of what is kept beside a layer.
func (h *testHost) onlySaved(id int, want ...string) {
	h.t.Helper()
	entries, _ := os.ReadDir(h.engine.Saved(id))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if len(names) != len(want) || len(want) > 0 && names[0] != want[0] {
		h.t.Errorf("beside the layer there is %v, want %v", names, want)
	}
}

func skipUnlessRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("layers can only be copied by root")
	}
}

func TestSnapshots(t *testing.T) {
	skipUnlessRoot(t)
	h, c := oneHost(t)
	ctx := t.Context()
	h.put(c.ID, "etc/motd", "one")
	now, err := h.Snapshot(ctx, "web", api.SnapshotRequest{Name: "disk", Text: "before"})
	must(t, err)
	if len(now.Snapshots) != 1 || now.Snapshots[0].Bytes == 0 || now.State != cluster.Running {
		t.Fatalf("it is %+v", now)
	}
	_, err = h.Snapshot(ctx, "web", api.SnapshotRequest{Name: "disk"})
	wantSays(t, err, api.CodeConflict, "already")
	h.put(c.ID, "etc/motd", "two")
	_, err = h.Snapshot(ctx, "web", api.SnapshotRequest{Name: "all", Memory: true})
	must(t, err)
	h.put(c.ID, "etc/motd", "three")

	starts := h.engine.count()
	now, err = h.Switch(ctx, "web", "disk", api.TaskRequest{})
	must(t, err)
	if h.got(c.ID, "etc/motd") != "one" || now.State != cluster.Running || h.engine.count() != starts+1 || h.engine.resumed {
		t.Errorf("it has %q, is %s, resumed: %v", h.got(c.ID, "etc/motd"), now.State, h.engine.resumed)
	}
	h.act("web", "stop", api.ActionRequest{})
	now, err = h.Switch(ctx, "web", "all", api.TaskRequest{})
	must(t, err)
	if h.got(c.ID, "etc/motd") != "two" || now.State != cluster.Running || !h.engine.resumed {
		t.Errorf("it has %q, is %s, resumed: %v", h.got(c.ID, "etc/motd"), now.State, h.engine.resumed)
	}
	for _, name := range []string{"disk", "all"} {
		now, err = h.DropSnapshot(ctx, "web", name)
		must(t, err)
	}
	if len(now.Snapshots) != 0 {
		t.Errorf("it still has %+v", now.Snapshots)
	}
	_, err = h.Switch(ctx, "web", "disk", api.TaskRequest{})
	wantSays(t, err, api.CodeNotFound, "snapshot ls")
	h.onlySaved(c.ID, "snapshots")
}

func TestSnapshotThatFails(t *testing.T) {
	skipUnlessRoot(t)
	h, c := oneHost(t)
	h.put(c.ID, "etc/motd", "one")
	h.engine.set(func(e *fakeEngine) { e.refuse = errors.New("no space left on device") })
	_, err := h.Snapshot(t.Context(), "web", api.SnapshotRequest{Name: "all", Memory: true})
	wantSays(t, err, api.CodeFailed, "snapshot of web (101) failed", "no space left", "nothing was changed")
	if entries, _ := os.ReadDir(filepath.Join(h.engine.Saved(c.ID), snapshotsDir)); len(entries) != 0 {
		t.Errorf("half of it is left: %v", entries)
	}
	h.engine.set(func(e *fakeEngine) { e.refuse = nil })
	_, err = h.Snapshot(t.Context(), "web", api.SnapshotRequest{Name: "all", Memory: true})
	must(t, err)
	if !h.engine.runs(c.ID) {
		t.Error("it does not run any more")
	}
}

func TestCloneOfRunning(t *testing.T) {
	skipUnlessRoot(t)
	h, c := oneHost(t)
	for name, text := range map[string]string{"etc/motd": "one", "etc/machine-id": "1", "etc/ssh/ssh_host_rsa_key": "k"} {
		h.put(c.ID, name, text)
	}
	two, err := h.Clone(t.Context(), "web", api.CloneRequest{Name: "two", Start: true, Labels: map[string]string{"a": "b"}})
	must(t, err)
	if two.State != cluster.Running || two.Host != c.Host || two.Limits != c.Limits || two.Labels["a"] != "b" || two.Addresses[0] == c.Addresses[0] {
		t.Errorf("it is %+v", two)
	}
	if h.got(two.ID, "etc/motd") != "one" || h.got(two.ID, "etc/machine-id")+h.got(two.ID, "etc/ssh/ssh_host_rsa_key") != "" {
		t.Error("it has another content, or the same identity")
	}
	if h.got(c.ID, "etc/machine-id") != "1" || !h.engine.runs(c.ID) {
		t.Error("the old one has changed")
	}
	_, err = h.Clone(t.Context(), "web", api.CloneRequest{Name: "web"})
	wantSays(t, err, api.CodeConflict, "taken")
}

func TestReinstallKeeps(t *testing.T) {
	skipUnlessRoot(t)
	h, c := oneHost(t)
	h.put(c.ID, "etc/motd", "one")
	h.put(c.ID, "var/www/site/index", "site")
	h.put(c.ID, "etc/app.conf", "conf")
	h.put(c.ID, "var/lib/other", "other")
	layer, _ := h.engine.Layer(c.ID)
	must(t, os.Symlink("/etc", filepath.Join(layer, "srv")))
	_, err := h.Reinstall(t.Context(), "web", api.ReinstallRequest{Keep: []string{"/srv/passwd"}})
	wantSays(t, err, api.CodeFailed, "/srv is neither a folder nor a plain file")
	if h.got(c.ID, "etc/motd") != "one" {
		t.Fatal("a reinstallation that failed has changed it")
	}
	eventually(t, "it runs again", func() error {
		if !h.engine.runs(c.ID) {
			return errors.New("it does not")
		}
		return nil
	})
	starts := h.engine.count()
	now, err := h.Reinstall(t.Context(), "web", api.ReinstallRequest{Keep: []string{"/var/www", "/etc/app.conf", "/not/there"}})
	must(t, err)
	if h.got(c.ID, "var/www/site/index") != "site" || h.got(c.ID, "etc/app.conf") != "conf" {
		t.Error("what was to be kept is gone")
	}
	if h.got(c.ID, "etc/motd")+h.got(c.ID, "var/lib/other") != "" || now.State != cluster.Running || h.engine.count() != starts+1 {
		t.Errorf("what was not to be kept is there, or it was not started anew: %s", now.State)
	}
	h.onlySaved(c.ID)
}

// TestTaskIsTakenUpAgain has an agent die behind what it did and before it could say so.
func TestTaskIsTakenUpAgain(t *testing.T) {
	skipUnlessRoot(t)
	h, c := oneHost(t)
	h.put(c.ID, "etc/motd", "one")
	m := h.agent.member.Load()
	h.engine.set(func(e *fakeEngine) { e.stubbor = true })
	half := filepath.Join(h.engine.Saved(c.ID), snapshotsDir, "cut"+beingMade, layerPart)
	must(t, os.MkdirAll(half, 0o755))
	must(t, os.WriteFile(filepath.Join(half, "rubbish"), nil, 0o600))
	_, err := m.store.Apply(t.Context(), cluster.BeginTask{Operation: cluster.Operation{
		ID: "t-1", Kind: cluster.OpSnapshot, Container: c.ID, Generation: c.Generation, From: c.Host, Task: &cluster.Task{Snapshot: "cut"},
	}})
	must(t, err)
	h.stop()
	h.start()
	m = h.agent.member.Load()
	eventually(t, "the operation ends", func() error {
		if op := m.store.State().Operation("t-1"); op == nil || op.Status != cluster.OpDone {
			return errors.New("it has not ended")
		}
		return nil
	})
	dir := filepath.Join(h.engine.Saved(c.ID), snapshotsDir, "cut", layerPart, filesPart)
	if _, err := os.Stat(filepath.Join(dir, "rubbish")); err == nil {
		t.Error("what was half-made is part of it")
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "etc/motd")); string(b) != "one" {
		t.Errorf("it has %q", b)
	}
}
