package migrate

import (
	"fmt"
	"strings"

	"github.com/vzcluster/vzcluster/runtime"
)

// Blocker is one thing that CRIU cannot checkpoint, with its owner and the way out.
type Blocker struct {
	Process string // "1234 dockerd", or "" when it is the container's
	Unit    string // systemd unit inside, or ""
	What    string
	Remedy  string
}

func (b Blocker) String() string {
	who := b.Process
	if b.Unit != "" {
		who += " (" + b.Unit + ")"
	}
	if who != "" {
		who += ": "
	}
	return who + b.What + "; " + b.Remedy
}

// nested says what a namespace of a process's own means and how it is avoided.
var nested = map[string]string{
	"ipc":  "switch PrivateIPC off in its unit, or stop it",
	"net":  "switch PrivateNetwork off in its unit, or stop it",
	"pid":  "stop it: containers inside the container cannot be moved live",
	"time": "stop it",
	"user": "switch PrivateUsers off in its unit, or stop it",
	"uts":  "switch ProtectHostname off in its unit, or stop it",
}

// undumpable are descriptors that CRIU cannot dump, by the beginning of what they point to.
var undumpable = []struct{ prefix, what string }{
	{"anon_inode:[io_uring]", "it has an io_uring open"},
	{"anon_inode:bpf", "it has a BPF object open"},
	{"anon_inode:[userfaultfd]", "it has a userfaultfd open"},
	{"anon_inode:[perf_event]", "it has a perf event open"},
	{"anon_inode:[fanotify]", "it has a fanotify group open"},
	{"anon_inode:kvm", "it has a virtual machine open"},
	{"/dev/fuse", "it serves a FUSE file system"},
	{"/dev/kvm", "it has a virtual machine open"},
}

// Preflight names everything in a container that would make a live migration fail. It freezes and changes nothing.
func Preflight(scan runtime.Scan) []Blocker {
	var out []Blocker
	own := map[string]string{}
	for _, p := range scan.Processes {
		if p.PID == scan.Init {
			own = p.Namespaces
		}
	}
	for _, p := range scan.Processes {
		add := func(what, remedy string) {
			out = append(out, Blocker{Process: fmt.Sprintf("%d %s", p.PID, p.Name), Unit: p.Unit, What: what, Remedy: remedy})
		}
		if p.Foreign {
			add("it was started from outside by exec and would be lost", "end that session first")
			continue
		}
		for kind, id := range p.Namespaces {
			if own[kind] != "" && id != own[kind] {
				add("it has a "+kind+" namespace of its own", nested[kind])
			}
		}
		for _, u := range undumpable {
			for _, file := range p.Files {
				if strings.HasPrefix(file, u.prefix) {
					add(u.what, "stop it, or move the container with --offline")
					break
				}
			}
		}
	}
	return append(out, mountBlockers(scan.Mounts)...)
}

func mountBlockers(mounts []runtime.Mount) []Blocker {
	var out []Blocker
	for _, m := range mounts {
		switch kind := m.Type; {
		case kind == "fuse", strings.HasPrefix(kind, "fuse."), strings.HasPrefix(kind, "nfs") && kind != "nfsd", kind == "cifs", kind == "hugetlbfs":
			out = append(out, Blocker{
				What:   fmt.Sprintf("a %s file system is mounted on %s", kind, m.Path),
				Remedy: "unmount it, or move the container with --offline",
			})
		}
	}
	return out
}
