package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
	"github.com/vzcluster/vzcluster/runtime/storage"
)

// storageLab makes a lab with a host of each storage driver.
func storageLab(t *testing.T, name string) *kit {
	t.Helper()
	skipUnlessAble(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	o := shared.options(name+"-", len(storage.Drivers()))
	o.Storage = storage.Drivers()
	l, err := lab.Up(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	downAfter(t, l)
	k := &kit{t: t, lab: l}
	k.explainFailure()
	return k
}

// TestStorageDrivers has a container with a connection go around hosts with different drivers: it keeps its files, and
// its limit where that is one; and its layer is found again by an agent that was killed.
func TestStorageDrivers(t *testing.T) {
	k := storageLab(t, "storage")
	k.run("roams", "busybox", "--disk", "64M", "--host", "host2")
	talks := k.run("talks", "busybox", "--disk", "64M", "--host", "host2") // its server ends when its disk is full
	k.serveCounter(talks)
	client := k.count(address(talks) + ":" + port)
	move := func(to string) {
		t.Helper()
		k.vz("migrate", "roams", to)
		k.vz("migrate", "talks", to)
		client.goesOn()
	}
	over := func(size int) bool {
		said := k.inside("roams", fmt.Sprintf("dd if=/dev/zero of=/big bs=1M count=%d conv=fsync 2>/dev/null && echo fits; rm -f /big; sync", size))
		return !strings.Contains(said, "fits")
	}
	if !over(90) || over(40) {
		t.Error("an image does not hold the limit")
	}
	k.inside("roams", "echo written on an image > /root/note; chown 7:8 /root/note; rm /etc/os-release")
	move("host3")
	if !over(90) || over(40) {
		t.Error("after it came from an image, btrfs does not hold the limit")
	}
	k.vz("set", "roams", "--disk", "128M")
	if over(90) || !over(150) {
		t.Error("the limit did not grow live on btrfs")
	}
	k.refused(7, []string{"in use"}, "set", "roams", "--disk", "4K")
	k.killAgent("host3")
	move("host1")
	if over(150) {
		t.Error("a plain folder has a limit")
	}
	move("host2")
	if got := k.inside("roams", "cat /root/note; stat -c %u:%g /root/note; ls /etc/os-release 2>/dev/null; df -m / | tail -1 | awk '$2 < 140 {print \"limited\"}'"); got != "written on an image\n7:8\nlimited" {
		t.Errorf("after all moves it has %q", got)
	}
	client.stop()
	k.vz("stop", "talks")
	for _, host := range []string{"host1", "host2", "host3"} {
		k.keepsAndCopies(host)
	}
	k.vz("stop", "roams")
	k.vz("set", "roams", "--disk", "64M")
	k.vz("start", "roams")
	if !over(90) || k.show("roams").Limits.Disk != 64<<20 {
		t.Error("the limit did not shrink at the next start")
	}
	for _, f := range ask[[]api.Finding](k, "doctor") {
		if f.Name == "storage" && !strings.Contains(f.Found, "overlay") {
			t.Errorf("the doctor of host1 says %q", f.Found)
		}
	}
}

// folders has containers with folders of the hosts: the lab's hosts have this machine's disk in common.
func (k *kit) folders() {
	k.t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "vzfolders")
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { os.RemoveAll(dir) })
	k.run("local", "busybox", "--bind", dir+":/data:ro", "--host", "host1")
	k.run("shared", "busybox", "--bind", dir+":/data:shared", "--host", "host1")
	k.refused(2, []string{"of which", "--host"}, "create", "other", "--template", "busybox", "--bind", dir+":/data")
	k.refused(2, []string{"belongs to the kernel"}, "create", "other", "--template", "busybox", "--bind", "/proc/1:/data", "--host", "host1")
	k.inside("shared", "echo one > /data/f; tail -f /data/f > /root/log 2>&1 &")
	k.vz("migrate", "shared", "host2")
	if got := k.inside("shared", "echo two >> /data/f; cat /data/f") + k.inside("local", "cat /data/f"); got != "one\ntwoone\ntwo" {
		k.t.Errorf("in the shared folder there is %q", got)
	}
	k.refused(4, []string{"pinned to host1"}, "migrate", "local", "host2")
	k.refused(4, []string{"pinned to host1"}, "migrate", "local", "--check-only")
	k.vz("destroy", "-y", "--now", "local")
	k.vz("destroy", "-y", "--now", "shared")
	if b, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(b) != "one\ntwo\n" {
		k.t.Errorf("the containers are gone, and their folder has %q: %v", b, err)
	}
}

// keepsAndCopies has a container with snapshots on a host: one that came with it, made by another driver, and one made there.
func (k *kit) keepsAndCopies(host string) {
	k.t.Helper()
	if k.show("roams").Host != host {
		k.vz("migrate", "roams", host)
	}
	k.inside("roams", "echo "+host+" > /root/where; ln /root/where /root/same; sync")
	k.vz("snapshot", "create", "roams", host)
	k.inside("roams", "echo later > /root/where; touch /root/more")
	k.vz("clone", "roams", "now", "--start")
	k.vz("clone", "roams", "then", "--start", "--snapshot", host)
	k.vz("snapshot", "switch", "-y", "roams", host)
	const what = "cat /root/where; stat -c %h /root/where; ls /root/more 2>/dev/null; cat /root/note; rm -f /root/same /root/where"
	for name, want := range map[string]string{"roams": host + "\n2", "then": host + "\n2", "now": "later\n2\n/root/more"} {
		if got := k.inside(name, what); got != want+"\nwritten on an image" {
			k.t.Errorf("on %s %s has %q", host, name, got)
		}
	}
	if host != "host1" {
		k.vz("snapshot", "switch", "-y", "roams", "host1") // it has come here with the container
		if got := k.inside("roams", "cat /root/where; rm /root/same"); got != "host1" {
			k.t.Errorf("on %s the snapshot of another driver has %q", host, got)
		}
	}
	k.vz("reinstall", "-y", "now", "--keep", "/root/more")
	if got := k.inside("now", "ls /root"); got != "more" {
		k.t.Errorf("on %s a reinstalled container has %q", host, got)
	}
	k.vz("destroy", "-y", "--now", "now")
	k.vz("destroy", "-y", "--now", "then")
}

// killAgent kills a host's agent and returns when the next one answers.
func (k *kit) killAgent(host string) {
	k.t.Helper()
	if err := k.lab.Kill(k.t.Context(), host, false); err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(k.t.Context(), recovery)
	defer cancel()
	if err := k.lab.WaitReady(ctx, host); err != nil {
		k.t.Fatal(err)
	}
}

// TestFolders of hosts that have the same disk, and of one host.
func TestFoldersOfHosts(t *testing.T) { sharedLab(t).folders() }
