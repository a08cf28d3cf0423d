package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
)

// facts is what a refused command must leave as it was.
func (k *kit) facts() string {
	k.t.Helper()
	st := k.status()
	var out strings.Builder
	for _, h := range st.Hosts {
		fmt.Fprintln(&out, h.Name, h.State, h.Reserved, h.Containers)
	}
	for _, c := range st.Containers {
		fmt.Fprintln(&out, c.ID, c.Name, c.Host, c.Generation, c.Desired, c.Epoch, c.State, c.Limits, c.Addresses, c.Hostname, c.Labels)
	}
	return out.String() + k.vz("template", "ls", "-o", "json") + k.vz("operation", "ls", "-o", "json")
}

func TestBadInput(t *testing.T) {
	k := sharedLab(t)
	taken := k.run("taken", "busybox")
	create := func(flags ...string) []string {
		return append([]string{"create", "new", "--template", "busybox", "--ram", "64M", "--cpus", "0.1"}, flags...)
	}
	before := k.facts()
	for _, bad := range []struct {
		code  int
		words []string
		args  []string
	}{
		{3, []string{"nope", "template ls"}, []string{"run", "new", "--template", "nope"}},
		{3, []string{"nope", "host ls"}, create("--host", "nope")},
		{3, []string{"nope", "vzcluster ls"}, []string{"show", "nope"}},
		{3, []string{"nope"}, []string{"start", "nope"}},
		{3, []string{"nope"}, []string{"stop", "nope"}},
		{3, []string{"nope"}, []string{"restart", "nope"}},
		{3, []string{"nope"}, []string{"destroy", "-y", "nope"}},
		{3, []string{"nope"}, []string{"exec", "nope", "true"}},
		{3, []string{"nope"}, []string{"logs", "nope"}},
		{3, []string{"nope"}, []string{"set", "nope", "--ram", "64M"}},
		{3, []string{"nope"}, []string{"migrate", "nope"}},
		{3, []string{"9999"}, []string{"show", "9999"}},
		{3, []string{"nope"}, []string{"migrate", "taken", "nope"}},
		{3, []string{"nope"}, []string{"host", "drain", "nope"}},
		{3, []string{"nope"}, []string{"host", "cordon", "nope"}},
		{3, []string{"nope"}, []string{"template", "show", "nope"}},
		{3, []string{"nope"}, []string{"operation", "show", "nope"}},
		{1, []string{taken.Host}, []string{"migrate", "taken", taken.Host}},
		{1, []string{"taken"}, []string{"create", "taken", "--template", "busybox", "--ram", "64M", "--cpus", "0.1"}},
		{1, []string{fmt.Sprint(taken.ID)}, []string{"create", fmt.Sprint(taken.ID), "--template", "busybox", "--ram", "64M", "--cpus", "0.1"}},
		{1, []string{address(taken)}, create("--ip", address(taken))},
		{2, []string{"192.0.2.7"}, create("--ip", "192.0.2.7")},
		{4, []string{"host1", "host2", "host3", "memory"}, create("--ram", "64G")},
		{4, []string{"host2", "cpu"}, create("--host", "host2", "--cpus", "64")},
		{2, []string{"ram", "12Q"}, create("--ram", "12Q")},
		{2, []string{"cpus"}, create("--cpus", "-1")},
		{2, []string{"frobnicate"}, []string{"frobnicate"}},
		{2, []string{"--frobnicate"}, create("--frobnicate")},
		{2, []string{"CT"}, []string{"start"}},
		{1, []string{"busybox"}, []string{"template", "rm", "busybox"}},
	} {
		k.refused(bad.code, bad.words, bad.args...)
	}
	if after := k.facts(); after != before {
		t.Errorf("what was refused has changed\n%s\ninto\n%s", before, after)
	}
	if r := k.try(create("--host", "host1", "--ram", "64G")...); !strings.Contains(r.stderr, "host1") {
		t.Error(r)
	}
}

func TestUnknownConfigurationKey(t *testing.T) {
	skipUnlessAble(t)
	conf := filepath.Join(t.TempDir(), "agent.yaml")
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(conf, []byte("data_dir: "+dir+"\nnetwork:\n  birdge: br0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(shared.vzcluster, "agent", "--config", conf).CombinedOutput()
	if exitOf(err) != 2 {
		t.Errorf("it ended with %v", err)
	}
	for _, word := range []string{"vzcluster: ", conf, "birdge", "line 3", "--print-config"} {
		if !strings.Contains(string(out), word) {
			t.Errorf("want %q in %q", word, out)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("it has made its directory all the same")
	}
}

func TestNoAgent(t *testing.T) {
	skipUnlessAble(t)
	cmd := exec.Command(shared.vzcluster, "ls")
	cmd.Env = append(os.Environ(), "VZCLUSTER_HOST=unix:///nowhere/agent.sock")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.HasPrefix(string(out), "vzcluster: ") || !strings.Contains(string(out), "/nowhere/agent.sock") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestPlacement(t *testing.T) {
	k := sharedLab(t)
	on := map[string]int{}
	for i := range 6 {
		on[k.run(fmt.Sprintf("spread%d", i), "busybox").Host]++
	}
	if len(on) != 3 || on["host1"] != 2 || on["host2"] != 2 {
		t.Errorf("six containers were put on %v", on)
	}
	if c := k.show("spread0"); c.Placement == "" {
		t.Error("a container does not say why it is where it is")
	}
	p := ask[api.PlaceReply](k, "place", "--why", "--template", "busybox", "--ram", "1G", "--cpus", "1")
	if p.Host == "" || p.Why == "" || len(p.Hosts) != 3 {
		t.Fatalf("the placement is explained as %+v", p)
	}
	for _, h := range p.Hosts {
		if !h.Fits || h.Reason == "" || h.Free.RAM <= 0 {
			t.Errorf("%s is explained as %+v", h.Host, h)
		}
	}
	r := k.try("place", "--why", "--template", "busybox", "--ram", "100G")
	if r.code != 4 {
		t.Errorf("a placement that is impossible: %v", r)
	}
	for _, h := range k.lab.Hosts() {
		if !strings.Contains(r.stdout, h) {
			t.Errorf("%s is missing in %s", h, r.stdout)
		}
	}
}
