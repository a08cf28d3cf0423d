package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/lab"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestPartition(t *testing.T) {
	k := ownLab(t, "split", 3)
	alone := k.leader()
	c := k.runCounted("alone", alone)
	id := k.show("alone").ID
	majority := k.other(alone)
	k.run("before", "busybox", "--host", majority) // its template must be on this side
	if err := k.lab.Partition(alone); err != nil {
		t.Fatal(err)
	}
	k.until("the majority has a leader", recovery, func() error {
		if st := k.statusOf(majority); st.Leader == alone || st.Leader == "" || !st.Quorum {
			return fmt.Errorf("it is %q", st.Leader)
		}
		return nil
	})
	k.until("the minority knows that it has no quorum", recovery, func() error {
		if st := k.statusOf(alone); st.Quorum {
			return errors.New("it believes to have one")
		}
		return nil
	})
	if r := k.at(alone, nil, "ls", "-o", "name"); r.code != 0 || !strings.Contains(r.stdout, "alone\n") {
		t.Errorf("the minority, asked to list: %v", r)
	}
	r := k.at(alone, nil, "create", "never", "--template", "busybox", "--ram", "64M", "--cpus", "0.1")
	k.isRefusal(r, 5, []string{"leader"}, "create on the minority's side")
	k.destroyAfter("meanwhile")
	if r := k.at(majority, nil, "run", "meanwhile", "--template", "busybox", "--ram", "64M", "--cpus", "0.1", "--host", majority); r.code != 0 {
		t.Errorf("the majority, asked to run: %v", r)
	}
	if r := k.at(majority, nil, "migrate", "alone", majority); r.code == 0 {
		t.Errorf("a container that cannot be reached was moved: %v", r)
	}
	if n := k.copies(id); !slices.Equal(n, []string{alone}) {
		t.Errorf("during the partition it runs on %v", n)
	}
	if err := k.lab.Heal(); err != nil {
		t.Fatal(err)
	}
	k.until("all are one cluster again", 2*recovery, func() error {
		for _, h := range k.lab.Hosts() {
			st := k.statusOf(h)
			names := []string{}
			for _, c := range st.Containers {
				names = append(names, c.Name)
				if c.State != cluster.Running || c.Operation != "" {
					return fmt.Errorf("%s sees that %s is %s, operation %q", h, c.Name, c.State, c.Operation)
				}
			}
			if !st.Quorum || !slices.Contains(names, "meanwhile") || !slices.Contains(names, "alone") || slices.Contains(names, "never") {
				return fmt.Errorf("%s sees %v, quorum %t", h, names, st.Quorum)
			}
		}
		return nil
	})
	if n := k.copies(id); !slices.Equal(n, []string{alone}) {
		t.Errorf("after the partition it runs on %v", n)
	}
	k.allLive([]counted{c})
}

func TestPowerCut(t *testing.T) {
	k := ownLab(t, "power", 3)
	dead := k.leader()
	c := k.run("survivor", "busybox", "--host", dead)
	k.run("stopped", "busybox", "--host", dead)
	k.vz("stop", "stopped")
	k.inside("survivor", "echo kept > /root/file; sync")
	alive := k.other(dead)
	if err := k.lab.PowerOff(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	k.until("its host is known to be lost", recovery, func() error {
		for _, c := range k.statusOf(alive).Containers {
			if c.Name == "survivor" && c.State != cluster.Unknown {
				return fmt.Errorf("%s is %s", c.Name, c.State)
			}
		}
		return nil
	})
	if n := k.copies(c.ID); len(n) != 0 {
		t.Fatalf("without power it runs on %v", n)
	}
	if err := k.lab.Start(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	k.until("what ran runs again, and nothing else", 2*recovery, func() error {
		for _, c := range k.statusOf(alive).Containers {
			want := map[string]cluster.ContainerState{"survivor": cluster.Running, "stopped": cluster.Stopped}[c.Name]
			if c.State != want || c.Host != dead {
				return fmt.Errorf("%s is %s on %s", c.Name, c.State, c.Host)
			}
		}
		if n := k.copies(c.ID); len(n) != 1 {
			return fmt.Errorf("it runs on %v", n)
		}
		return nil
	})
	if got := k.inside("survivor", "cat /root/file"); got != "kept" {
		t.Errorf("its file is %q", got)
	}
	if lost, never := k.show("survivor"), k.show("stopped"); lost.Restarted != 1 || !strings.Contains(lost.Detail, "host went down") || never.Restarted != 0 {
		t.Errorf("it says %q and counts %d restarts, the stopped one %d", lost.Detail, lost.Restarted, never.Restarted)
	}
	if out, code := k.on(lab.Outside, "busybox ping -c 1 -W 2 "+address(c)); code != 0 {
		t.Errorf("outside does not reach it: %s", out)
	}
}

// machine is what a lab must leave of this machine as it was.
type machine struct{ links, mounts, cgroups, processes []string }

// look lists it; mounts, cgroups and processes only as far as they may be of a lab.
func look(t *testing.T, name string) (m machine) {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		m.links = append(m.links, l.Name)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 4 && strings.Contains(line, name) {
			m.mounts = append(m.mounts, f[4])
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/vzlab-" + name, "/sys/fs/cgroup/*/vzlab-" + name} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		m.cgroups = append(m.cgroups, found...)
	}
	all, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(b), "/vzlab-"+name) {
			continue
		}
		if b, err = os.ReadFile(filepath.Join(filepath.Dir(path), "status")); err == nil && !strings.Contains(string(b), "State:\tZ") {
			m.processes = append(m.processes, filepath.Dir(path))
		}
	}
	return m
}

func TestLabFromTheCommandLine(t *testing.T) {
	skipUnlessAble(t)
	name := labName("cli")
	before := look(t, name)
	vz := func(env string, args ...string) string {
		t.Helper()
		cmd := exec.Command(shared.vzcluster, args...)
		cmd.Env = append(os.Environ(), env)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("vzcluster %s: %v: %s", strings.Join(args, " "), err, stderrOf(err))
		}
		return string(out)
	}
	command := func(args ...string) string {
		t.Helper()
		return vz("", append([]string{"lab", args[0], "--name", name}, args[1:]...)...)
	}
	t.Cleanup(func() { _ = exec.Command(shared.vzcluster, "lab", "down", "--name", name).Run() })
	command("up", "--hosts", "2", "--host-cpus", "3", "--host-ram", "2G")
	if again, err := exec.Command(shared.vzcluster, "lab", "up", "--name", name).CombinedOutput(); err == nil {
		t.Errorf("it came up twice: %s", again)
	}
	script := strings.TrimSpace(command("env", "host2"))
	env, ok := strings.CutPrefix(script, "export ")
	if !ok {
		t.Fatalf("lab env prints %q", script)
	}
	if st := vz(env, "status"); !strings.Contains(st, "host2") || !strings.Contains(st, "2 hosts") || !strings.Contains(st, "/3") {
		t.Errorf("the status is %s", st)
	}
	vz(env, "template", "build", "busybox")
	vz(env, "run", "inlab", "--ram", "64M")
	if got := command("exec", "host2", "--", "hostname"); got != "host2\n" {
		t.Errorf("host2 is called %q", got)
	}
	if err := exec.Command(shared.vzcluster, "lab", "exec", "--name", name, "outside", "--", "sh", "-c", "exit 7").Run(); exitOf(err) != 7 {
		t.Errorf("the exit code 7 came back as %v", err)
	}
	command("kill", "host1", "--stay")
	if got := command("status"); !strings.Contains(got, "down") {
		t.Errorf("after kill --stay the status is %s", got)
	}
	command("start", "host1")
	command("partition", "host1")
	if got := command("status"); !strings.Contains(got, "cut off") {
		t.Errorf("after partition the status is %s", got)
	}
	command("heal")
	command("poweroff", "host1")
	if got := command("status"); !strings.Contains(got, "off") {
		t.Errorf("after poweroff the status is %s", got)
	}
	if now := look(t, name); len(now.mounts) != 0 || !slices.Equal(now.links, before.links) {
		t.Errorf("the lab shows on this machine: %+v", now)
	}
	command("down")
	if after := look(t, name); !slices.Equal(after.links, before.links) || len(after.mounts)+len(after.cgroups)+len(after.processes) != 0 {
		t.Errorf("the lab has left %+v", after)
	}
	if _, err := os.Stat(filepath.Join(lab.DefaultDir, name)); err == nil {
		t.Error("the lab has left its directory")
	}
	if err := exec.Command(shared.vzcluster, "lab", "down", "--name", name).Run(); exitOf(err) != 3 {
		t.Errorf("taking an absent lab down: %v", err)
	}
	if err := exec.Command(shared.vzcluster, "lab", "status", "--name", name).Run(); exitOf(err) != 3 {
		t.Errorf("the status of an absent lab: %v", err)
	}
}

func exitOf(err error) int {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return -1
	}
	return exit.ExitCode()
}

func stderrOf(err error) string {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return ""
	}
	return string(exit.Stderr)
}
