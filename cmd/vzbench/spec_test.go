package main

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// agentSpec is what an agent writes, in small.
func agentSpec(t *testing.T) []byte {
	t.Helper()
	b, err := json.Marshal(specs.Spec{
		Version: specs.Version, Hostname: "web", Root: &specs.Root{Path: "/data/101/root"},
		Process: &specs.Process{Args: []string{"/sbin/init"}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/run", Type: "bind", Source: "/data/101/root/run"},
			{Destination: "/other", Type: "bind", Source: "/data/101/root2"},
			{Destination: "/sys/fs/cgroup/systemd", Type: "bind", Source: "/sys/fs/cgroup/systemd/vz/101"},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/vz/101", Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno},
			UIDMappings: []specs.LinuxIDMapping{{HostID: 1 << 20, Size: 65536}},
			Namespaces:  []specs.LinuxNamespace{{Type: specs.UserNamespace}, {Type: specs.NetworkNamespace}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func adapted(t *testing.T, mounts style) (ours, floor specs.Spec) {
	t.Helper()
	raw := agentSpec(t)
	b, err := adapt(raw, place{root: "/floor/root", cgroup: "/bench/1", hook: "/floor/hook.sh", criu: "/floor/criu.conf"},
		nic{Port: "p0", Bridge: "br0", MAC: "02:00:00:00:00:01", Address: "10.0.0.2/16"}, mounts)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &ours); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &floor); err != nil {
		t.Fatal(err)
	}
	return ours, floor
}

func TestAdaptKeepsWhatMattersForSpeed(t *testing.T) {
	ours, floor := adapted(t, ownMounts)
	if d := cmp.Diff(ours.Process, floor.Process); d != "" {
		t.Error(d)
	}
	for what, pair := range map[string][2]any{
		"seccomp": {ours.Linux.Seccomp, floor.Linux.Seccomp}, "ids": {ours.Linux.UIDMappings, floor.Linux.UIDMappings},
		"namespaces": {ours.Linux.Namespaces, floor.Linux.Namespaces},
	} {
		if d := cmp.Diff(pair[0], pair[1]); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
}

func TestAdaptMovesRootAndCgroup(t *testing.T) {
	_, floor := adapted(t, ownMounts)
	if floor.Root.Path != "/floor/root" || floor.Linux.CgroupsPath != "/bench/1" {
		t.Errorf("root %s, cgroup %s", floor.Root.Path, floor.Linux.CgroupsPath)
	}
	var sources []string
	for _, m := range floor.Mounts {
		sources = append(sources, m.Source)
	}
	want := []string{"proc", "/floor/root/run", "/data/101/root2", "/sys/fs/cgroup/systemd/bench/1"}
	if d := cmp.Diff(want, sources); d != "" {
		t.Error(d)
	}
	h := floor.Hooks.CreateRuntime
	if len(h) != 1 || h[0].Path != "/floor/hook.sh" || h[0].Env[1] != "PORT=p0" {
		t.Errorf("hooks: %+v", h)
	}
	if floor.Annotations["org.criu.config"] != "/floor/criu.conf" {
		t.Errorf("annotations: %v", floor.Annotations)
	}
}

func TestAdaptByHand(t *testing.T) {
	_, floor := adapted(t, byHand)
	tmpfs := 0
	for _, m := range floor.Mounts {
		if m.Type == "bind" {
			t.Errorf("%s is one of our binds", m.Destination)
		}
		if m.Type == "tmpfs" {
			tmpfs++
		}
	}
	if tmpfs != 4 || floor.Linux.Seccomp == nil {
		t.Errorf("%d tmpfs, seccomp %v", tmpfs, floor.Linux.Seccomp)
	}
}

func TestAdaptRefuses(t *testing.T) {
	for _, raw := range []string{"", "{}", `{"root":{"path":"/x"}}`} {
		if _, err := adapt([]byte(raw), place{}, nic{}, ownMounts); err == nil {
			t.Errorf("%q was taken for a specification", raw)
		}
	}
}
