package runc

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcluster/vzcluster/runtime"
)

func makeSpec(t *testing.T, s runtime.Spec, unified bool) *specs.Spec {
	t.Helper()
	r := New(Config{Bundles: "/ct", Unified: unified})
	spec, err := r.spec(s, "/ct/101/root", "/vz/101")
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// TestSecureByDefault holds what no container may be without.
func TestSecureByDefault(t *testing.T) {
	spec := makeSpec(t, runtime.Spec{ID: 101, Hostname: "ct", UIDBase: 1 << 20, Init: []string{"/sbin/init"}, Systemd: true}, false)
	kinds := []specs.LinuxNamespaceType{}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Path != "" {
			t.Errorf("the %s namespace is somebody else's: %s", ns.Type, ns.Path)
		}
		kinds = append(kinds, ns.Type)
	}
	for _, want := range []specs.LinuxNamespaceType{"user", "pid", "network", "ipc", "uts", "mount", "cgroup"} {
		if !slices.Contains(kinds, want) {
			t.Errorf("no %s namespace", want)
		}
	}
	for _, m := range append(spec.Linux.UIDMappings, spec.Linux.GIDMappings...) {
		if m != (specs.LinuxIDMapping{ContainerID: 0, HostID: 1 << 20, Size: runtime.UIDs}) {
			t.Errorf("ids are mapped as %+v", m)
		}
	}
	if spec.Linux.Seccomp == nil || spec.Linux.Seccomp.DefaultAction != specs.ActErrno {
		t.Error("no seccomp filter that denies by default")
	}
	for _, c := range []string{"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_TIME", "CAP_BPF", "CAP_SYS_RESOURCE", "CAP_MAC_ADMIN"} {
		if slices.Contains(spec.Process.Capabilities.Bounding, c) {
			t.Errorf("%s is granted", c)
		}
	}
	if slices.Contains(spec.Process.Capabilities.Ambient, "CAP_SYS_ADMIN") {
		t.Error("capabilities are inherited by what runs as another user")
	}
	if len(spec.Linux.Devices) > 0 {
		t.Error("devices of the host are granted")
	}
}

// TestMountsCheckpointFast holds that there is no tmpfs of a container's own, and that every bind is known to CRIU.
func TestMountsCheckpointFast(t *testing.T) {
	for _, unified := range []bool{false, true} {
		r := New(Config{Bundles: "/ct", Unified: unified})
		binds, masked := r.Checkpoint(runtime.Spec{}, "/ct/101/root", "/vz/101")
		known := map[string]string{}
		for _, b := range binds {
			known[b.Path] = b.Source
		}
		for _, m := range r.mounts("/ct/101/root", "/vz/101") {
			if m.Type == "tmpfs" {
				t.Errorf("%s is a tmpfs", m.Destination)
			}
			if m.Type == "bind" && known[m.Destination] != m.Source {
				t.Errorf("CRIU is not told of the bind on %s", m.Destination)
			}
		}
		for _, m := range masked {
			if st, err := os.Stat(m); err != nil || st.IsDir() {
				t.Errorf("%s is masked and is no file: %v", m, err)
			}
		}
		dirs := r.Volatile()
		for i, d := range dirs {
			if parent := filepath.Dir(d.Path); slices.ContainsFunc(dirs[i:], func(o runtime.Dir) bool { return o.Path == parent }) {
				t.Errorf("%s is emptied before the folder around it", d.Path)
			}
		}
	}
}

func TestInit(t *testing.T) {
	args := func(systemd, unified bool) string {
		spec := makeSpec(t, runtime.Spec{ID: 101, Init: []string{"/sbin/init", "x"}, Systemd: systemd}, unified)
		return strings.Join(spec.Process.Args, " ")
	}
	if got := args(false, false); !strings.HasSuffix(got, "/sbin/init x") || strings.Contains(got, "systemd") {
		t.Errorf("without systemd: %s", got)
	}
	if got := args(true, false); !strings.Contains(got, "systemd.unified_cgroup_hierarchy=0") {
		t.Errorf("systemd on cgroup v1: %s", got)
	}
	if got := args(true, true); strings.Contains(got, "unified_cgroup_hierarchy") {
		t.Errorf("systemd on cgroup v2: %s", got)
	}
}

func TestStatusOfWhatIsGone(t *testing.T) {
	dir := t.TempDir()
	r := New(Config{State: dir})
	if st, err := r.Status(101); err != nil || st.Running {
		t.Fatalf("an unknown container: %+v, %v", st, err)
	}
	start, alive := startTime(os.Getpid())
	if !alive || start == 0 {
		t.Fatal("this process does not live")
	}
	record := func(body string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, "101"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "101", "state.json"), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	record(`{"init_process_pid": 1, "init_process_start": 1}`) // the pid was given to somebody else
	if st, err := r.Status(101); err != nil || st.Running {
		t.Fatalf("a pid that is somebody else's: %+v, %v", st, err)
	}
	record(`{`)
	if _, err := r.Status(101); err == nil {
		t.Fatal("half a record was read")
	}
	if err := r.Forget(101); err != nil {
		t.Fatal(err)
	}
	if st, err := r.Status(101); err != nil || st.Running {
		t.Fatalf("a forgotten container: %+v, %v", st, err)
	}
}
