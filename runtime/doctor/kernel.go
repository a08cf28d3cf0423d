package doctor

import (
	"fmt"
	"strings"
)

const newKernel = "apt-get install linux-image-$(dpkg --print-architecture), and boot it"

// minKernel is the first that overlays idmapped layers.
func minKernel() version { return version{5, 19, 0, 0} }

func rights(f Facts) []Finding {
	if !f.Root {
		return []Finding{bad("root", "not root: what only root can try was left out", "the agent itself", "sudo vzcluster doctor")}
	}
	if f.Caps&(1<<capSysResource) == 0 {
		return []Finding{good("root", "yes"), warn("CAP_SYS_RESOURCE", "this process is without it",
			"moving processes whose resource limits are above the agent's", "start the agent, and the machine if it is a container itself, with CAP_SYS_RESOURCE")}
	}
	return []Finding{good("root", "yes"), good("CAP_SYS_RESOURCE", "yes")}
}

// kernel judges version and features. A feature that was not tried is not mentioned.
func kernel(f Facts) []Finding {
	v, ok := parseVersion(f.Release)
	all := []Finding{good("kernel", f.Release)}
	if !ok || v.less(minKernel()) {
		all[0] = bad("kernel", f.Release+", 5.19 or newer is needed", "containers: their layers are overlaid on idmapped mounts", newKernel)
	}
	for _, w := range []struct {
		feature       Feature
		optional      bool
		costs, remedy string
	}{
		{UserNamespace, false, "containers: each has a user namespace of its own", "sysctl -w user.max_user_namespaces=100000"},
		{CgroupNamespace, false, "containers", newKernel},
		{TimeNamespace, false, "live migration: clocks inside would jump", newKernel},
		{Overlay, false, "containers: their roots are overlays with index=on and nfs_export=on", "put data_dir on ext4, xfs or btrfs; if the module is missing: modprobe overlay"},
		{IDMap, false, "containers: templates and layers are mounted with the container's ids", "put data_dir on ext4, xfs or btrfs"},
		{Bridge, false, "the containers' network", "modprobe bridge"},
		{Veth, false, "the containers' network", "modprobe veth"},
		{NFTables, false, "the containers' network: the guard against spoofing is a table of the bridge family", "modprobe nf_tables"},
		{NAT, false, "network.nat", "modprobe nft_masq"},
		{PidFD, false, "live migration", newKernel},
		{Userfault, true, "post-copy migration to this host", newKernel},
		{SoftDirty, true, "nothing today; pre-copy of memory will need it, until then all of it is copied while the container is frozen", "boot a kernel with CONFIG_MEM_SOFT_DIRTY=y; Debian's have it"},
	} {
		why, tried := f.Features[w.feature]
		switch {
		case !tried:
		case why == "":
			all = append(all, good(string(w.feature), "yes"))
		default:
			all = append(all, Finding{Name: string(w.feature), Found: why, Costs: w.costs, Remedy: w.remedy, Warning: w.optional})
		}
	}
	return all
}

func cgroups(f Facts) Finding {
	const name = "cgroups"
	switch {
	case f.Cgroup.Mode == "":
		return bad(name, "none mounted below /sys/fs/cgroup", "containers", "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
	case len(f.Cgroup.Lacking) > 0:
		return bad(name, fmt.Sprintf("%s without %s", f.Cgroup.Mode, strings.Join(f.Cgroup.Lacking, ", ")), "containers: limits and the freezer of a migration",
			"boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or mount what is missing")
	}
	return good(name, f.Cgroup.Mode)
}

func runDir(f Facts) Finding {
	if f.RunFS == "tmpfs" {
		return good("/run", f.RunFS)
	}
	return warn("/run", f.RunFS+", not tmpfs", "30 to 45 ms of each migration: CRIU probes the kernel anew at each start",
		"before the agent starts: mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run")
}

// limit is a global sysctl that set-up raises.
type limit struct {
	key   string
	least int64 // 0: it must be exactly 0
	costs string
}

// limits are those of setup.sh; a test compares them.
func limits() []limit {
	return []limit{
		{"fs.inotify.max_user_instances", 8192, "systemd containers beyond about 20 on this host: each takes 6 instances of 128"},
		{"fs.inotify.max_user_watches", 1048576, "services that watch many files"},
		{"kernel.keys.maxkeys", 20000, "many containers: each service has a session keyring"},
		{"kernel.keys.maxbytes", 2000000, "many containers: each service has a session keyring"},
		{"fs.pipe-max-size", 4194304, "post-copy migration away from this host"},
		{"fs.pipe-user-pages-soft", 0, "post-copy migration away from this host"},
	}
}

// postCopy is what set-up changes only when it is asked to.
const postCopy = "vm.unprivileged_userfaultfd"

func sysctls(f Facts) []Finding {
	var all []Finding
	if have, ok := f.Sysctls[postCopy]; ok && have == 1 {
		all = append(all, good(postCopy, "1"))
	} else if ok {
		all = append(all, warn(postCopy, fmt.Sprintf("%d, 1 is needed", have), "migrate --mode post-copy to this host", setup+" --post-copy"))
	}
	for _, l := range limits() {
		have, ok := f.Sysctls[l.key]
		switch {
		case !ok: // this kernel has no such limit
		case have >= l.least && l.least > 0, have == 0 && l.least == 0:
			all = append(all, good(l.key, fmt.Sprint(have)))
		case l.least == 0:
			all = append(all, warn(l.key, fmt.Sprintf("%d, 0 is needed", have), l.costs, setup))
		default:
			all = append(all, warn(l.key, fmt.Sprintf("%d, %d is needed", have, l.least), l.costs, setup))
		}
	}
	return all
}
