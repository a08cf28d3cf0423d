package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestContainerLife(t *testing.T) {
	k := sharedLab(t)
	k.template("busybox")
	k.destroyAfter("life")
	c := ask[api.Container](k, "create", "life", "--template", "busybox", "--ram", "64M", "--cpus", "0.1", "--label", "tier=web")
	if c.State != cluster.Stopped && c.State != cluster.Pending || c.Labels["tier"] != "web" || c.ID < 101 {
		t.Fatalf("it was created as %+v", c)
	}
	if n := k.copies(c.ID); len(n) != 0 {
		t.Fatalf("it runs on %v without having been started", n)
	}
	for _, step := range []struct {
		command string
		state   cluster.ContainerState
		copies  int
	}{{"start", cluster.Running, 1}, {"stop", cluster.Stopped, 0}, {"start", cluster.Running, 1}, {"restart", cluster.Running, 1}} {
		k.vz(step.command, "life")
		if now := k.show(strconv.Itoa(c.ID)); now.State != step.state || now.Host != c.Host {
			t.Fatalf("after %s it is %s on %s", step.command, now.State, now.Host)
		}
		if n := k.copies(c.ID); len(n) != step.copies {
			t.Fatalf("after %s it runs on %v", step.command, n)
		}
	}
	if names := k.vz("ls", "-o", "name"); !strings.Contains(names, "life\n") {
		t.Errorf("ls shows %q", names)
	}
	if r := k.try("destroy", "life"); r.code != 2 || k.show("life").State != cluster.Running {
		t.Errorf("destroy without -y and terminal: %v", r)
	}
	k.vz("destroy", "-y", "--now", "life")
	k.refused(3, []string{"life"}, "show", "life")
	k.noTraces(c.Host, c.ID)
	if err := k.reservationsAddUp(); err != nil {
		t.Error(err)
	}
}

func TestRestartBeginsAnew(t *testing.T) {
	k := sharedLab(t)
	c := k.run("anew", "busybox")
	k.inside("anew", "echo kept > /root/file; echo lost > /run/file")
	before := k.inits(c.Host, c.ID)
	k.vz("restart", "anew")
	after := k.inits(c.Host, c.ID)
	if len(before) != 1 || len(after) != 1 || before[0] == after[0] {
		t.Errorf("PID 1 was %v and is %v", before, after)
	}
	if got := k.inside("anew", "cat /root/file; cat /run/file 2>/dev/null || true"); got != "kept" {
		t.Errorf("its files are %q", got)
	}
}

func TestExec(t *testing.T) {
	k := sharedLab(t)
	k.run("exec", "busybox")
	t.Run("exit code", func(t *testing.T) {
		if r := k.try("exec", "exec", "--", "sh", "-c", "echo out; echo err >&2; exit 42"); r.code != 42 || r.stdout != "out\n" || r.stderr != "err\n" {
			t.Error(r)
		}
	})
	t.Run("stdin", func(t *testing.T) {
		text := strings.Repeat("0123456789abcdef\n", 1<<16) // more than any buffer on the way
		if r := k.at("host2", strings.NewReader(text), "exec", "exec", "cat"); r.code != 0 || r.stdout != text {
			t.Errorf("of %d bytes came back %d, exit code %d, %s", len(text), len(r.stdout), r.code, r.stderr)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		r := k.at("host3", strings.NewReader("tty; exit 3\n"), "exec", "-t", "exec", "sh")
		if r.code != 3 || !strings.Contains(r.stdout, "/dev/pts/") && !strings.Contains(r.stdout, "/dev/console") {
			t.Error(r)
		}
		if r := k.try("exec", "exec", "tty"); strings.TrimSpace(r.stdout) != "not a tty" {
			t.Errorf("without -t: %v", r)
		}
	})
	t.Run("environment", func(t *testing.T) {
		if r := k.try("exec", "-e", "GREETING=hello", "exec", "sh", "-c", "echo $GREETING"); r.stdout != "hello\n" {
			t.Error(r)
		}
	})
	t.Run("user and folder", func(t *testing.T) {
		k.inside("exec", "echo 'www:x:33:33::/tmp:/bin/sh' >> /etc/passwd; mkdir -p /srv")
		if r := k.try("exec", "-u", "www", "exec", "sh", "-c", "id -u; pwd; echo $HOME"); r.stdout != "33\n/tmp\n/tmp\n" {
			t.Error(r)
		}
		if r := k.try("exec", "-w", "/srv", "exec", "pwd"); r.stdout != "/srv\n" {
			t.Error(r)
		}
		k.refused(1, []string{"no user \"nobody-there\""}, "exec", "-u", "nobody-there", "exec", "true")
	})
	t.Run("signal", func(t *testing.T) {
		cmd := k.command(t.Context(), "host2", "exec", "exec", "sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			_, err = io.ReadAtLeast(out, make([]byte, 6), 6)
		}
		if err == nil {
			err = cmd.Process.Signal(syscall.SIGTERM)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("it ended with %v", err)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		if r := k.try("exec", "exec", "/no/such/program"); r.code == 0 || r.stderr == "" {
			t.Error(r)
		}
	})
	t.Run("stopped container", func(t *testing.T) {
		k.vz("stop", "exec")
		k.refused(1, []string{"does not run", "vzcluster start"}, "exec", "exec", "true")
	})
}

// limit reads a file of a container's cgroup on its host, by its v1 or its v2 name.
func (k *kit) limit(c api.Container, v1, v2 string) string {
	k.t.Helper()
	for _, dir := range k.cgroups(c.Host, c.ID) {
		for _, name := range []string{v1, v2} {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				return strings.TrimSpace(string(b))
			}
		}
	}
	k.t.Fatalf("%s has neither %s nor %s for container %d", c.Host, v1, v2, c.ID)
	return ""
}

func TestLimitsAreInTheKernel(t *testing.T) {
	k := sharedLab(t)
	c := k.run("limits", "busybox", "--ram", "96M", "--cpus", "0.25")
	check := func(c api.Container, ram, quota string) {
		t.Helper()
		if got := k.limit(c, "memory.limit_in_bytes", "memory.max"); got != ram {
			t.Errorf("memory on %s: want %s, got %s", c.Host, ram, got)
		}
		if got := k.limit(c, "cpu.cfs_quota_us", "cpu.max"); strings.Fields(got)[0] != quota {
			t.Errorf("quota on %s: want %s, got %s", c.Host, quota, got)
		}
	}
	check(c, fmt.Sprint(96<<20), "25000")
	k.vz("set", "limits", "--ram", "80M", "--cpus", "0.5", "--hostname", "other")
	check(c, fmt.Sprint(80<<20), "50000")
	if r := k.host(c.Host).Reserved; r.RAM < 80<<20 || k.reservationsAddUp() != nil {
		t.Errorf("%s has %v reserved: %v", c.Host, r, k.reservationsAddUp())
	}
	k.manyLimits(c)
	k.migrate("limits")
	check(k.show("limits"), fmt.Sprint(80<<20), "50000")
	k.hasManyLimits(k.show("limits"))
	if r := k.try("exec", "limits", "--", "sh", "-c", "x=$(yes | head -c 200000000); echo survived"); strings.Contains(r.stdout, "survived") {
		t.Errorf("200 MB fitted into 80M: %v", r)
	}
	k.until("the kill is told", recovery, func() error {
		if out := k.vz("events", "limits"); !strings.Contains(out, "a process was killed") {
			return fmt.Errorf("events are %q", out)
		}
		return nil
	})
	if got := k.vz("ubc", "limits"); !strings.Contains(got, "numproc") || !strings.Contains(got, "physpages") {
		t.Errorf("beancounters are %q", got)
	}
	if got := k.show("limits").State; got != cluster.Running {
		t.Errorf("the container is %s after one of its processes wanted too much memory", got)
	}
}

// manyLimits changes one limit after the other of a running container, then all of them at once.
func (k *kit) manyLimits(c api.Container) {
	k.t.Helper()
	for _, flags := range [][]string{
		{"--pids", "40"},
		{"--cpu-mask", "0"},
		{"--cpu-mask", "none", "--cpu-count", "1"},
		{"--ram-soft", "64M"},
		{"--read-rate", "10M", "--write-iops", "500"},
		{"--net-in", "50mbit", "--net-out", "5M"},
	} {
		k.vz(append([]string{"set", c.Name}, flags...)...)
	}
	k.hasManyLimits(c)
	before := k.show(c.Name).Limits
	k.refused(7, []string{"this host has the CPUs", "the old limits stay"}, "set", c.Name, "--pids", "50", "--cpu-count", "0", "--cpu-mask", "4000")
	k.refused(2, []string{"no cpu mask"}, "set", c.Name, "--pids", "50", "--cpu-count", "0", "--cpu-mask", "4-")
	if got := k.show(c.Name).Limits; got != before {
		k.t.Errorf("refused limits have changed %+v into %+v", before, got)
	}
	k.hasManyLimits(c)
}

func (k *kit) hasManyLimits(c api.Container) {
	k.t.Helper()
	if got := k.limit(c, "pids.max", "pids.max"); got != "40" {
		k.t.Errorf("pids on %s: %s", c.Host, got)
	}
	if got := k.limit(c, "memory.soft_limit_in_bytes", "memory.high"); got != fmt.Sprint(64<<20) {
		k.t.Errorf("soft limit on %s: %s", c.Host, got)
	}
	if got := k.limit(c, "cpuset.cpus", "cpuset.cpus"); len(got) != 1 {
		k.t.Errorf("CPUs on %s: %s", c.Host, got)
	}
	if got := k.limit(c, "blkio.throttle.read_bps_device", "io.max"); !strings.Contains(got, "10485760") {
		k.t.Errorf("read rate on %s: %s", c.Host, got)
	}
	if out, _ := k.on(c.Host, fmt.Sprintf("tc qdisc show dev vz%d", c.ID)); !strings.Contains(out, "tbf") {
		k.t.Errorf("network rate on %s: %s", c.Host, out)
	}
	if out, _ := k.on(c.Host, fmt.Sprintf("nft list chain bridge vzcluster vz%d-sent", c.ID)); !strings.Contains(out, "limit rate over 5 mbytes/second") {
		k.t.Errorf("network rate from it on %s: %s", c.Host, out)
	}
	if got := k.inside(c.Name, "awk '/^MemTotal/ {print $2}' /proc/meminfo; nproc; grep -c ^processor /proc/cpuinfo"); got != "81920\n1\n1" {
		k.t.Errorf("memory and CPUs inside on %s: %q", c.Host, got)
	}
}

func TestSetIsAllOrNothing(t *testing.T) {
	k := sharedLab(t)
	k.run("set", "busybox")
	before := k.show("set")
	k.refused(4, nil, "set", "set", "--hostname", "changed", "--ram", "500G")
	if after := k.show("set"); after.Hostname != before.Hostname || after.Limits != before.Limits {
		t.Errorf("a refused change has changed %+v into %+v", before, after)
	}
}

func TestContainersReachEachOtherByName(t *testing.T) {
	k := sharedLab(t)
	a := k.run("alpha", "busybox", "--host", "host1")
	b := k.run("beta", "busybox", "--host", "host2")
	if got := k.inside("alpha", "nslookup beta 2>&1"); !strings.Contains(got, address(b)) {
		t.Errorf("alpha resolves beta as %q, not %s", got, address(b))
	}
	k.inside("alpha", "ping -c 1 -W 2 beta")
	for _, c := range []api.Container{a, b} {
		if out, code := k.on(lab.Outside, "busybox ping -c 1 -W 2 "+address(c)); code != 0 {
			t.Errorf("outside does not reach %s: %s", c.Name, out)
		}
	}
	k.migrate("beta", "host3")
	k.inside("alpha", "ping -c 1 -W 2 beta")
	if out, code := k.on(lab.Outside, "busybox ping -c 1 -W 2 "+address(b)); code != 0 {
		t.Errorf("outside does not reach beta after its move: %s", out)
	}
	if got, want := k.inside("beta", "cat /sys/class/net/eth0/address"), b.MAC; got != want {
		t.Errorf("after the move beta's MAC is %s, not %s", got, want)
	}
}

func TestWantedAddress(t *testing.T) {
	k := sharedLab(t)
	c := k.run("wanted", "busybox", "--ip", "10.77.200.7")
	if address(c) != "10.77.200.7" {
		t.Errorf("it got %v", c.Addresses)
	}
	if got := k.inside("wanted", "ip -4 addr show eth0"); !strings.Contains(got, "10.77.200.7/16") {
		t.Errorf("inside it is %s", got)
	}
	if net.ParseIP(address(k.run("automatic", "busybox"))).Equal(net.ParseIP("10.77.200.7")) {
		t.Error("the address was given out twice")
	}
}
