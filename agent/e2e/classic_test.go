package e2e

import (
	"strconv"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/cluster"
)

// TestClassicTools drives a real container with the commands of OpenVZ: create, start, exec, set, a live move, suspend.
func TestClassicTools(t *testing.T) {
	k := sharedLab(t)
	k.template("busybox")
	k.destroyAfter("classic")
	tool := func(code int, want string, args ...string) {
		t.Helper()
		if r := k.try(args...); r.code != code || !strings.Contains(r.stdout+r.stderr, want) {
			t.Errorf("%s: %v, want code %d and %q", strings.Join(args, " "), r, code, want)
		}
	}
	tool(0, "Container private area was created", "vzctl", "create", "4001", "--ostemplate", "busybox-x86_64", "--name", "classic", "--ram", "64M", "--cpulimit", "10")
	tool(0, "Container start in progress...", "vzctl", "start", "classic")
	tool(32, "already running", "vzctl", "start", "4001")
	tool(0, "hello", "vzctl", "exec", "4001", "echo hello")
	tool(8, "", "vzctl", "exec", "4001", "exit 3")
	tool(3, "", "vzctl", "exec2", "4001", "exit 3")
	tool(0, "Setting CPU units: 500", "vzctl", "set", "4001", "--cpuunits", "500", "--numproc", "50", "--save")
	from := k.show("classic").Host
	to := "host1"
	if from == to {
		to = "host2"
	}
	tool(0, "Successfully completed", "vzmigrate", "--live", to, "4001")
	if c := k.show("classic"); c.Host != to || c.State != cluster.Running || c.Restarted != 0 || c.Limits.CPUUnits != 500 || c.Limits.PIDs != 50 {
		t.Errorf("after vzmigrate it is %+v", c)
	}
	tool(0, "Checkpointing completed successfully", "vzctl", "suspend", "4001")
	tool(0, "exist unmounted down suspended", "vzctl", "status", "4001")
	tool(0, "Restoring completed successfully", "vzctl", "start", "4001")
	tool(0, "running", "vzlist", "-H", "-o", "ctid,status", strconv.Itoa(4001))
	tool(32, "Stop it first", "vzctl", "destroy", "4001")
	tool(0, "Container was stopped", "vzctl", "stop", "4001")
	tool(0, "destroyed", "vzctl", "destroy", "4001")
	tool(14, "does not exist", "vzctl", "start", "4001")
}
