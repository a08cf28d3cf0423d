package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// counting has a container count in /run/n, which a boot empties, and returns what reads it.
func (k *kit) countIn(name string) func() int {
	k.t.Helper()
	k.inside(name, "setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i > /run/n.new; mv /run/n.new /run/n; usleep 5000; done' </dev/null >/dev/null 2>&1 &")
	read := func() int {
		n, _ := strconv.Atoi(k.inside(name, "cat /run/n 2>/dev/null || echo 0"))
		return n
	}
	k.until("it counts", recovery, func() error {
		if read() == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	return read
}

// goesOn wants the count to go on where it stood, not from the beginning.
func (k *kit) goesOn(what string, read func() int, stood int) {
	k.t.Helper()
	k.until(what, recovery, func() error {
		if n := read(); n <= stood {
			return fmt.Errorf("it stood at %d and is at %d", stood, n)
		}
		return nil
	})
}

// TestVerbs does with one container after the other what one does with them in the course of a year.
func TestVerbs(t *testing.T) {
	k := sharedLab(t)
	c := k.run("year", "busybox")
	read := k.countIn("year")

	// Suspend, and let it go on; on another host, too.
	stood := read()
	if now := ask[api.Container](k, "suspend", "year"); now.State != cluster.Suspended || len(k.copies(c.ID)) != 0 {
		t.Fatalf("suspended it is %s and runs on %v", now.State, k.copies(c.ID))
	}
	k.refused(7, []string{"is suspended", "stop --force"}, "stop", "year")
	if r := k.migrate("year"); r.Mode != cluster.ModeOffline {
		t.Errorf("it was moved %+v", r)
	}
	if now := k.show("year"); now.State != cluster.Suspended || now.Host == c.Host {
		t.Fatalf("moved it is %s on %s", now.State, now.Host)
	}
	k.vz("resume", "year")
	k.goesOn("after a suspension", read, stood)

	// Snapshots.
	k.inside("year", "echo one > /root/file")
	k.vz("snapshot", "create", "year", "disk")
	k.vz("snapshot", "create", "year", "all", "--memory", "--description", "with everything")
	kept := read()
	k.migrate("year") // live, with its snapshots
	k.inside("year", "echo two > /root/file; rm -r /etc/init.d 2>/dev/null || true")
	k.vz("snapshot", "switch", "-y", "year", "disk")
	if got := k.inside("year", "cat /root/file; cat /run/n 2>/dev/null || echo booted"); got != "one\nbooted" {
		t.Errorf("at the snapshot of the disk it has %q", got)
	}
	k.vz("snapshot", "switch", "-y", "year", "all")
	k.goesOn("at the snapshot of everything", read, kept-1)
	if n := read(); n > kept+20000 {
		t.Errorf("it was kept at %d and is at %d", kept, n)
	}

	// A clone of a running one is another one.
	two := ask[api.Container](k, "clone", "year", "year2", "--start")
	k.destroyAfter("year2")
	if two.State != cluster.Running || two.ID == c.ID {
		t.Errorf("the clone is %+v", two)
	}
	if a, b := k.inside("year", "cat /etc/machine-id /root/file"), k.inside("year2", "cat /etc/machine-id /root/file"); a == b || !strings.HasSuffix(b, "one") {
		t.Errorf("the two have %q and %q", a, b)
	}
	if got := k.inside("year2", "hostname"); got != "year2" {
		t.Errorf("the clone calls itself %q", got)
	}

	k.vz("rename", "year2", "spare")
	k.destroyAfter("spare")
	k.vz("describe", "spare", "a spare one")
	k.vz("label", "spare", "tier=none")
	if now := k.show("spare"); now.Text != "a spare one" || now.Labels["tier"] != "none" || now.ID != two.ID {
		t.Errorf("it is %+v", now)
	}

	// The trash.
	k.vz("destroy", "-y", "-f", "spare")
	k.refused(3, []string{"spare"}, "show", "spare")
	if out := k.vz("trash", "ls"); !strings.Contains(out, "spare") {
		t.Errorf("the trash has %q", out)
	}
	k.vz("trash", "restore", "spare")
	k.vz("start", "spare")
	if got := k.inside("spare", "cat /root/file"); got != "one" {
		t.Errorf("back from the trash it has %q", got)
	}

	// From the beginning, but for one folder.
	k.inside("spare", "mkdir -p /srv/site; echo site > /srv/site/index")
	k.vz("reinstall", "-y", "spare", "--keep", "/srv/site")
	if got := k.inside("spare", "cat /srv/site/index; cat /root/file 2>/dev/null || echo gone"); got != "site\ngone" {
		t.Errorf("reinstalled it has %q", got)
	}
	for _, name := range []string{"disk", "all"} {
		k.vz("snapshot", "rm", "year", name)
	}

	k.filesOf("year")

	// What it does to itself, also when its agent is not the one that has started it.
	rebooted := func() {
		t.Helper()
		k.inside("year", "echo 1 > /run/n")
		k.try("exec", "year", "reboot")
		k.until("it has rebooted", recovery, func() error {
			if r := k.try("exec", "year", "--", "sh", "-c", "cat /run/n 2>/dev/null || echo booted"); r.stdout != "booted\n" {
				return fmt.Errorf("%v", r)
			}
			return nil
		})
	}
	off := func() {
		t.Helper()
		k.try("exec", "year", "poweroff")
		k.until("it is off", recovery, func() error {
			if now := k.show("year"); now.State != cluster.Stopped || now.Desired != cluster.WantStopped {
				return fmt.Errorf("it is %s, wanted %s (%s)", now.State, now.Desired, now.Detail)
			}
			return nil
		})
	}
	rebooted()
	k.killAgent(k.show("year").Host)
	rebooted()
	if now := k.show("year"); now.Restarted != 0 {
		t.Errorf("a reboot counts as a fault: %d", now.Restarted)
	}
	off()
	k.vz("start", "year")
	k.killAgent(k.show("year").Host)
	off()
	k.vz("label", "year", "tier=year")
	k.vz("start", "--wait", "-l", "tier=year")
	if now := k.show("year"); len(now.Snapshots) != 0 {
		t.Errorf("it still has %+v", now.Snapshots)
	}
}

// filesOf copies into a running container and out of it when it is stopped, by way of another host, and sets what is inside.
func (k *kit) filesOf(name string) {
	t := k.t
	t.Helper()
	dir := t.TempDir()
	site := filepath.Join(dir, "site")
	if err := errors.Join(os.Mkdir(site, 0o755), os.WriteFile(filepath.Join(site, "index"), []byte("hello"), 0o640)); err != nil {
		t.Fatal(err)
	}
	k.inside(name, "mkdir -p /srv/real; ln -sfn /srv/real /srv/way; ln -sfn /../../../../etc /srv/out")
	for _, host := range k.lab.Hosts() {
		if r := k.at(host, nil, "cp", site, name+":/srv/way/"+host); r.code != 0 {
			t.Fatal(r)
		}
	}
	if got := k.inside(name, "cd /srv/real; cat */index; stat -c %u:%a host2/index"); got != "hellohellohello0:640" {
		t.Errorf("copied is %q", got)
	}
	k.vz("set", name, "--password", "root:secret", "--ssh-key", "root:"+k.publicKey(dir))
	if got := k.inside(name, "grep -c '^root:.6.' /etc/shadow /etc/passwd; stat -c %u:%a /root/.ssh/authorized_keys"); !strings.Contains(got, ":1") || !strings.HasSuffix(got, "0:600") {
		t.Errorf("inside are %q", got)
	}
	if out := k.vz("top", name, "--once", "-d", "50ms"); !strings.Contains(out, "init") {
		t.Errorf("its processes are %q", out)
	}
	usual := k.inside(name, "cat /etc/resolv.conf")
	k.vz("set", name, "--nameserver", "10.0.0.53", "--searchdomain", "example.org")
	if got := k.inside(name, "cat /etc/resolv.conf; stat -c %u:%a /etc/resolv.conf"); !strings.Contains(got, "search example.org\nnameserver 10.0.0.53\n0:644") {
		t.Errorf("its resolver asks %q", got)
	}
	if k.vz("set", name, "--nameserver", "default", "--searchdomain", "default"); k.inside(name, "cat /etc/resolv.conf") != usual {
		t.Errorf("its resolver does not ask what it asked before: %q", usual)
	}
	k.vz("stop", name)
	for _, host := range k.lab.Hosts() {
		out := filepath.Join(dir, host)
		if r := k.at(host, nil, "cp", name+":/srv/real/host2", out); r.code != 0 {
			t.Fatal(r)
		}
		if b, err := os.ReadFile(filepath.Join(out, "index")); err != nil || string(b) != "hello" {
			t.Errorf("from %s it is %q: %v", host, b, err)
		}
	}
	if r := k.try("cp", site, name+":/srv/out/site"); r.code != 0 {
		t.Error(r)
	}
	k.vz("start", name)
	if got := k.inside(name, "cat /etc/site/index"); got != "hello" {
		t.Errorf("by way of a link that leads out it is %q", got)
	}
}

func (k *kit) publicKey(dir string) string {
	name := filepath.Join(dir, "key.pub")
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2bLQYkPMSd1TnPLEfzD9TNBEH6PK2ni4t2xZq0vBPo me\n"
	if err := os.WriteFile(name, []byte(key), 0o600); err != nil {
		k.t.Fatal(err)
	}
	return name
}
