package migrate

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// patched is a line of a patch that names a file.
var patched = regexp.MustCompile(`(?m)^\+\+\+ b/(\S+)`)

// TestPlantedBugs plants each bug of testdata/bugs in a copy of the code: the simulation must find it. A patch that does
// not apply any more fails too, and is to be written anew.
func TestPlantedBugs(t *testing.T) {
	if testing.Short() {
		t.Skip("builds this package once for each bug")
	}
	patches, err := filepath.Glob("testdata/bugs/*.patch")
	if err != nil || len(patches) < 10 {
		t.Fatalf("there are only %d bugs, %v", len(patches), err)
	}
	for _, p := range patches {
		t.Run(strings.TrimSuffix(filepath.Base(p), ".patch"), func(t *testing.T) { plant(t, p) })
	}
}

func plant(t *testing.T, patch string) {
	patch, err := filepath.Abs(patch)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(patch)
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replace := map[string]string{}
	for _, m := range patched.FindAllStringSubmatch(string(text), -1) {
		b, err := os.ReadFile(filepath.Join(root, m[1]))
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(dir, m[1])
		if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(copied, b, 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, m[1])] = copied
	}
	apply := exec.Command("git", "apply", patch)
	apply.Dir = dir
	apply.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	if out, err := apply.CombinedOutput(); err != nil {
		t.Fatalf("the patch does not apply: %v\n%s", err, out)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "test", "-count=1", "-vet=off", "-overlay", file, "-run", "TestSimulation$", "-sim.first=1", "-sim.schedules=20000", ".")
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		t.Errorf("the simulation did not find it:\n%s", out)
	case !strings.Contains(string(out), "replay:"):
		t.Errorf("something else failed:\n%s", out)
	}
}
