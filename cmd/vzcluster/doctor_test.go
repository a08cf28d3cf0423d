package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
)

func TestDoctorAsksTheNamedAgent(t *testing.T) {
	fine := api.Finding{Name: "kernel", OK: true, Found: "6.12"}
	slow := api.Finding{Name: "/run", Found: "on disk", Costs: "40 ms", Remedy: "mount it", Warning: true}
	lost := api.Finding{Name: "criu", Found: "not found", Costs: "live migration", Remedy: "vzcluster setup"}
	for _, c := range []struct {
		found []api.Finding
		code  int
		last  string
	}{
		{[]api.Finding{fine, slow}, 0, "0 missing, 1 warnings, 2 looked at\n"},
		{[]api.Finding{fine, slow, lost}, 1, "1 missing, 1 warnings, 3 looked at\n"},
	} {
		f := newFake(t, map[string]any{api.RouteDoctor: c.found})
		r := f.run("doctor")
		if r.code != c.code || !strings.HasSuffix(r.stdout, c.last) || r.stderr != "" {
			t.Errorf("%+v", r)
		}
		for _, x := range c.found {
			if !strings.Contains(r.stdout, x.Costs) || !strings.Contains(r.stdout, x.Remedy) {
				t.Errorf("%s is not explained in %s", x.Name, r.stdout)
			}
		}
		if r = f.run("doctor", "-o", "json"); r.code != c.code {
			t.Errorf("json: %+v", r)
		}
		var back []api.Finding
		if err := json.Unmarshal([]byte(r.stdout), &back); err != nil || len(back) != len(c.found) || back[1] != slow {
			t.Errorf("%v, %+v", err, back)
		}
	}
}

// TestDoctorWithoutAgent looks at this machine, whatever it is.
func TestDoctorWithoutAgent(t *testing.T) {
	t.Setenv("VZCLUSTER_HOST", "")
	os.Unsetenv("VZCLUSTER_HOST")
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte("name: a\nbogus: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code := testEnv(&stdout, &stderr).run(t.Context(), []string{"vzcluster", "doctor", "-o", "json", "--config", file})
	var found []api.Finding
	if err := json.Unmarshal(stdout.Bytes(), &found); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	if code != 1 || len(found) < 20 || found[0].Name != "configuration" || !strings.Contains(found[0].Found, "bogus") {
		t.Errorf("exit code %d, %d findings, %+v", code, len(found), found[0])
	}
}
