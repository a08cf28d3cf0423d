package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sandbox is a drop-in for all services. Each of these options gives a service a namespace or mounts of its own,
// which CRIU cannot dump, or whose inotify watches it cannot restore.
const sandbox = `# Written by vzcluster: what cannot be migrated is switched off. The container itself is the sandbox.
[Service]
PrivateTmp=no
PrivateDevices=no
PrivateNetwork=no
PrivateIPC=no
PrivateUsers=no
PrivateMounts=no
ProtectHostname=no
ProtectSystem=no
ProtectHome=no
ProtectClock=no
ProtectControlGroups=no
ProtectKernelTunables=no
ProtectKernelModules=no
ProtectKernelLogs=no
ProtectProc=default
ProcSubset=all
ReadWritePaths=
ReadOnlyPaths=
InaccessiblePaths=
ExecPaths=
NoExecPaths=
`

const journald = `# Written by vzcluster: a container's journal lives in memory and moves with it.
[Journal]
Storage=volatile
RuntimeMaxUse=16M
ReadKMsg=no
Audit=no
`

const accounting = `# Written by vzcluster: with it systemd watches memory.events of every unit, and on cgroup v2 CRIU restores watches
# before it switches controllers on: the file is not there yet.
[Manager]
DefaultMemoryAccounting=no
`

// idle is PID 1 of a template that has no init: it reaps nothing and waits.
const idle = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"

// masked lists the units that are switched off, with the reason. The first group is masked in any case, since
// systemd makes some of them up by itself; the second only where it is installed.
var masked = []struct {
	why    string
	always bool
	units  []string
}{
	{"their mounts cannot be dumped or are not the container's to make", true, []string{
		"dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
		"sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "proc-sys-fs-binfmt_misc.automount",
		"proc-sys-fs-binfmt_misc.mount", "tmp.mount", "run-lock.mount",
	}},
	{"a container has no terminals of its own", true, []string{
		"console-getty.service", "container-getty@.service", "getty@.service", "getty@tty1.service",
		"serial-getty@.service", "autovt@.service", "getty-static.service",
	}},
	{"devices, modules, disks and clocks are the host's", false, []string{
		"systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
		"systemd-udevd-varlink.socket", "systemd-udev-trigger.service", "systemd-udev-settle.service",
		"systemd-udev-load-credentials.service", "systemd-modules-load.service", "kmod-static-nodes.service", "modprobe@.service",
		"systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-setup-dev-early.service", "systemd-binfmt.service",
		"systemd-remount-fs.service", "systemd-fsck-root.service", "systemd-journald-audit.socket", "systemd-pstore.service",
		"systemd-hwdb-update.service", "systemd-random-seed.service", "systemd-rfkill.socket", "systemd-machine-id-commit.service",
		"systemd-firstboot.service", "systemd-timesyncd.service", "hwclock.service", "fstrim.timer", "e2scrub_all.timer", "e2scrub_reap.service",
	}},
}

// preparer changes a fresh tree. It works inside the tree only, and says what it did.
type preparer struct {
	*os.Root
	info *Info
}

// prepare makes a tree fit for containers that migrate, and finds out what to start in it. It depends on nothing but
// the tree, so that every host that unpacks the same archive has the same template.
func prepare(tree string, info *Info, init []string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	p := preparer{root, info}
	if err := p.init(init); err != nil {
		return err
	}
	steps := []func() error{p.places, p.devices, p.identity}
	if info.Systemd {
		steps = append(steps, p.services, p.units, p.localtime, p.journal, p.accounting)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("prepare the tree: %w", err)
		}
	}
	return nil
}

func (p preparer) did(format string, a ...any) {
	p.info.Prepared = append(p.info.Prepared, fmt.Sprintf(format, a...))
}

// there reports whether something has the name, a link that leads anywhere included.
func (p preparer) there(name string) bool {
	_, err := p.Lstat(name)
	return err == nil
}

// init chooses PID 1.
func (p preparer) init(given []string) error {
	p.info.Systemd = p.there("sbin/init") && (p.there("lib/systemd/systemd") || p.there("usr/lib/systemd/systemd"))
	switch {
	case len(given) > 0:
		p.info.Init = given
		p.info.Systemd = p.info.Systemd && (given[0] == "/sbin/init" || path.Base(given[0]) == "systemd")
	case p.there("sbin/init"):
		p.info.Init = []string{"/sbin/init"}
	case p.there("bin/sh"):
		p.info.Init = []string{"/bin/sh", "-c", idle}
		p.did("The tree has no /sbin/init: a shell that waits is PID 1.")
	default:
		return errors.New("the tree has neither /sbin/init nor /bin/sh, so nothing could run in it: is it a root file system?")
	}
	return nil
}

// places makes the directories that something is mounted on.
func (p preparer) places() error {
	for _, dir := range []struct {
		name string
		mode os.FileMode
	}{{"dev", 0o755}, {"etc", 0o755}, {"proc", 0o555}, {"run", 0o755}, {"sys", 0o555}, {"tmp", 0o777 | os.ModeSticky}} {
		if info, err := p.Lstat(dir.name); err == nil {
			if !info.IsDir() {
				return fmt.Errorf("/%s is no directory", dir.name)
			}
			continue
		}
		if err := p.mkdir(dir.name, dir.mode); err != nil {
			return err
		}
		p.did("/%s was made.", dir.name)
	}
	return nil
}

// devices makes a static /dev: a container may not make device nodes by itself.
func (p preparer) devices() error {
	dev, err := p.Open("dev")
	if err != nil {
		return err
	}
	defer dev.Close()
	at := int(dev.Fd())
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		err := unix.Mknodat(at, d.name, unix.S_IFCHR, int(unix.Mkdev(d.major, d.minor)))
		if err == nil {
			err = unix.Fchmodat(at, d.name, 0o666, 0)
		}
		if err != nil {
			return fmt.Errorf("make /dev/%s: %w", d.name, err)
		}
	}
	for _, l := range [][2]string{
		{"pts/ptmx", "ptmx"}, {"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
	} {
		if err := p.Symlink(l[0], "dev/"+l[1]); err != nil {
			return err
		}
	}
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{{"pts", 0o755}, {"shm", 0o777 | os.ModeSticky}, {"mqueue", 0o777 | os.ModeSticky}} {
		if err := p.mkdir("dev/"+d.name, d.mode); err != nil {
			return err
		}
	}
	p.did("/dev holds the standard devices and nothing else.")
	return nil
}

// identity takes away what no two containers may share. Each container gets its own at its first start.
func (p preparer) identity() error {
	if p.there("etc/machine-id") || p.info.Systemd {
		if err := p.put("etc/machine-id", ""); err != nil {
			return err
		}
		p.did("/etc/machine-id was emptied: each container gets its own at its first start.")
	}
	if info, err := p.Lstat("var/lib/dbus/machine-id"); err == nil && info.Mode().IsRegular() {
		if err := p.link("/etc/machine-id", "var/lib/dbus/machine-id"); err != nil {
			return err
		}
		p.did("/var/lib/dbus/machine-id became a link to /etc/machine-id.")
	}
	for _, name := range []string{"var/lib/systemd/random-seed", "var/lib/systemd/credential.secret"} {
		if !p.there(name) {
			continue
		}
		if err := p.Remove(name); err != nil {
			return err
		}
		p.did("/%s was removed.", name)
	}
	entries, err := fs.ReadDir(p.FS(), "etc/ssh")
	if err != nil {
		return nil // no ssh server, no keys
	}
	gone := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "ssh_host_") {
			if err := p.RemoveAll("etc/ssh/" + e.Name()); err != nil {
				return err
			}
			gone++
		}
	}
	if gone > 0 {
		p.did("The ssh host keys were removed: each container gets its own at its first start.")
	}
	return nil
}

// services switches the sandboxes of services off.
func (p preparer) services() error {
	const name = "etc/systemd/system/service.d/zz-vzcluster.conf"
	if err := p.put(name, sandbox); err != nil {
		return err
	}
	p.did("/%s switches off the namespaces of single services (PrivateTmp, ProtectSystem and the like): CRIU cannot dump them.", name)
	return nil
}

// units masks what cannot work in a container or cannot be migrated.
func (p preparer) units() error {
	for _, group := range masked {
		var done []string
		for _, unit := range group.units {
			if !group.always && !p.there("usr/lib/systemd/system/"+unit) && !p.there("lib/systemd/system/"+unit) && !p.there("etc/systemd/system/"+unit) {
				continue
			}
			if err := p.link("/dev/null", "etc/systemd/system/"+unit); err != nil {
				return err
			}
			done = append(done, unit)
		}
		if len(done) > 0 {
			p.did("Masked, because %s: %s.", group.why, strings.Join(done, ", "))
		}
	}
	return nil
}

// localtime makes /etc/localtime a file: systemd watches the link itself, and such a watch is not always restorable.
func (p preparer) localtime() error {
	target, err := p.Readlink("etc/localtime")
	if err != nil {
		return nil // a file, or nothing
	}
	if !path.IsAbs(target) {
		target = path.Join("/etc", target)
	}
	// A zone may be a link to another zone: os.Root follows it as long as it stays inside.
	zone, err := p.ReadFile(strings.TrimPrefix(path.Clean(target), "/"))
	if err != nil {
		if err := p.Remove("etc/localtime"); err != nil {
			return err
		}
		p.did("/etc/localtime, a link to nothing, was removed: the time zone is UTC.")
		return nil
	}
	if err := p.put("etc/localtime", string(zone)); err != nil {
		return err
	}
	p.did("/etc/localtime became a file (it was a link to %s): a watch on the link cannot be restored.", target)
	return nil
}

// journal keeps the journal small and in memory.
func (p preparer) journal() error {
	const name = "etc/systemd/journald.conf.d/vzcluster.conf"
	if err := p.put(name, journald); err != nil {
		return err
	}
	p.did("/%s keeps the journal in memory, 16 MiB at most.", name)
	return nil
}

// accounting keeps systemd, the system's and the users', from watching what cannot be restored.
func (p preparer) accounting() error {
	for _, manager := range []string{"system", "user"} {
		if err := p.put("etc/systemd/"+manager+".conf.d/vzcluster.conf", accounting); err != nil {
			return err
		}
	}
	p.did("DefaultMemoryAccounting is off: on cgroup v2 systemd's watches of memory.events cannot be restored.")
	return nil
}

// put replaces whatever has the name by a file of root's.
func (p preparer) put(name, content string) error {
	if err := p.clear(name); err != nil {
		return err
	}
	if err := p.WriteFile(name, []byte(content), 0o644); err != nil {
		return err
	}
	if err := p.Chmod(name, 0o644); err != nil {
		return err
	}
	return p.Chtimes(name, epoch(), epoch())
}

// link replaces whatever has the name by a symbolic link.
func (p preparer) link(target, name string) error {
	if err := p.clear(name); err != nil {
		return err
	}
	return p.Symlink(target, name)
}

func (p preparer) clear(name string) error {
	if err := p.directory(path.Dir(name)); err != nil {
		return err
	}
	return p.RemoveAll(name)
}

// directory makes the missing directories of a path.
func (p preparer) directory(name string) error {
	if _, err := p.Stat(name); err == nil {
		return nil
	}
	if err := p.directory(path.Dir(name)); err != nil {
		return err
	}
	return p.mkdir(name, 0o755)
}

// mkdir makes a directory of exactly this mode, whatever the umask is.
func (p preparer) mkdir(name string, mode os.FileMode) error {
	if err := p.Mkdir(name, 0o755); err != nil {
		return err
	}
	return p.Chmod(name, mode)
}

// epoch is the time of every file that we write: preparing is deterministic.
func epoch() time.Time { return time.Unix(0, 0) }
