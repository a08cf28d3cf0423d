package migrate

import (
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/runtime"
)

func files(targets ...string) (out []runtime.File) {
	for _, t := range targets {
		out = append(out, runtime.File{Target: t})
	}
	return out
}

func TestPreflight(t *testing.T) {
	own := map[string]string{"pid": "pid:[1]", "uts": "uts:[1]", "ipc": "ipc:[1]", "user": "user:[1]", "net": "net:[1]", "time": "time:[1]"}
	with := func(kind, id string) map[string]string {
		m := map[string]string{}
		for k, v := range own {
			m[k] = v
		}
		m[kind] = id
		return m
	}
	clean := runtime.Process{PID: 10, Name: "init", Namespaces: own, Files: files("/dev/null", "socket:[7]", "anon_inode:[eventpoll]", "anon_inode:inotify", "pipe:[9]", "anon_inode:[fanotify]")}
	tests := []struct {
		name   string
		proc   runtime.Process
		mount  runtime.Mount
		blocks string // the beginning of the blocker, "" for none
	}{
		{"nothing", runtime.Process{PID: 11, Name: "sshd", Namespaces: own}, runtime.Mount{Path: "/proc", Type: "proc"}, ""},
		{"exec session", runtime.Process{PID: 11, Name: "bash", Foreign: true, Namespaces: own}, runtime.Mount{}, "11 bash: it was started from outside"},
		{"containers inside", runtime.Process{PID: 11, Name: "sh", Unit: "docker.service", Namespaces: with("pid", "pid:[2]")}, runtime.Mount{}, "11 sh (docker.service): it has a pid namespace"},
		{"sandboxed service", runtime.Process{PID: 11, Name: "x", Unit: "x.service", Namespaces: with("uts", "uts:[2]")}, runtime.Mount{}, "11 x (x.service): it has a uts namespace"},
		{"io_uring", runtime.Process{PID: 11, Name: "db", Namespaces: own, Files: files("anon_inode:[io_uring]")}, runtime.Mount{}, "11 db: it has an io_uring"},
		{"BPF", runtime.Process{PID: 11, Name: "trace", Namespaces: own, Files: files("anon_inode:bpf-prog")}, runtime.Mount{}, "11 trace: it has a BPF program"},
		{"userfaultfd", runtime.Process{PID: 11, Name: "vm", Namespaces: own, Files: files("anon_inode:[userfaultfd]")}, runtime.Mount{}, "11 vm: it has a userfaultfd"},
		{"a semaphore", runtime.Process{PID: 11, Name: "q", Namespaces: own, Files: []runtime.File{{Target: "anon_inode:[eventfd]", Counting: true}}}, runtime.Mount{}, "11 q: it has an eventfd that is a semaphore"},
		{"a pager", runtime.Process{PID: 11, Name: "less", Namespaces: own, Borrowing: true}, runtime.Mount{}, "11 less: it has /dev/tty open"},
		{"FUSE", runtime.Process{PID: 11, Name: "sshfs", Namespaces: own}, runtime.Mount{Path: "/mnt", Type: "fuse.sshfs"}, "a fuse.sshfs file system is mounted on /mnt"},
		{"NFS", runtime.Process{PID: 11, Name: "x", Namespaces: own}, runtime.Mount{Path: "/mnt", Type: "nfs4"}, "a nfs4 file system is mounted on /mnt"},
		{"the NFS server's own file system", runtime.Process{PID: 11, Name: "x", Namespaces: own}, runtime.Mount{Path: "/proc/fs/nfsd", Type: "nfsd"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Preflight(runtime.Scan{Init: 10, Processes: []runtime.Process{clean, tt.proc}, Mounts: []runtime.Mount{tt.mount}})
			if tt.blocks == "" {
				if len(got) > 0 {
					t.Fatalf("it is blocked by %v", got)
				}
				return
			}
			if len(got) != 1 || !strings.HasPrefix(got[0].String(), tt.blocks) {
				t.Fatalf("got %v, want one that begins with %q", got, tt.blocks)
			}
			if got[0].Remedy == "" {
				t.Error("no remedy is named")
			}
		})
	}
}
