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

// allowed are the system calls that a container may make.
func allowed(t *testing.T) []string {
	t.Helper()
	spec := makeSpec(t, runtime.Spec{ID: 101, Hostname: "ct", UIDBase: 1 << 20, Init: []string{"/sbin/init"}}, false)
	var names []string
	for _, rule := range spec.Linux.Seccomp.Syscalls {
		if rule.Action == specs.ActAllow {
			names = append(names, rule.Names...)
		}
	}
	return names
}

// The list is no weaker than Docker's: testdata has the names of the calls that Docker's default profile may allow.
func TestSystemCallsAreNoMoreThanDockers(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "docker-allowed.txt"))
	if err != nil {
		t.Fatal(err)
	}
	docker := strings.Fields(string(b))
	names := allowed(t)
	if len(names) < 300 || len(docker) < 300 {
		t.Fatalf("%d calls are allowed, Docker allows %d: that cannot be", len(names), len(docker))
	}
	for _, name := range names {
		if !slices.Contains(docker, name) {
			t.Errorf("%s is allowed, which Docker does not allow", name)
		}
	}
	for _, name := range []string{"keyctl", "add_key", "request_key", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "io_uring_setup", "userfaultfd", "swapon"} {
		if slices.Contains(names, name) {
			t.Errorf("%s is allowed", name)
		}
	}
}

// What shows a container its own limits is bound where the host has it, and only there; a checkpoint knows it either way.
func TestFigures(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "proc/meminfo"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r := New(Config{Bundles: "/ct", Figures: Figures{Dir: dir, Files: []string{"/proc/meminfo", "/proc/stat"}}})
	ms := r.figures()
	if len(ms) != 1 || ms[0].Destination != "/proc/meminfo" || !slices.Contains(ms[0].Options, "ro") {
		t.Errorf("it has %+v", ms)
	}
	want := []runtime.Bind{{Path: "/proc/meminfo", Source: filepath.Join(dir, "proc/meminfo")}, {Path: "/proc/stat", Source: "/proc/stat"}}
	if got := r.figureBinds(); !slices.Equal(got, want) {
		t.Errorf("a checkpoint knows %+v, want %+v", got, want)
	}
}
