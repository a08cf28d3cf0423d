package vm

import (
	"fmt"
	"strings"
	"testing"
)

// limits are all that is set in a container's cgroup and below, on the host where it is.
func (k *kit) limits(host string, id int) string {
	k.t.Helper()
	return k.on(host, fmt.Sprintf("cd /sys/fs/cgroup/vz/%d && find . -name '*.max' -o -name '*.high' -o -name cpu.weight -o -name cgroup.subtree_control | sort | xargs grep -H ''", id))
}

// What limits a container on cgroup v2 does so on the next host too, from the first moment.
func TestLimitsHold(t *testing.T) {
	longOnly(t)
	k := sharedLab(t)
	c := k.run("tight", "busybox", "--ram", "64M", "--swap", "8M")
	k.vz("set", "tight", "--cpus", "0.5")
	before := k.limits(c.Host, c.ID)
	for _, want := range []string{"./memory.max:67108864", "./memory.swap.max:8388608", "./cpu.max:50000 100000"} {
		if !strings.Contains(before, want+"\n") {
			t.Fatalf("%s is missing in\n%s", want, before)
		}
	}
	r := k.migrate("tight")
	if after := k.limits(r.To, c.ID); after != before {
		t.Errorf("the limits were\n%s\nand are\n%s", before, after)
	}
	// Somebody inside takes more memory than there is.
	if out, err := k.try(nil, "exec", "tight", "--", "sh", "-c", "head -c 200m /dev/zero | tail"); err == nil {
		t.Errorf("200 MiB fit into 64: %.100q", out)
	}
	if kills := k.on(r.To, fmt.Sprintf("sed -n 's/^oom_kill //p' /sys/fs/cgroup/vz/%d/memory.events", c.ID)); kills == "0" || kills == "" {
		t.Errorf("nothing was killed for want of memory: %q", kills)
	}
}
