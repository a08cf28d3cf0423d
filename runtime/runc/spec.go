package runc

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/profiles/seccomp"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// capabilities are what a container's root may do inside its own user namespace; none of them reaches the host.
// SYS_ADMIN is what systemd needs to mount, SYS_BOOT to reboot, SYS_PTRACE to look at its services' processes.
var capabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
	"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_ADMIN",
	"CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_NICE", "CAP_SYS_PTRACE", "CAP_SYS_TTY_CONFIG",
}

// maskedFiles are hidden behind /dev/null. Folders are not masked: each costs a tmpfs mount at every checkpoint, and
// what they hold belongs to the host's root, whom nobody inside the user namespace can be.
var maskedFiles = []string{"/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"}

// spec makes the OCI specification of a container; pure but for what the host can mask.
func (r *Runc) spec(s runtime.Spec, root, cgroup string) (*specs.Spec, error) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: s.UIDBase, Size: runtime.UIDs}}
	spec := &specs.Spec{
		Version:  specs.Version,
		Hostname: s.Hostname,
		Root:     &specs.Root{Path: root},
		Process: &specs.Process{
			Args: initArgs(s, r.cfg.Unified),
			Env:  []string{"container=vzcluster", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=linux"},
			Cwd:  "/",
			Capabilities: &specs.LinuxCapabilities{
				Bounding: capabilities, Effective: capabilities, Permitted: capabilities,
			},
		},
		Mounts: slices.Concat(r.mounts(root, cgroup), r.figures(), folders(s, root)),
		Linux: &specs.Linux{
			CgroupsPath: cgroup,
			UIDMappings: ids,
			GIDMappings: slices.Clone(ids),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.CgroupNamespace},
				{Type: specs.UserNamespace},
			},
			MaskedPaths: masked(),
		},
	}
	profile, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		return nil, fmt.Errorf("make the seccomp profile of container %d: %w", s.ID, err)
	}
	spec.Linux.Seccomp = profile
	return spec, nil
}

// initArgs is PID 1 with its arguments. A shell opens its standard streams inside the container, because a checkpoint
// cannot hold files of the host: /dev/kmsg, a plain file of the private layer, is the boot log, which needs no process
// of ours to be kept. On hosts with cgroup v1 systemd must use its v1 hierarchy: it watches cgroup.events on v2, and
// such a watch cannot be restored there.
func initArgs(s runtime.Spec, unified bool) []string {
	args := append([]string{"/bin/sh", "-c", `exec "$0" "$@" </dev/null >>/dev/kmsg 2>&1`}, s.Init...)
	if !s.Systemd {
		return args
	}
	args = append(args, "systemd.log_target=kmsg", "systemd.show_status=no")
	if !unified {
		args = append(args, "systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=1")
	}
	return args
}

// mounts has no tmpfs: each costs 6 to 20 ms at a checkpoint and again at a restore. What must be a mount point for
// systemd is a folder of the root, bound over itself. On hosts with cgroup v1 the container sees its own part of
// systemd's hierarchy and no other, on a tmpfs that all containers share read-only, because systemd insists on one.
func (r *Runc) mounts(root, cgroup string) []specs.Mount {
	safe := []string{"nosuid", "noexec", "nodev"}
	bind := func(dest, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: dest, Type: "bind", Source: filepath.Join(root, source), Options: append([]string{"bind"}, options...)}
	}
	ms := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: safe},
		bind("/dev", "dev", "nosuid"),
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		bind("/dev/shm", "dev/shm", safe...),
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: safe},
		bind("/run", "run", "nosuid", "nodev"),
		bind("/run/lock", "run/lock", safe...),
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append(slices.Clone(safe), "ro")},
	}
	if r.cfg.Unified {
		return append(ms, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: append(slices.Clone(safe), "rw")})
	}
	return append(ms,
		specs.Mount{Destination: "/sys/fs/cgroup", Type: "bind", Source: r.cgroupTop(), Options: append([]string{"bind", "ro"}, safe...)},
		specs.Mount{Destination: "/sys/fs/cgroup/systemd", Type: "bind", Source: "/sys/fs/cgroup/systemd" + cgroup, Options: append([]string{"bind"}, safe...)},
	)
}

// figures are the files that show the container its own limits, as far as this host has them now.
func (r *Runc) figures() (ms []specs.Mount) {
	for _, f := range r.cfg.Figures.Files {
		source := filepath.Join(r.cfg.Figures.Dir, f)
		if _, err := os.Stat(source); r.cfg.Figures.Dir == "" || err != nil {
			continue
		}
		ms = append(ms, specs.Mount{Destination: f, Type: "bind", Source: source, Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"}})
	}
	return ms
}

// folders are those of the host, which are mounted with the container's ids beside its root.
func folders(s runtime.Spec, root string) (ms []specs.Mount) {
	for i, f := range s.Folders {
		options := []string{"bind", "nosuid", "nodev"}
		if f.ReadOnly {
			options = append(options, "ro")
		}
		ms = append(ms, specs.Mount{Destination: f.Path, Type: "bind", Source: runtime.FolderMount(root, i), Options: options})
	}
	return ms
}

// figureBinds are the same as a checkpoint knows them. A container that comes from a host that has them sees the host's
// own figures where this one has not.
func (r *Runc) figureBinds() (bs []runtime.Bind) {
	for _, f := range r.cfg.Figures.Files {
		source := filepath.Join(r.cfg.Figures.Dir, f)
		if _, err := os.Stat(source); r.cfg.Figures.Dir == "" || err != nil {
			source = f
		}
		bs = append(bs, runtime.Bind{Path: f, Source: source})
	}
	return bs
}

// cgroupTop is what containers have at /sys/fs/cgroup on hosts with cgroup v1.
func (r *Runc) cgroupTop() string { return filepath.Join(r.cfg.Bundles, ".cgroup") }

// mountCgroupTop mounts it, once per host and boot.
func (r *Runc) mountCgroupTop() error {
	dir := r.cgroupTop()
	if mounted, err := mountinfo.Mounted(dir); r.cfg.Unified || err == nil && mounted {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the containers' /sys/fs/cgroup: %w", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=64k"); err != nil {
		return fmt.Errorf("mount the containers' /sys/fs/cgroup: %w", err)
	}
	return os.Mkdir(filepath.Join(dir, "systemd"), 0o755)
}

// Volatile implements runtime.OCI: folders that stand in for tmpfs mounts.
func (r *Runc) Volatile() []runtime.Dir {
	return []runtime.Dir{{Path: "run", Mode: 0o755}, {Path: "run/lock", Mode: 0o755}, {Path: "dev/shm", Mode: 0o777 | os.ModeSticky}}
}

func masked() []string {
	return slices.DeleteFunc(slices.Clone(maskedFiles), func(p string) bool {
		_, err := os.Stat(p)
		return err != nil
	})
}

// Checkpoint implements runtime.OCI.
func (r *Runc) Checkpoint(s runtime.Spec, root, cgroup string) ([]runtime.Bind, []string) {
	var binds []runtime.Bind
	for _, m := range r.mounts(root, cgroup) {
		if m.Type == "bind" {
			binds = append(binds, runtime.Bind{Path: m.Destination, Source: m.Source})
		}
	}
	for i, f := range s.Folders {
		binds = append(binds, runtime.Bind{Path: f.Path, Source: runtime.FolderMount(root, i)})
	}
	return append(binds, r.figureBinds()...), masked()
}
