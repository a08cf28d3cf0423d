package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime/fault"
)

// holder keeps 16 MB that it compares again and again with what they were. It writes down each time whether they still are.
const holder = `x=$(head -c 12000000 /dev/urandom | base64)
is=$(echo "$x" | md5sum)
while :; do
	now=$(echo "$x" | md5sum)
	[ "$now" = "$is" ] && echo same >> /var/log/held || echo "$is became $now, ${#x} bytes, then $(echo "$x" | md5sum)" >> /var/log/held
	sleep 1
done
`

// TestPostCopy moves a container that runs on the target before its memory is there, and kills each of those that must live until
// then. What the container finds in its memory is what it had, or it was started from disk, which is said.
func TestPostCopy(t *testing.T) {
	if b, err := os.ReadFile("/proc/sys/vm/unprivileged_userfaultfd"); err != nil || strings.TrimSpace(string(b)) != "1" {
		t.Skip("vm.unprivileged_userfaultfd is not 1: run `vzcluster setup --post-copy`")
	}
	c := newCrashLab(t, "later", 3)
	c.vz("set", c.name, "--ram", "512M", "--cpus", "1") // the shell has its variable several times while it compares
	c.inside(c.name, "cat > /root/hold <<'END'\n"+holder+"END\necho 'sh /root/hold </dev/null >/dev/null 2>&1 &' >> /etc/rc; sh /root/hold </dev/null >/dev/null 2>&1 &")
	c.compares()
	for range 2 {
		live, later := c.migrate(c.name, "--mode", cluster.ModeLive), c.migrate(c.name, "--mode", cluster.ModePostCopy)
		t.Logf("silent for %.0f ms live and %.0f ms in post-copy, %v", live.BlackoutMS, later.BlackoutMS, later.Phases)
		if later.Mode != cluster.ModePostCopy {
			t.Errorf("it was moved %s", later.Mode)
		}
		c.compares()
	}
	if c.client.broken() {
		t.Error("its connection was lost")
	}
	mode := scene{name: "post-copy", mode: cluster.ModePostCopy}
	for _, h := range []harm{
		{role: "target", point: "target.lacking", action: fault.Kill},
		{role: "source", point: "source.resumed", action: fault.Kill},
		{role: "target", point: "target.lacking", action: fault.Fail},
		{role: "target", point: "target.whole", action: fault.Kill},
	} {
		c.during(func() {
			outcome := c.play(crashCase{scene: mode, harm: h}, aftermath)
			c.t.Logf("%s: %s", h, outcome)
			if want := map[bool]string{true: "goes on", false: "restarted"}[h.point == "target.whole"]; outcome != want {
				c.t.Errorf("%s: it %s", h, outcome)
			}
			c.compares()
		})
	}
	c.during(c.guardDies)
}

// guardDies kills the guard of a copy that lacks memory.
func (c *crashLab) guardDies() {
	who, h := c.cast(), harm{role: "target", point: "target.lacking", action: fault.Hold}
	c.witness.fresh()
	c.arm(who, h)
	defer c.disarm()
	op := make(chan string, 1)
	go func() { op <- c.move(who, cluster.ModePostCopy) }()
	c.awaitPoint(who, crashCase{harm: h}, op)
	guards := c.guards()
	if len(guards) != 1 {
		c.t.Errorf("there are guards %v", guards)
	}
	for _, pid := range guards {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	c.letGo(who, h)
	if outcome := c.settles("the guard is killed", aftermath); outcome != "restarted" {
		c.t.Errorf("it %s", outcome)
	}
	c.compares()
}

// guards are the processes of this lab that guard a container's memory.
func (c *crashLab) guards() (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		line, _ := os.ReadFile(path) // of a process that has ended: it is none
		groups, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cgroup"))
		if strings.Contains(string(line), "\x00memory-guard\x00") && strings.Contains(string(groups), "/vzlab-"+c.lab.Name()+"/") {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// compares waits until the holder has found its memory as it was, and nothing else.
func (c *crashLab) compares() {
	c.t.Helper()
	before := strings.Count(c.inside(c.name, "cat /var/log/held || :"), "same")
	c.until("its memory is compared", 2*recovery, func() error {
		held := c.inside(c.name, "cat /var/log/held || :")
		if strings.Contains(held, "became") {
			c.t.Fatalf("its memory has changed: %s", held)
		}
		if n := strings.Count(held, "same"); n < before+2 {
			return errors.New(fmt.Sprint(n, " times until now"))
		}
		return nil
	})
	if guards := c.guards(); len(guards) > 0 {
		c.t.Errorf("guards are left: %v", guards)
	}
}
