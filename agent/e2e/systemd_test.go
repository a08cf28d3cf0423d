package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// runDebian makes a container with systemd and waits until it has booted.
func (k *kit) runDebian(name string, flags ...string) api.Container {
	k.t.Helper()
	c := k.run(name, debian, append([]string{"--ram", "256M"}, flags...)...)
	k.isRunning(name)
	return c
}

// isRunning waits until systemd is done and finds that nothing has failed.
func (k *kit) isRunning(name string) {
	k.t.Helper()
	k.until("systemd of "+name, 2*recovery, func() error {
		r := k.try("exec", name, "--", "systemctl", "is-system-running", "--wait") // fails at once before the bus is there
		switch strings.TrimSpace(r.stdout) {
		case "running":
			return nil
		case "degraded":
			k.t.Fatalf("units of %s have failed: %s", name, k.try("exec", name, "--", "systemctl", "--failed", "--no-legend").stdout)
		}
		return errors.New(r.String())
	})
}

func TestSystemd(t *testing.T) {
	k := sharedLab(t)
	a, b := k.runDebian("deb-a"), k.runDebian("deb-b")
	if failed := k.inside("deb-a", "systemctl --failed --no-legend"); failed != "" {
		t.Errorf("failed units: %s", failed)
	}
	if got := k.inside("deb-a", "cat /proc/1/comm"); got != "systemd" {
		t.Errorf("PID 1 is %s", got)
	}
	if got := k.inside("deb-a", "hostname"); got != "deb-a" {
		t.Errorf("its name is %s", got)
	}
	for what, script := range map[string]string{
		"machine-id": "cat /etc/machine-id", "ssh host key": "cat /etc/ssh/ssh_host_ed25519_key.pub | cut -d' ' -f1,2",
	} {
		x, y := k.inside("deb-a", script), k.inside("deb-b", script)
		if x == "" || x == y {
			t.Errorf("both have the %s %q", what, x)
		}
		if again := k.inside("deb-a", script); again != x {
			t.Errorf("the %s has changed", what)
		}
	}
	if got := k.inside("deb-a", "getent hosts deb-b"); !strings.HasPrefix(got, address(b)+" ") {
		t.Errorf("deb-a resolves deb-b as %q, not %s", got, address(b))
	}
	if got, want := k.inside("deb-a", "cat /proc/self/uid_map"), fmt.Sprint(a.UIDBase); !strings.Contains(got, want) {
		t.Errorf("its user namespace is %q, not from %s on", got, want)
	}
	if a.UIDBase == b.UIDBase {
		t.Errorf("both have the user ids from %d on", a.UIDBase)
	}
	t.Run("boot log", func(t *testing.T) {
		if log := k.vz("logs", "deb-a"); !strings.Contains(log, "systemd") {
			t.Errorf("it says %q", log)
		}
	})
	t.Run("identity survives a restart", func(t *testing.T) {
		id := k.inside("deb-b", "cat /etc/machine-id")
		k.vz("restart", "deb-b")
		k.isRunning("deb-b")
		if got := k.inside("deb-b", "cat /etc/machine-id"); got != id {
			t.Errorf("its machine-id was %s and is %s", id, got)
		}
	})
}

// The main job: a real service with systemd around it moves under its client's connection, again and again.
func TestRedisMovesUnderItsClient(t *testing.T) {
	k := sharedLab(t)
	c := k.runDebian("redis")
	k.inside("redis", "redis-cli config set protected-mode no && redis-cli config set bind '* -::*'")
	k.seesItself("redis")
	client := k.count(address(c) + ":6379")
	pid := k.inside("redis", "systemctl show -p MainPID redis-server")
	for range 4 {
		r := k.migrate("redis")
		client.goesOn()
		k.isRunning("redis")
		k.seesItself("redis")
		t.Logf("%s -> %s: blackout %.0f ms, total %.0f ms", r.From, r.To, r.BlackoutMS, r.TotalMS)
	}
	host := k.show("redis").Host
	k.on(host, "kill -9 $(cat /run/vzcluster/lxcfs.pid)")
	k.until("lxcfs serves again", recovery, func() error {
		if r := k.try("exec", "redis", "--", "cat", "/proc/uptime"); r.code != 0 {
			return errors.New(r.stderr)
		}
		return nil
	})
	k.seesItself("redis")
	seen := client.stop()
	if got := k.inside("redis", "redis-cli get counter"); got != fmt.Sprint(seen.Last) {
		t.Errorf("redis has counted to %s, its client to %d", got, seen.Last)
	}
	if got := k.inside("redis", "systemctl show -p MainPID redis-server"); got != pid {
		t.Errorf("redis was %s and is %s: it was restarted", pid, got)
	}
	k.inside("redis", "systemctl restart nginx && systemctl is-active nginx")
	if out, code := k.on("outside", "timeout 10 busybox wget -q -O - http://"+address(c)+"/"); code != 0 || !strings.Contains(out, "nginx") {
		t.Errorf("nginx answers %q", out)
	}
	began := time.Now()
	k.vz("stop", "redis")
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	if got := k.show("redis"); got.State != cluster.Stopped {
		t.Errorf("it is %s", got.State)
	}
	k.vz("start", "redis")
	k.isRunning("redis")
}

// seesItself finds a container's own limits in /proc.
func (k *kit) seesItself(name string) {
	k.t.Helper()
	if got := k.inside(name, "free -m | awk '/^Mem/ {print $2}'; nproc; top -b -n 1 | grep -c 'MiB Mem :    256.0'"); got != "256\n1\n1" {
		k.t.Errorf("free, nproc and top say %q", got)
	}
	if up := k.inside(name, "cut -d. -f1 /proc/uptime"); len(up) > 5 {
		k.t.Errorf("it says it is up for %s seconds", up)
	}
}
