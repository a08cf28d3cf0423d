package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent"
)

func TestAgentPrintsItsConfiguration(t *testing.T) {
	r := newFake(t, nil).run("agent", "--print-config")
	if r.code != 0 || r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	if _, err := agent.ParseConfig([]byte(r.stdout)); err != nil {
		t.Errorf("what was printed is refused: %v", err)
	}
}

func TestAgentRefusesABadConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte("name: host1\nlisten: :7443\nlables: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newFake(t, nil).run("agent", "--config", file)
	if want := `unknown key "lables" in line 3`; r.code != 2 || !strings.Contains(r.stderr, want) || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("%+v, want exit code 2 and one line with %q", r, want)
	}
	absent := filepath.Join(t.TempDir(), "absent.yaml")
	if r := newFake(t, nil).run("agent", "--config", absent); r.code != 2 || !strings.Contains(r.stderr, absent) {
		t.Errorf("%+v, want exit code 2 and the file's name", r)
	}
}
