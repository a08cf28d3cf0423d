package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
	"github.com/vzcluster/vzcluster/runtime/cgroup"
	"github.com/vzcluster/vzcluster/runtime/criu"
	"github.com/vzcluster/vzcluster/runtime/engine"
	"github.com/vzcluster/vzcluster/runtime/image"
	"github.com/vzcluster/vzcluster/runtime/network"
	"github.com/vzcluster/vzcluster/runtime/rootfs"
	"github.com/vzcluster/vzcluster/runtime/runc"
	"github.com/vzcluster/vzcluster/runtime/storage"
)

// These tests make containers with the real runc, CRIU, overlay, cgroups and bridge, in namespaces of their own.

const (
	bin   = "/var/cache/vzcluster/bin/"
	child = "VZCLUSTER_ENGINE_TEST"
)

// TestMain runs the tests again in namespaces where mounts and links are nobody else's.
func TestMain(m *testing.M) {
	if os.Getenv(child) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// host is an engine on the real kernel.
type host struct {
	*engine.Engine
	*testing.T
	dir string
}

func newHost(t *testing.T) (*host, runtime.Spec) {
	t.Helper()
	return newHostOf(t, storage.Overlay)
}

// newHostOf has private layers kept by a driver.
func newHostOf(t *testing.T, driver string) (*host, runtime.Spec) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers can only be made by root")
	}
	for _, program := range []string{"runc", "criu"} {
		if _, err := os.Stat(bin + program); err != nil {
			t.Skipf("there is no %s: run `make setup`", program)
		}
	}
	dir, err := os.MkdirTemp("/var/tmp", "vzengine")
	must(t, err)
	must(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, exec.Command("ip", "link", "set", "lo", "up").Run())
	// A sysfs shows the network namespace of who mounted it; the cgroups stay where they are.
	cgroups := filepath.Join(dir, "cgroups")
	must(t, os.Mkdir(cgroups, 0o755))
	must(t, unix.Mount("/sys/fs/cgroup", cgroups, "", unix.MS_BIND|unix.MS_REC, ""))
	must(t, unix.Mount("sysfs", "/sys", "sysfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount("/sys", unix.MNT_DETACH) })
	must(t, unix.Mount(cgroups, "/sys/fs/cgroup", "", unix.MS_MOVE, ""))
	// As systemd mounts it: these are flags that a container's user namespace cannot change.
	must(t, unix.Mount("", "/dev", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_STRICTATIME, ""))
	must(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount("/run", unix.MNT_DETACH) })
	return newEngine(t, dir, driver)
}

func newEngine(t *testing.T, dir, driver string) (*host, runtime.Spec) {
	t.Helper()
	images, err := image.Open(filepath.Join(dir, "templates"))
	must(t, err)
	archive, err := image.Build(t.Context(), "busybox", image.BuildOptions{CacheDir: dir, Log: &bytes.Buffer{}})
	must(t, err)
	f, err := os.Open(archive)
	must(t, err)
	defer f.Close()
	info, err := images.Import(t.Context(), f, image.ImportOptions{})
	must(t, err)
	containers := filepath.Join(dir, "containers")
	store, err := storage.Open(storage.Config{Driver: driver, Dir: containers, Pool: filepath.Join(dir, "pool"), Size: 1 << 30})
	must(t, err)
	roots, err := rootfs.New(rootfs.Config{Dir: containers, Storage: store, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	nics, err := network.New(network.Config{Bridge: "vzbr0", Address: "10.99.0.1/24"})
	must(t, err)
	parent := "vzengine-" + strconv.Itoa(os.Getpid())
	cgroups, err := cgroup.New(cgroup.Config{Parent: parent})
	must(t, err)
	tree, err := cgroup.OpenTree("")
	must(t, err)
	e := &engine.Engine{
		Images: images, Roots: roots, Network: nics, Cgroups: cgroups, Dir: containers, Checkpoints: &criu.Criu{Binary: bin + "criu"},
		OCI: runc.New(runc.Config{Binary: bin + "runc", State: "/run/vzengine", Bundles: containers, Unified: tree.V2()}),
	}
	must(t, e.Setup(t.Context()))
	h := &host{e, t, dir}
	t.Cleanup(func() {
		must(t, e.Destroy(context.Background(), 101))
		must(t, tree.Remove(context.Background(), "/"+parent))
		_ = unix.Unmount(filepath.Join(containers, ".cgroup"), unix.MNT_DETACH)
		_ = unix.Unmount(containers, unix.MNT_DETACH) // a pool
	})
	return h, runtime.Spec{
		ID: 101, Name: "ct", Hostname: "ct", Template: info.Digest, Init: info.Init, Systemd: info.Systemd, UIDBase: 1 << 20,
		Limits: runtime.Limits{RAM: 64 << 20, MilliCPU: 1000}, NICs: []runtime.NIC{{Name: "eth0", MAC: "02:76:7a:00:00:65"}},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a shell line inside and returns what it says.
func (h *host) run(line string) string {
	h.Helper()
	var out bytes.Buffer
	code, err := h.Exec(h.Context(), 101, runtime.ExecOptions{Args: []string{"sh", "-c", line}, Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		h.Fatalf("%s: exit code %d, %v: %s", line, code, err, out.String())
	}
	return strings.TrimSpace(out.String())
}

// eventually waits for something to become true.
func (h *host) eventually(what string, is func() bool) {
	h.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("%s never became true", what)
		}
	}
}

func (h *host) leftovers() []string {
	h.Helper()
	var left []string
	for _, pattern := range []string{"/sys/fs/cgroup/*" + h.Cgroups.Path(101), "/sys/fs/cgroup" + h.Cgroups.Path(101), "/sys/class/net/vz101", h.Dir + "/101", "/run/vzengine/101"} {
		found, err := filepath.Glob(pattern)
		must(h.T, err)
		left = append(left, found...)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(h.T, err)
	if strings.Contains(string(mounts), h.Dir+"/101") {
		left = append(left, "a mount")
	}
	return left
}

// TestLife follows a container from its start to the last trace of it.
func TestLife(t *testing.T) {
	h, s := newHost(t)
	ctx := t.Context()
	must(t, h.Start(ctx, s))
	must(t, h.Start(ctx, s)) // a running one is left alone
	if got := h.run("hostname; id -u; cat /proc/1/comm"); got != "ct\n0\ninit" {
		t.Errorf("inside it says %q", got)
	}
	if uid, err := os.ReadFile("/proc/" + strconv.Itoa(h.pid()) + "/uid_map"); err != nil || !strings.Contains(string(uid), "1048576") {
		t.Errorf("its ids are mapped as %q, %v", uid, err)
	}
	code, err := h.Exec(ctx, 101, runtime.ExecOptions{Args: []string{"sh", "-c", "exit 7"}})
	if code != 7 || err != nil {
		t.Errorf("exit code %d, %v", code, err)
	}
	h.run("echo kept > /root/file")
	must(t, h.Stop(ctx, 101, false, 20*time.Second))
	if st, err := h.Status(101); err != nil || st.Running {
		t.Errorf("after the stop: %+v, %v", st, err)
	}
	if _, err := h.Exec(ctx, 101, runtime.ExecOptions{Args: []string{"true"}}); !errors.Is(err, runtime.ErrNotRunning) {
		t.Errorf("a command in a stopped container: %v", err)
	}
	must(t, h.Start(ctx, s))
	if got := h.run("cat /root/file; ls /run"); got != "kept\nlock" {
		t.Errorf("after a restart there is %q", got)
	}
	must(t, h.Destroy(ctx, 101))
	if left := h.leftovers(); len(left) > 0 {
		t.Errorf("it has left %v", left)
	}
}

func (h *host) pid() int {
	h.Helper()
	st, err := h.Status(101)
	must(h.T, err)
	return st.PID
}

// TestCheckpoint moves a container's memory through a checkpoint. What it counts goes on where it stood, and the copy
// does not run, nor is its port open, before it is told to go on.
func TestCheckpoint(t *testing.T) {
	h, s := newHost(t)
	ctx := t.Context()
	must(t, h.Start(ctx, s))
	h.run("setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i > /root/n.new; mv /root/n.new /root/n; usleep 2000; done' </dev/null >/dev/null 2>&1 &")
	count := func() int {
		b, err := os.ReadFile(filepath.Join(h.Roots.Layer(101), "root/n"))
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return n
	}
	for round := range 2 {
		from := count()
		h.eventually("counting", func() bool { return count() > from+5 })
		images := filepath.Join(h.dir, fmt.Sprintf("images%d", round))
		must(t, os.Mkdir(images, 0o755))
		root, err := h.Root(ctx, s)
		must(t, err)
		must(t, h.PrepareCheckpoint(images))
		must(t, h.Freeze(ctx, 101))
		stood := count()
		ready := false
		must(t, h.Checkpoint(s, root, images, nil, func() { ready = true }))
		if thawed, err := h.AssertFrozen(ctx, 101); err != nil || thawed || !ready {
			t.Fatalf("after the checkpoint: thawed %v, ready %v, %v", thawed, ready, err)
		}
		if count() != stood {
			t.Fatal("it went on during its checkpoint")
		}
		must(t, h.Kill(ctx, 101))
		must(t, h.PrepareRestore(ctx, s, images))
		must(t, h.Restore(ctx, s, images))
		if st, err := h.Status(101); err != nil || !st.Running || !st.Frozen {
			t.Fatalf("the copy is %+v, %v", st, err)
		}
		if _, err := os.Stat("/sys/class/net/vz101/brport"); err == nil {
			t.Error("the port of a held copy is open")
		}
		if count() != stood {
			t.Fatal("a held copy went on")
		}
		opened := false
		must(t, h.Resume(ctx, s, func() { opened = true }))
		if _, err := os.Stat("/sys/class/net/vz101/brport"); err != nil || !opened {
			t.Errorf("the port of the copy is closed: %v", err)
		}
		h.eventually("counting after the restore", func() bool { return count() > stood })
		if n := count(); n > stood+1000 {
			t.Errorf("it stood at %d and is at %d", stood, n)
		}
		if got := h.run("cat /proc/1/comm"); got != "init" {
			t.Errorf("runc does not know the copy: %q", got)
		}
	}
	must(t, h.Stop(ctx, 101, false, 20*time.Second))
}

// TestExecIsSeen: what exec started would be lost in a checkpoint, so a scan must see it.
func TestExecIsSeen(t *testing.T) {
	h, s := newHost(t)
	must(t, h.Start(t.Context(), s))
	foreign := func() (names []string) {
		scan, err := h.Scan(101)
		must(t, err)
		for _, p := range scan.Processes {
			if p.Foreign {
				names = append(names, p.Name)
			}
		}
		return names
	}
	if got := foreign(); len(got) > 0 {
		t.Fatalf("before any exec: %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = h.Exec(ctx, 101, runtime.ExecOptions{Args: []string{"sleep", "60"}})
	}()
	h.eventually("the session is seen", func() bool { return strings.Join(foreign(), " ") == "sleep" })
	cancel()
	<-done
}

// TestLogFollowsNoLink: the container writes its boot log, so it may be anything.
func TestLogFollowsNoLink(t *testing.T) {
	h, s := newHost(t)
	must(t, h.Start(t.Context(), s))
	f, err := h.Log(101)
	must(t, err)
	f.Close()
	h.run("rm /dev/kmsg; ln -s /etc/hostname /dev/kmsg")
	if f, err := h.Log(101); err == nil {
		f.Close()
		t.Error("a link was followed")
	}
	h.run("rm /dev/kmsg; mkfifo /dev/kmsg")
	if f, err := h.Log(101); err == nil {
		f.Close()
		t.Error("a fifo was opened")
	}
}

// TestFailedStart leaves nothing behind.
func TestFailedStart(t *testing.T) {
	h, s := newHost(t)
	s.NICs[0].MAC = "no address"
	if err := h.Start(t.Context(), s); err == nil {
		t.Fatal("it started without a NIC")
	}
	if st, err := h.Status(101); err != nil || st.Running {
		t.Errorf("it is %+v, %v", st, err)
	}
	must(t, h.Destroy(t.Context(), 101))
	if left := h.leftovers(); len(left) > 0 {
		t.Errorf("it has left %v", left)
	}
}

// interrupted is a runtime whose caller dies before it starts what it has created.
type interrupted struct{ runtime.OCI }

func (interrupted) Start(context.Context, int) error { return nil }

func TestCreatedIsNotRunning(t *testing.T) {
	h, s := newHost(t)
	whole := h.OCI
	h.OCI = interrupted{whole}
	must(t, h.Start(t.Context(), s))
	if st, err := h.Status(101); err != nil || st.Running {
		t.Errorf("it is %+v, %v", st, err)
	}
	h.OCI = whole
	must(t, h.Start(t.Context(), s))
	if got := h.run("cat /proc/1/comm"); got != "init" {
		t.Errorf("inside runs %q", got)
	}
	must(t, h.Destroy(t.Context(), 101))
	if left := h.leftovers(); len(left) > 0 {
		t.Errorf("it has left %v", left)
	}
}
