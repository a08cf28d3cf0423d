package vm

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// The machines are what the tests below take for granted: kernels of their own, cgroup v2 only, clocks that differ.
func TestMachinesAreSeparate(t *testing.T) {
	k := sharedLab(t)
	boots := map[string]string{}
	for _, m := range k.lab.Machines() {
		id := k.on(m.Name, "cat /proc/sys/kernel/random/boot_id")
		if other := boots[id]; other != "" {
			t.Errorf("%s and %s have one kernel", m.Name, other)
		}
		boots[id] = m.Name
		if got := k.on(m.Name, "stat -f -c %T /sys/fs/cgroup; ls /sys/fs/cgroup/cgroup.controllers"); !strings.HasPrefix(got, "cgroup2fs\n") {
			t.Errorf("%s has at /sys/fs/cgroup: %s", m.Name, got)
		}
	}
	seconds := func(host string) (up, wall float64) {
		if _, err := fmt.Sscan(k.on(host, `echo $(cut -d" " -f1 /proc/uptime) $(date +%s)`), &up, &wall); err != nil {
			t.Fatal(err)
		}
		return up, wall
	}
	up1, wall1 := seconds("host1")
	up2, wall2 := seconds("host2")
	if up1 <= up2 || wall2-wall1 < 1000 {
		t.Errorf("host1 is up for %.0f s, host2 for %.0f; the wall clock of host2 is %.0f s ahead", up1, up2, wall2-wall1)
	}
}

func TestBusyboxMovesThereAndBack(t *testing.T) {
	longOnly(t)
	k := sharedLab(t)
	c := k.run("small", "busybox")
	k.put("small", shared.traffic, "serve :9000 /var/log/counter")
	client := k.count(address(c) + ":9000")
	for range 2 {
		k.migrate("small")
		client.goesOn()
	}
	last := client.end()
	if got := k.inside("small", "awk '$1 != NR {print \"wrong at \" NR; exit} END {print NR}' /var/log/counter"); got != fmt.Sprint(last) {
		t.Errorf("the file holds %s values, the client saw %d", got, last)
	}
}

// isRunning waits until systemd is done and finds that nothing has failed.
func (k *kit) isRunning(name string) {
	k.t.Helper()
	k.until("systemd of "+name, func() error {
		out, err := k.try(nil, "exec", name, "--", "systemctl", "is-system-running", "--wait")
		switch strings.TrimSpace(out) {
		case "running":
			return nil
		case "degraded":
			failed, _ := k.try(nil, "exec", name, "--", "systemctl", "--failed", "--no-legend")
			k.t.Fatalf("units of %s have failed: %s", name, failed)
		}
		return errors.Join(fmt.Errorf("it is %q", out), err)
	})
}

func TestSystemdMovesThereAndBack(t *testing.T) {
	longOnly(t)
	k := sharedLab(t)
	c := k.run("whole", debian, "--ram", "256M")
	k.isRunning("whole")
	k.inside("whole", "redis-cli config set protected-mode no && redis-cli config set bind '* -::*'")
	client := k.count(address(c) + ":6379")
	pid := k.inside("whole", "systemctl show -p MainPID redis-server")
	for range 2 {
		k.migrate("whole")
		client.goesOn()
		k.isRunning("whole")
	}
	last := client.end()
	if got := k.inside("whole", "redis-cli get counter"); got != fmt.Sprint(last) {
		t.Errorf("redis has counted to %s, its client to %d", got, last)
	}
	if got := k.inside("whole", "systemctl show -p MainPID redis-server"); got != pid {
		t.Errorf("redis was %s and is %s: it was restarted", pid, got)
	}
	// systemd still manages its cgroups.
	k.inside("whole", "systemctl restart nginx && systemctl is-active nginx")
}
