package doctor

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// sound is a host that lacks nothing.
func sound() (Config, Facts) {
	f := Facts{
		Root: true, Caps: ^uint64(0), Release: "6.12.48+deb13-amd64", Features: map[Feature]string{},
		CRIU: Program{Path: "/bin/criu", Version: "4.2.1"}, LXCFS: "/bin/lxcfs", Runc: Program{Path: "/bin/runc", Version: "1.5.2"},
		Cgroup: Cgroup{Mode: "v2"}, RunFS: "tmpfs", Sysctls: map[string]int64{}, Bridge: Link{Kind: "bridge"}, Uplink: Link{Kind: "device", Master: "vzbr0"},
		LAN: "vzbr0", Group: true,
	}
	for _, x := range []Feature{UserNamespace, CgroupNamespace, TimeNamespace, Overlay, IDMap, Bridge, Veth, NFTables, NAT, PidFD, Userfault, SoftDirty} {
		f.Features[x] = ""
	}
	for _, l := range limits() {
		f.Sysctls[l.key] = l.least
	}
	return Config{File: "/etc/agent.yaml", DataDir: "/var/lib/vzcluster", Bridge: "vzbr0", Uplink: "eth0", Group: "vzcluster"}, f
}

func TestSoundHost(t *testing.T) {
	all := Evaluate(sound())
	for _, f := range all {
		if !f.OK || f.Costs != "" || f.Remedy != "" || f.Found == "" || f.Name == "" {
			t.Errorf("%+v", f)
		}
	}
	if !Healthy(all) || len(all) < 25 {
		t.Errorf("healthy %v, %d findings", Healthy(all), len(all))
	}
}

// TestFindings changes one fact of a sound host and wants exactly one finding to change.
func TestFindings(t *testing.T) {
	for _, c := range []struct {
		what    string
		change  func(*Config, *Facts)
		name    string
		warning bool
		found   string
		remedy  string
	}{
		{"kernel", func(_ *Config, f *Facts) { f.Release = "5.15.0-91" }, "kernel", false, "5.19 or newer is needed", "apt-get install linux-image"},
		{"kernel without a number", func(_ *Config, f *Facts) { f.Release = "unknown" }, "kernel", false, "unknown", "linux-image"},
		{"no SYS_RESOURCE", func(_ *Config, f *Facts) { f.Caps &^= 1 << 24 }, "CAP_SYS_RESOURCE", true, "without it", "with CAP_SYS_RESOURCE"},
		{"no overlayfs", func(_ *Config, f *Facts) { f.Features[Overlay] = "not in this kernel" }, "overlayfs", false, "not in", "modprobe overlay"},
		{"no idmap", func(_ *Config, f *Facts) { f.Features[IDMap] = "not on nfs" }, "idmapped mounts", false, "not on nfs", "data_dir"},
		{"no userns", func(_ *Config, f *Facts) { f.Features[UserNamespace] = "no" }, "user namespaces", false, "no", "max_user_namespaces"},
		{"no soft dirty", func(_ *Config, f *Facts) { f.Features[SoftDirty] = "no" }, "soft-dirty", true, "no", "CONFIG_MEM_SOFT_DIRTY"},
		{"no mkfs for a pool", func(c *Config, f *Facts) { c.Storage, f.Missing = "btrfs", []string{"mkfs.btrfs"} }, "storage", false, "mkfs.btrfs is not", "vzcluster setup"},
		{"no uffd", func(_ *Config, f *Facts) { f.Features[Userfault] = "no" }, "userfaultfd", true, "no", ""},
		{"no criu", func(_ *Config, f *Facts) { f.CRIU = Program{} }, "criu", false, "not found", "vzcluster setup"},
		{"criu dies", func(_ *Config, f *Facts) { f.CRIU.Error = "vdso" }, "criu", false, "does not run: vdso", "vzcluster setup"},
		{"criu old", func(_ *Config, f *Facts) { f.CRIU.Version = "3.17.1" }, "criu", false, "4.0 or newer", "vzcluster setup"},
		{"criu old for 6.16", func(_ *Config, f *Facts) { f.Release, f.CRIU.Version = "6.16.0", "4.1.1" }, "criu", false, "4.2 or newer", "vzcluster setup"},
		{"criu nameless", func(_ *Config, f *Facts) { f.CRIU.Version = "of unknown version" }, "criu", false, "needed", "vzcluster setup"},
		{"criu check", func(_ *Config, f *Facts) { f.Check = "no pagemap" }, "criu check", false, "no pagemap", "check --all"},
		{"no runc", func(_ *Config, f *Facts) { f.Runc = Program{} }, "runc", false, "not found", "vzcluster setup"},
		{"no lxcfs", func(_ *Config, f *Facts) { f.LXCFS = "" }, "lxcfs", true, "not found", "vzcluster setup"},
		{"runc 1.1", func(_ *Config, f *Facts) { f.Runc.Version = "1.1.5+ds1" }, "runc", false, "CVE-2025-31133", "vzcluster setup"},
		{"runc 1.2.7", func(_ *Config, f *Facts) { f.Runc.Version = "1.2.7" }, "runc", false, "CVE", "vzcluster setup"},
		{"runc 1.2.8", func(_ *Config, f *Facts) { f.Runc.Version = "1.2.8" }, "runc", true, "1.4 or newer", "vzcluster setup"},
		{"runc 1.3.2", func(_ *Config, f *Facts) { f.Runc.Version = "1.3.2" }, "runc", false, "CVE", "vzcluster setup"},
		{"runc 1.3.3", func(_ *Config, f *Facts) { f.Runc.Version = "1.3.3" }, "runc", true, "1.4 or newer", "vzcluster setup"},
		{"runc 1.4 rc.2", func(_ *Config, f *Facts) { f.Runc.Version = "1.4.0-rc.2" }, "runc", false, "CVE", "vzcluster setup"},
		{"runc 1.4 rc.3", func(_ *Config, f *Facts) { f.Runc.Version = "1.4.0-rc.3" }, "runc", true, "tested", "vzcluster setup"},
		{"no mmdebstrap", func(_ *Config, f *Facts) { f.Missing = []string{"mmdebstrap"} }, "mmdebstrap", true, "not found", "vzcluster setup"},
		{"no cgroups", func(_ *Config, f *Facts) { f.Cgroup = Cgroup{} }, "cgroups", false, "none", "mount -t cgroup2"},
		{"cgroups without freezer", func(_ *Config, f *Facts) { f.Cgroup = Cgroup{"v1", []string{"freezer"}} }, "cgroups", false, "v1 without freezer", "cgroup v2"},
		{"/run on disk", func(_ *Config, f *Facts) { f.RunFS = "on disk" }, "/run", true, "on disk", "mount -t tmpfs"},
		{"closed directory", func(_ *Config, f *Facts) { f.Closed = "/var/lib" }, "data_dir", false, "/var/lib", "chmod o+x /var/lib"},
		{"no group", func(_ *Config, f *Facts) { f.Group = false }, "group", true, "no group", "groupadd"},
		{"few inotify instances", func(_ *Config, f *Facts) { f.Sysctls["fs.inotify.max_user_instances"] = 128 }, "fs.inotify.max_user_instances", true, "128, 8192", "vzcluster setup"},
		{"no post-copy", func(_ *Config, f *Facts) { f.Sysctls["vm.unprivileged_userfaultfd"] = 0 }, "vm.unprivileged_userfaultfd", true, "0, 1", "vzcluster setup --post-copy"},
		{"pipe soft limit", func(_ *Config, f *Facts) { f.Sysctls["fs.pipe-user-pages-soft"] = 16384 }, "fs.pipe-user-pages-soft", true, "16384, 0", "vzcluster setup"},
		{"bridge's name taken", func(_ *Config, f *Facts) { f.Bridge = Link{Kind: "vlan"} }, "network.bridge", false, "a vlan", "/etc/agent.yaml"},
		{"no uplink configured", func(c *Config, f *Facts) { c.Uplink, f.LAN = "", "eth1" }, "network.uplink", true, "none", "to eth1"},
		{"uplink absent", func(_ *Config, f *Facts) { f.Uplink = Link{} }, "network.uplink", false, "no interface eth0", "network.uplink"},
		{"uplink elsewhere", func(_ *Config, f *Facts) { f.Uplink.Master = "bond0" }, "network.uplink", false, "belongs to bond0", "network.bridge"},
	} {
		t.Run(c.what, func(t *testing.T) {
			conf, facts := sound()
			c.change(&conf, &facts)
			var changed []Finding
			for _, f := range Evaluate(conf, facts) {
				if f.Name == "criu check" && c.name == "criu" {
					continue // cannot be tried without criu
				}
				if !f.OK {
					changed = append(changed, f)
				}
			}
			if len(changed) != 1 {
				t.Fatalf("%d findings, want one: %+v", len(changed), changed)
			}
			f := changed[0]
			if f.Name != c.name || f.Warning != c.warning || !strings.Contains(f.Found, c.found) || !strings.Contains(f.Remedy, c.remedy) || f.Costs == "" || f.Remedy == "" {
				t.Errorf("%+v", f)
			}
			if Healthy(changed) != c.warning {
				t.Errorf("healthy is %v", !c.warning)
			}
		})
	}
}

func TestStillSound(t *testing.T) {
	for what, change := range map[string]func(*Config, *Facts){
		"bridge not made yet":                func(_ *Config, f *Facts) { f.Bridge = Link{} },
		"a bridge that an admin made":        func(c *Config, f *Facts) { c.Uplink, f.Bridge.Ports = "", 1 },
		"uplink not moved yet":               func(_ *Config, f *Facts) { f.Uplink.Master = "" },
		"criu 4.0 below 6.16":                func(_ *Config, f *Facts) { f.CRIU.Version = "4.0" },
		"criu 4.2 on 6.16":                   func(_ *Config, f *Facts) { f.Release, f.CRIU.Version = "6.16.0-rc1", "4.2" },
		"runc 1.4.0":                         func(_ *Config, f *Facts) { f.Runc.Version = "1.4.0" },
		"a limit that the kernel is without": func(_ *Config, f *Facts) { delete(f.Sysctls, "kernel.keys.maxkeys") },
		"limits above ours":                  func(_ *Config, f *Facts) { f.Sysctls["kernel.keys.maxkeys"] = 1 << 30 },
		"forwarding with nat":                func(c *Config, f *Facts) { c.NAT = true; f.Sysctls[forwarding] = 0 },
		"kernel 5.19":                        func(_ *Config, f *Facts) { f.Release = "5.19.0" },
	} {
		c, f := sound()
		change(&c, &f)
		for _, x := range Evaluate(c, f) {
			if !x.OK {
				t.Errorf("%s: %+v", what, x)
			}
		}
	}
}

func TestForwardingOnlyWithNAT(t *testing.T) {
	c, f := sound()
	has := func() bool {
		return slices.ContainsFunc(Evaluate(c, f), func(x Finding) bool { return x.Name == forwarding })
	}
	if has() {
		t.Error("forwarding matters without nat")
	}
	c.NAT = true
	if !has() {
		t.Error("forwarding is not mentioned with nat")
	}
}

func TestWithoutRoot(t *testing.T) {
	c, f := sound()
	f.Root = false
	delete(f.Features, IDMap)
	all := Evaluate(c, f)
	if Healthy(all) || all[0].Name != "root" || all[0].Remedy != "sudo vzcluster doctor" {
		t.Errorf("%+v", all[0])
	}
	if slices.ContainsFunc(all, func(x Finding) bool { return x.Name == string(IDMap) }) {
		t.Error("what was not tried is judged")
	}
}

// TestLimitsAreThoseOfSetup compares with the script that raises them.
func TestLimitsAreThoseOfSetup(t *testing.T) {
	script, err := os.ReadFile("../../cmd/vzcluster/setup.sh")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(script), "SYSCTLS='")
	list, _, _ = strings.Cut(list, "'")
	got := map[string]int64{}
	for _, l := range limits() {
		got[l.key] = l.least
	}
	lines := strings.Split(strings.TrimSpace(list), "\n")
	for _, line := range lines {
		f := strings.Fields(line)
		if v, _ := parseVersion(f[1] + ".0"); len(f) != 3 || int64(v[0]) != got[f[0]] || (f[2] == "set") != (got[f[0]] == 0) {
			t.Errorf("set-up says %q, doctor %d", line, got[f[0]])
		}
	}
	if len(lines) != len(got) {
		t.Errorf("set-up knows %d sysctls, doctor %d", len(lines), len(got))
	}
}
