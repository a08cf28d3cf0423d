package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate"
	"github.com/vzcluster/vzcluster/runtime/criu"
)

// program builds a program of testdata where lab hosts see it too.
func program(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(shared.dir, name)
	build := exec.Command("go", "build", "-o", path, "./testdata/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", name, err, out)
	}
	return path
}

// held is a process outside of any container that holds one kind of thing.
type held struct {
	dir string
	pid int
}

// hold starts a holder and skips the test if this kernel does not know the kind.
func hold(t *testing.T, program, kind string) held {
	t.Helper()
	dir, err := os.MkdirTemp(shared.dir, "held-")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, kind, dir+"/ready")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWIPC} // shared memory is dumped with its namespace
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		for _, pid := range family(cmd.Process.Pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		<-ended
	})
	var word []byte
	for word == nil {
		select {
		case <-ended:
			t.Fatalf("the holder of %s has ended: %v", kind, cmd.ProcessState)
		case <-time.After(5 * time.Millisecond):
			word, _ = os.ReadFile(dir + "/ready")
		}
	}
	if string(word) != "ready" {
		t.Skipf("this machine has no %s: %s", kind, word)
	}
	return held{dir, cmd.Process.Pid}
}

// family is a process and everything below it.
func family(pid int) []int {
	all := []int{pid}
	tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	for _, t := range tasks {
		b, _ := os.ReadFile(t)
		for _, f := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(f); err == nil {
				all = append(all, family(child)...)
			}
		}
	}
	return all
}

// dump has CRIU itself say whether it can dump a process, as a migration would have it.
func (h held) dump(t *testing.T) (refusal string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	images := filepath.Join(h.dir, "images")
	if err := os.Mkdir(images, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, criuBinary, "dump", "-t", strconv.Itoa(h.pid), "-D", images, "-R", "--tcp-established", "--skip-in-flight",
		"--file-locks", "--ext-unix-sk", "--ghost-limit", strconv.Itoa(migrate.GhostLimit), "--network-lock", "skip", "--manage-cgroups=ignore", "-v2")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	for line := range bytes.Lines(out) {
		if bytes.Contains(line, []byte("Error (")) && !bytes.Contains(line, []byte("rlimit")) {
			return strings.TrimSpace(string(line))
		}
	}
	return err.Error()
}

// What the preflight refuses CRIU refuses, and what it lets pass CRIU dumps: neither a move that cannot succeed is begun
// nor one that could is refused.
func TestThePreflightAgreesWithCRIU(t *testing.T) {
	skipUnlessAble(t)
	holder := program(t, "holder")
	for kind, names := range map[string]string{ // what the blocker names; "" when there is none
		"nothing": "", "inotify": "", "memfd": "", "eventfd": "", "timerfd": "", "pidfd": "", "packet": "", "ring": "", "netlink": "", "generic": "", "audit": "",
		"raw": "", "ping": "", "tcp": "", "tcp6": "", "udp": "", "udplite": "", "unix": "", "seqpacket": "", "opening": "", "waiting": "", "ghost": "",
		"full": "", "terminal": "", "shm": "", "aio": "", "lease": "", "stopped": "", "zombie": "", "fanotify": "", "tty": "",
		"pager": "/dev/tty", "semaphore": "semaphore",
		"io_uring": "io_uring", "bpf-map": "BPF map", "tun": "device", "cgroup-ns": "cgroup namespace", "bpf-prog": "BPF program", "uffd": "userfaultfd", "perf": "perf event", "watcher": "outside of the container",
		"mptcp": "MPTCP", "sctp": "SCTP", "vsock": "VSOCK", "alg": "ALG", "key": "KEY", "unread": "netlink", "big-ghost": "80 MiB", "renamed": "another one",
		"fuse": "FUSE", "kvm": "device", "loop": "device /dev/loop-control", "block": "device", "secret": "secret", "landlock": "landlock",
		"traced": "debugger", "pid-ns": "pid namespace", "uts-ns": "uts namespace", "ipc-ns": "ipc namespace", "detached": "mounted nowhere",
	} {
		t.Run(kind, func(t *testing.T) {
			h := hold(t, holder, kind)
			scan, err := (&criu.Criu{Binary: criuBinary}).Scan(h.pid, family(h.pid))
			if err != nil {
				t.Fatal(err)
			}
			scan.Mounts = nil // they are this machine's
			blockers := migrate.Preflight(scan)
			refusal := h.dump(t)
			t.Logf("criu: %q, preflight: %v", refusal, blockers)
			if forgets := kind == "semaphore"; forgets && refusal == "" {
				refusal = "CRIU dumps it as something else"
			}
			if (refusal != "") != (len(blockers) > 0) {
				t.Errorf("criu says %q, the preflight %v", refusal, blockers)
			}
			if len(blockers) > 0 != (names != "") || names != "" && !strings.Contains(blockers[0].What, names) {
				t.Errorf("want a blocker that names %q, got %v", names, blockers)
			}
			if n := scan.Unaccepted > 0; kind == "waiting" && (!n || len(migrate.Notes(scan)) == 0) {
				t.Errorf("the connection that waits is not noted")
			}
		})
	}
}

// What only CRIU knows fails the dump: the container goes on where it was, the reason is CRIU's own, and its log is kept.
func TestAFailedDumpIsExplained(t *testing.T) {
	k := sharedLab(t)
	c := k.run("undumpable", "busybox")
	k.start(c, program(t, "holder"), "passed", "/tmp/ready")
	k.until("the holder holds", recovery, func() error {
		if got := k.inside("undumpable", "cat /tmp/ready || true"); got != "ready" {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	r := k.try("migrate", "undumpable")
	if r.code != 1 || !strings.Contains(r.stderr, "criu: ") || !strings.Contains(r.stderr, "PIDFD_THREAD") || !strings.Contains(r.stderr, "operation log") {
		t.Errorf("the migration ended with %v", r)
	}
	if now := k.show("undumpable"); now.Host != c.Host || now.State != cluster.Running || now.Restarted != 0 {
		t.Errorf("it is %s on %s, restarted %d times", now.State, now.Host, now.Restarted)
	}
	if got := k.inside("undumpable", "echo alive"); got != "alive" {
		t.Errorf("it says %q", got)
	}
	for _, op := range ask[[]cluster.Operation](k, "operation", "list") {
		if op.Container == c.ID {
			if log := k.vz("operation", "log", op.ID); !strings.Contains(log, c.Host+": dump.log") || !strings.Contains(log, "PIDFD_THREAD") {
				t.Errorf("its log is %q", log)
			}
		}
	}
}

// A host whose CPU lacks what the container may use is refused before anything begins.
func TestAnOlderCPUIsRefused(t *testing.T) {
	k := sharedLab(t)
	c := k.run("modern", "busybox")
	to := k.other(c.Host)
	if out, code := k.on(to, "sed 's/\\bsse4_2\\b//' /proc/cpuinfo > /run/cpuinfo && mount --bind /run/cpuinfo /proc/cpuinfo"); code != 0 {
		t.Fatal(out)
	}
	defer func() {
		if out, code := k.on(to, "umount /proc/cpuinfo"); code != 0 {
			t.Error(out)
		}
	}()
	k.refused(7, []string{"the CPU of " + to, "sse4_2"}, "migrate", "modern", to)
	r := k.try("migrate", "modern", to, "--check-only", "-o", "json")
	if r.code != 7 || !strings.Contains(r.stdout, "sse4_2") {
		t.Errorf("the check says %v", r)
	}
	k.migrate("modern", k.other(c.Host, to))
}

// start puts a program into a container and has it run there, as a child of init.
func (k *kit) start(c api.Container, path string, args ...string) {
	k.t.Helper()
	name := filepath.Base(path)
	program, err := os.Open(path)
	if err != nil {
		k.t.Fatal(err)
	}
	defer program.Close()
	if r := k.at("host1", program, "exec", c.Name, "--", "sh", "-c", "cat > /bin/"+name+" && chmod 755 /bin/"+name); r.code != 0 {
		k.t.Fatal(r)
	}
	k.inside(c.Name, "setsid /bin/"+name+" "+strings.Join(args, " ")+" </dev/null >/dev/null 2>&1 &")
}
