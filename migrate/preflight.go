package migrate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// GhostLimit is how large a file that has no name any more may be, in bytes: its contents go into the checkpoint.
const GhostLimit = runtime.GhostLimit

// Blocker is one thing that is in the way of a live migration, with its owner and the way out.
type Blocker = cluster.Blocker

// nested says what a namespace of a process's own means and how it is avoided.
var nested = map[string]string{
	"cgroup": "switch ProtectControlGroups to a plain yes or no in its unit, or stop it",
	"ipc":    "switch PrivateIPC off in its unit, or stop it",
	"net":    "switch PrivateNetwork off in its unit, or stop it",
	"pid":    "stop it: containers inside the container cannot be moved live",
	"time":   "stop it",
	"user":   "switch PrivateUsers off in its unit, or stop it",
	"uts":    "switch ProtectHostname off in its unit, or stop it",
}

// orOffline is what can be done about most things.
const orOffline = "stop it, or move the container with --offline"

// dumpable are the descriptors without a path that CRIU knows, by the beginning of what they point to.
var dumpable = []string{
	"socket:", "pipe:", "/", "anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:inotify", "anon_inode:[fanotify]",
	"anon_inode:[signalfd]", "anon_inode:[timerfd]", "anon_inode:[pidfd]", "pidfd:",
	"ipc:[", "net:[", "pid:[", "time:[", "user:[", "uts:[", "mnt:[", "cgroup:[",
}

// known names descriptors that CRIU cannot dump.
var known = map[string]string{
	"anon_inode:[io_uring]":         "an io_uring",
	"anon_inode:bpf-map":            "a BPF map", // CRIU can dump it if it was built with libbpf; Debian\'s was not
	"anon_inode:bpf-prog":           "a BPF program",
	"anon_inode:bpf_link":           "a BPF link",
	"anon_inode:[userfaultfd]":      "a userfaultfd",
	"anon_inode:[perf_event]":       "a perf event",
	"anon_inode:kvm-vm":             "a virtual machine",
	"anon_inode:kvm-vcpu":           "a virtual machine",
	"anon_inode:seccomp notify":     "a seccomp listener",
	"anon_inode:[landlock-ruleset]": "a landlock rule set",
	"anon_inode:landlock-ruleset":   "a landlock rule set",
}

// protocols are the sockets that CRIU knows, as the kernel names them.
var protocols = []string{
	"TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "PING", "PINGv6", "UNIX", "UNIX-STREAM", "NETLINK", "PACKET", "",
}

// Preflight names everything in a container, which has folders of its host, that would make a live migration fail. It freezes and changes nothing.
func Preflight(scan runtime.Scan, folders ...runtime.Folder) []Blocker {
	var out []Blocker
	for _, f := range folders {
		if !f.Shared {
			out = append(out, Blocker{
				What:   fmt.Sprintf("the folder %s of its host is mounted on %s", f.Source, f.Path),
				Remedy: "make it storage that all hosts have and create the container with --bind " + f.Source + ":" + f.Path + ":shared",
			})
		}
	}
	own := map[string]string{}
	for _, p := range scan.Processes {
		if p.PID == scan.Init {
			own = p.Namespaces
		}
	}
	for _, p := range scan.Processes {
		if p.Foreign {
			out = append(out, outsider(p))
			continue
		}
		for what, remedy := range processBlockers(p, own) {
			out = append(out, Blocker{Process: fmt.Sprintf("%d %s", p.PID, p.Name), Unit: p.Unit, What: what, Remedy: remedy})
		}
	}
	isFolder := func(m runtime.Mount) bool {
		return slices.ContainsFunc(folders, func(f runtime.Folder) bool { return f.Path == m.Path })
	}
	return append(out, mountBlockers(slices.DeleteFunc(slices.Clone(scan.Mounts), isFolder))...)
}

// outsider is the blocker that a process from outside is: a checkpoint would lose it without a word.
func outsider(p runtime.Process) Blocker {
	return Blocker{
		Process: fmt.Sprintf("%d %s", p.PID, p.Name), Unit: p.Unit, Session: true,
		What: "it was started from outside by exec and would be lost", Remedy: "end that session first, or migrate with --force, which ends it",
	}
}

// processBlockers yields what is in the way of one process, and the way out.
func processBlockers(p runtime.Process, own map[string]string) func(yield func(what, remedy string) bool) {
	return func(yield func(what, remedy string) bool) {
		for _, kind := range slices.Sorted(maps.Keys(nested)) {
			if id := p.Namespaces[kind]; id != "" && own[kind] != "" && id != own[kind] && !yield("it has a "+kind+" namespace of its own", nested[kind]) {
				return
			}
		}
		said := map[string]bool{}
		for _, f := range p.Files {
			if what, remedy := fileBlocker(f); what != "" && !said[what] {
				said[what] = true
				if !yield(what, remedy) {
					return
				}
			}
		}
		for _, from := range p.Mapped {
			name, _ := strings.CutPrefix(from, "anon_inode:")
			if what := "it has memory of " + name + " mapped"; known[from] == "" && !yield(what, orOffline) { // else its descriptor says so
				return
			}
		}
		for _, s := range []struct {
			is           bool
			what, remedy string
		}{
			{p.Traced, "a debugger is attached to it", "detach the debugger (gdb, strace)"},
			{p.Stopped, "some of its threads are stopped and others are not", "let it go on (kill -CONT), or stop all of it"},
			{p.Headless, "its first thread has ended while others go on", orOffline},
			{p.Borrowing, "it has /dev/tty open, a terminal that other processes have too", "quit it (pagers and editors in an ssh session do so)"},
			{p.Stuck, "it waits in the kernel and cannot be interrupted", "wait until its input or output has ended"},
		} {
			if s.is && !yield(s.what, s.remedy) {
				return
			}
		}
	}
}

// fileBlocker says why a descriptor cannot be dumped, and the way out; "" when it can.
func fileBlocker(f runtime.File) (what, remedy string) {
	switch {
	case strings.HasPrefix(f.Target, "/dev/fuse"):
		return "it serves a FUSE file system", orOffline
	case f.Device != "" && !dumpableDevice(f.Device):
		return fmt.Sprintf("it has the device %s (%s) open", f.Target, f.Device), orOffline
	case !slices.Contains(protocols, f.Protocol):
		return protocolBlocker(f.Protocol)
	case f.Unread:
		return "it does not read the messages on a netlink socket", "restart it, or move the container with --offline"
	case f.Counting:
		return "it has an eventfd that is a semaphore, which a checkpoint would make a plain one", orOffline
	case f.Outside:
		return "it watches a process outside of the container or a single thread", orOffline
	case f.Detached:
		return "it has " + f.Target + " open, whose file system is mounted nowhere in the container", "have it close that file, or stop it"
	case f.Renamed:
		return "it has " + f.Target + " open, a name that was deleted of a file that has another one", "have it open the file again (most services do so on reload)"
	case f.Ghost > GhostLimit:
		return fmt.Sprintf("it has %s open, %d MiB that only a checkpoint could carry; %d are the most", f.Target, f.Ghost>>20, GhostLimit>>20), "have it close that file, or restart it"
	}
	if slices.ContainsFunc(dumpable, func(prefix string) bool { return strings.HasPrefix(f.Target, prefix) }) {
		return "", ""
	}
	if name := known[f.Target]; name != "" {
		return "it has " + name + " open", orOffline
	}
	name := strings.TrimPrefix(f.Target, "anon_inode:")
	return "it has something open that no checkpoint can carry: " + name, orOffline
}

func protocolBlocker(protocol string) (what, remedy string) {
	if strings.HasPrefix(protocol, "MPTCP") {
		return "it has an MPTCP socket", "start it with GODEBUG=multipathtcp=0, or with sysctl net.mptcp.enabled=0"
	}
	return "it has a socket of protocol " + protocol, orOffline
}

// dumpableDevice says whether CRIU can dump an open device file: memory devices and terminals.
func dumpableDevice(device string) bool {
	var major, minor int
	if n, err := fmt.Sscanf(device, "char %d:%d", &major, &minor); n != 2 || err != nil {
		return false
	}
	const mem, tty, aux, misc, ptyFirst, ptyLast, autofs = 1, 4, 5, 10, 128, 143, 235
	switch {
	case major == mem, major == tty && minor < 64, major == aux && minor <= 2, major >= ptyFirst && major <= ptyLast:
		return true
	case major == misc:
		return minor == autofs // a tun device would be in a network that is not dumped but plugged in anew
	}
	return false
}

// undumpableFS are file systems that CRIU cannot dump. What a FUSE or a network file system is called goes on.
var undumpableFS = []string{"fuse", "fuseblk", "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "hugetlbfs", "ramfs", "bpf"}

// isFigure says whether a mount is one of the files that show a container its own limits: they are bound anew.
func isFigure(m runtime.Mount) bool {
	return m.Type == "fuse.lxcfs" && (strings.HasPrefix(m.Path, "/proc/") || strings.HasPrefix(m.Path, "/sys/devices/system/cpu/"))
}

func mountBlockers(mounts []runtime.Mount) []Blocker {
	var out []Blocker
	for _, m := range mounts {
		if isFigure(m) {
			continue
		}
		if slices.Contains(undumpableFS, m.Type) || strings.HasPrefix(m.Type, "fuse.") {
			out = append(out, Blocker{
				What:   fmt.Sprintf("a %s file system is mounted on %s", m.Type, m.Path),
				Remedy: "unmount it, or move the container with --offline",
			})
		}
	}
	return out
}

// Notes says what a live migration would lose without failing, one sentence each.
func Notes(scan runtime.Scan) []string {
	var out []string
	if n := scan.Unaccepted; n > 0 {
		out = append(out, fmt.Sprintf("%d connections that no process has accepted yet would be closed; their peers must connect again", n))
	}
	if n := scan.HalfOpen; n > 0 {
		out = append(out, fmt.Sprintf("%d connections that are just being opened would be dropped; their peers try again by themselves", n))
	}
	return out
}
