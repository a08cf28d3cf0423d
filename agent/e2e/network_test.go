package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/lab"
)

// TestNetworks gives two running containers further network cards, in two overlays, addresses of IPv6, a
// firewall and a published port, and moves one of them live: all of it goes with it.
func TestNetworks(t *testing.T) {
	k := ownLab(t, "networks", 3)
	k.vz("network", "add-pool", "default", "fd77::/64")
	k.vz("network", "create", "inner", "--overlay", "--pool", "10.9.0.0/24")
	k.vz("network", "create", "office", "--overlay", "--pool", "10.20.0.0/24")
	a, b := k.run("a", "busybox", "--host", "host1"), k.run("b", "busybox", "--host", "host2")
	for _, name := range []string{a.Name, b.Name} {
		k.vz("set", name, "--nic-add", "eth1,network=inner", "--nic-add", "eth2,network=office", "--ip-add", "10.77.9."+map[string]string{"a": "1", "b": "2"}[name])
	}
	k.vz("set", "b", "--publish", "8080:80")
	k.refused(1, []string{"8080", "b ("}, "set", "a", "--publish", "8080:81")
	k.refused(1, []string{"10.77.9.2", "taken"}, "set", "a", "--ip-add", "10.77.9.2")
	k.inside("b", "mkdir -p /tmp/www && echo hello >/tmp/www/index.html && httpd -p 80 -h /tmp/www")

	first, second := k.show("a"), k.show("b")
	if len(second.Addresses) != 3 || len(second.NICs) != 2 {
		t.Fatalf("b has %v and %+v", second.Addresses, second.NICs)
	}
	bare := func(cidr string) string { addr, _, _ := strings.Cut(cidr, "/"); return addr }
	all := []string{bare(second.Addresses[0]), bare(second.Addresses[1]), "10.77.9.2", bare(second.NICs[0].Addresses[0]), bare(second.NICs[1].Addresses[0])}
	reached := func(when string) {
		t.Helper()
		for _, addr := range all {
			k.until("a reaches "+addr+" "+when, recovery, func() error {
				if out := k.inside("a", "ping -c 1 -W 1 "+addr+" >/dev/null 2>&1 && echo yes || echo no"); strings.TrimSpace(out) != "yes" {
					return fmt.Errorf("%s", out)
				}
				return nil
			})
		}
		for _, host := range k.lab.Hosts() {
			k.until("port 8080 of "+host+" leads to b "+when, recovery, func() error {
				if out, code := k.on(lab.Outside, "timeout 3 busybox wget -q -O - http://"+k.lab.Address(host)+":8080/"); code != 0 || strings.TrimSpace(out) != "hello" {
					return fmt.Errorf("exit code %d: %s", code, out)
				}
				return nil
			})
		}
	}
	reached("before the move")

	k.vz("firewall", "policy", "b", "--in", "deny")
	k.vz("firewall", "allow", "b", "tcp/80")
	denied := func(when string) {
		t.Helper()
		for _, addr := range all {
			if out := k.inside("a", "ping -c 1 -W 1 "+addr+" >/dev/null 2>&1 && echo yes || echo no"); strings.TrimSpace(out) != "no" {
				t.Errorf("a reaches %s %s, which b's firewall denies", addr, when)
			}
		}
	}
	denied("before the move")
	if r := k.migrate("b", "host3"); r.Mode != "live" || r.Restarted {
		t.Fatalf("b was moved so: %+v", r)
	}
	denied("after the move")
	k.vz("firewall", "clear", "b")
	reached("after the move")
	if got := k.inside("b", "ping -c 1 -W 5 "+bare(first.NICs[0].Addresses[0])+" >/dev/null && echo yes"); strings.TrimSpace(got) != "yes" {
		t.Error("b does not reach a through the overlay after its move")
	}
	k.vz("set", "b", "--nic-del", "eth2", "--unpublish", "8080")
	if out := k.inside("b", "ip link show eth2 2>&1 || true"); strings.Contains(out, "UP") {
		t.Errorf("a card that was taken away is still there: %s", out)
	}
	k.refused(1, []string{"inner", "is in network"}, "network", "rm", "inner")
}
