package migrate

import (
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/runtime"
)

func TestUnfit(t *testing.T) {
	facts := runtime.Facts{
		CRIU: 40201, CPU: []string{"fpu", "sse2", "avx2"}, Cgroups: []string{"", "cpu,cpuacct"}, Time: true,
		Devices: []string{"char 1 mem", "char 10:229 fuse", "char 4 /dev/vc/0", "char 4 ttyS"}, FileSystems: []string{"fuse", "proc", "xfs"},
	}
	tests := []struct {
		name   string
		change func(o *Offer, p *Place)
		blocks string // what the blocker says; "" for none
		live   bool   // it is in the way of a live move only
	}{
		{"twins", func(*Offer, *Place) {}, "", false},
		{"another protocol", func(o *Offer, _ *Place) { o.Version++ }, "version 3 of the migration protocol", false},
		{"no template", func(_ *Offer, p *Place) { p.Template = "no host that is up has a copy" }, "b cannot have the template: no host", false},
		{"no bridge", func(_ *Offer, p *Place) { p.Network = "there is no bridge vzbr0" }, "on b, there is no bridge vzbr0", false},
		{"no disk", func(_ *Offer, p *Place) { p.Room.Disk = 1 << 20 }, "the private layer takes 1G and b has 1M left", false},
		{"no disk for the checkpoint", func(_ *Offer, p *Place) { p.Room.Disk = 1<<30 + 1 }, "layer and checkpoint take", true},
		{"no memory", func(_ *Offer, p *Place) { p.Room.RAM = 1 << 20 }, "it uses 512M of memory and b has 1M left", true},
		{"no CRIU here", func(o *Offer, _ *Place) { o.Facts.CRIU, o.Facts.Fault = 0, "not found" }, "CRIU cannot be used on a: not found", true},
		{"no CRIU there", func(_ *Offer, p *Place) { p.Facts.CRIU, p.Facts.Fault = 0, "not found" }, "CRIU cannot be used on b: not found", true},
		{"CRIU of Debian 12", func(_ *Offer, p *Place) { p.Facts.CRIU = 31701 }, "b has CRIU 3.17.1, 4.2 is needed", true},
		{"an older CRIU there", func(o *Offer, _ *Place) { o.Facts.CRIU = 40300 }, "b has CRIU 4.2.1, older than 4.3 of a", true},
		{"a newer CRIU there", func(_ *Offer, p *Place) { p.Facts.CRIU = 50000 }, "", true},
		{"an older CPU there", func(o *Offer, _ *Place) { o.Facts.CPU = append(o.Facts.CPU[:3:3], "avx512f", "vmx", "amx_tile") }, "lacks what the container may use: avx512f, amx_tile", true},
		{"only the kernel notices", func(o *Offer, _ *Place) { o.Facts.CPU = append(o.Facts.CPU[:3:3], "vmx", "smep") }, "", true},
		{"a newer CPU there", func(_ *Offer, p *Place) { p.Facts.CPU = append(p.Facts.CPU[:3:3], "avx512f") }, "", true},
		{"pure version 2 there", func(_ *Offer, p *Place) { p.Facts.Cgroups = []string{""} }, "lacks cgroup hierarchies of a: cpu,cpuacct", true},
		{"no FUSE there", func(_ *Offer, p *Place) { p.Facts.Devices = []string{"char 1 mem", "char 4 tty", "char 4 ttyS"} }, "the device /dev/fuse (char 10:229 fuse), which the kernel of b", false},
		{"another driver there", func(_ *Offer, p *Place) {
			p.Facts.Devices = []string{"char 1 mem", "char 10:229 other", "char 4 ttyS"}
		}, "the device /dev/fuse", false},
		{"no FUSE mounts there", func(_ *Offer, p *Place) { p.Facts.FileSystems = []string{"proc"} }, "a file system of type fuse", false},
		{"a kernel that does not say what it has", func(_ *Offer, p *Place) { p.Facts.Devices, p.Facts.FileSystems = nil, nil }, "", false},
		{"no time namespaces there", func(_ *Offer, p *Place) { p.Facts.Time = false }, "no time namespaces", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := Offer{Version: Version, Host: "a", Live: true, Facts: facts, Need: runtime.Need{
				Room:        runtime.Room{Disk: 1 << 30, RAM: 512 << 20},
				Devices:     []runtime.Device{{Path: "/dev/fuse", Are: []string{"char 10:229 fuse"}}, {Path: "/dev/ttyS0", Are: []string{"char 4 /dev/vc/0", "char 4 ttyS"}}},
				FileSystems: []string{"proc", "fuse"},
			}}
			p := Place{Host: "b", Facts: facts, Room: runtime.Room{Disk: 8 << 30, RAM: 8 << 30}}
			tt.change(&o, &p)
			got := Unfit(o, p)
			if tt.blocks == "" && len(got) > 0 || tt.blocks != "" && (len(got) != 1 || !strings.Contains(got[0].What, tt.blocks) || got[0].Remedy == "") {
				t.Fatalf("got %v, want %q", got, tt.blocks)
			}
			if o.Live = false; len(Unfit(o, p)) != 0 && tt.live {
				t.Errorf("an offline move is refused too: %v", Unfit(o, p))
			}
		})
	}
}
