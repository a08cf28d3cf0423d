package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCPUFlags(t *testing.T) {
	x86 := "processor\t: 0\nflags\t\t: fpu sse2 avx2\nbugs\t\t: spectre_v1\n\nprocessor\t: 1\nflags\t\t: fpu\n"
	if got := cpuFlags(x86); !slices.Equal(got, []string{"fpu", "sse2", "avx2"}) {
		t.Errorf("x86 has %v", got)
	}
	if got := cpuFlags("processor\t: 0\nFeatures\t: fp asimd\n"); !slices.Equal(got, []string{"fp", "asimd"}) {
		t.Errorf("ARM has %v", got)
	}
}

func TestHierarchies(t *testing.T) {
	hybrid := "4:cpuacct,cpu:/a\n1:name=systemd:/b\n0::/c\n"
	if got := hierarchies(hybrid); !slices.Equal(got, []string{"", "cpu,cpuacct", "name=systemd"}) {
		t.Errorf("a hybrid host has %q", got)
	}
	if got := hierarchies("0::/\n"); !slices.Equal(got, []string{""}) {
		t.Errorf("a host of version 2 has %q", got)
	}
}

// A kernel has what is loaded and what it loads when it is opened or mounted.
func TestDrivers(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"devices":         "Character devices:\n  1 mem\n  4 tty\n  4 ttyS\n 10 misc\n\nBlock devices:\n  7 loop\n",
		"misc":            "235 autofs\n",
		"filesystems":     "nodev\tproc\n\text4\n",
		"modules.devname": "# Device nodes to trigger on-demand module loading.\nfuse fuse c10:229\ntun net/tun c10:200\nvhost_net vhost-net c10:238\n",
		"modules.alias":   "alias fs-fuseblk fuse\nalias pci:v00001022d* k10temp\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	devices, systems := drivers(dir, dir)
	for device, want := range map[string]string{
		"char 1:3": "char 1 mem", "char 4:64": "char 4 tty, char 4 ttyS", "char 10:229": "char 10:229 fuse", "char 10:200": "char 10:200 tun",
		"char 10:235": "char 10:235 autofs", "char 10:77": "", "char 7:0": "", "block 7:0": "block 7 loop", "char 10:238": "char 10:238 vhost-net",
	} {
		if got := strings.Join(driversOf(devices, device), ", "); got != want {
			t.Errorf("%s is %q, want %q", device, got, want)
		}
	}
	if !slices.Equal(systems, []string{"ext4", "fuseblk", "proc"}) {
		t.Errorf("the file systems are %v", systems)
	}
	if devices, systems := drivers("/nowhere", "/nowhere"); len(devices)+len(systems) > 0 {
		t.Errorf("nothing is known, but %v and %v", devices, systems)
	}
}
