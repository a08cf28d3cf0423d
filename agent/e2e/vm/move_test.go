package vm

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
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
	// When a kernel was booted, by the clock of this machine, and how far its own wall clock is ahead.
	clocks := func(host string) (booted time.Time, ahead float64) {
		asked := time.Now()
		var up, wall float64
		if _, err := fmt.Sscan(k.on(host, `echo $(cut -d" " -f1 /proc/uptime) $(date +%s)`), &up, &wall); err != nil {
			t.Fatal(err)
		}
		return asked.Add(-time.Duration(up * float64(time.Second))), wall - float64(asked.Unix())
	}
	booted1, ahead1 := clocks("host1")
	booted2, ahead2 := clocks("host2")
	if later := booted2.Sub(booted1); later < 5*time.Second || ahead2-ahead1 < 1000 {
		t.Errorf("host2 was booted %s after host1; its wall clock is %.0f s ahead", later, ahead2-ahead1)
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
	k.inside("whole", "systemctl set-property --runtime redis-server MemoryMax=100M TasksMax=33 CPUWeight=77")
	limits := k.limits(c.Host, c.ID)
	for _, want := range []string{"memory.max:104857600", "pids.max:33", "cpu.weight:77"} {
		if !strings.Contains(limits, "./system.slice/redis-server.service/"+want+"\n") {
			t.Errorf("%s is missing in\n%s", want, limits)
		}
	}
	for range 2 {
		r := k.migrate("whole")
		client.goesOn()
		if now := k.limits(r.To, c.ID); now != limits {
			t.Errorf("the limits inside were\n%s\nand are\n%s", limits, now)
		}
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
