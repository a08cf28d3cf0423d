package criu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// Dump implements runtime.Checkpointer. The error carries CRIU's own decisive line; the full log is dump.log in the
// images directory.
func (c *Criu) Dump(ct runtime.Checkpoint, pid int, images string, ready func()) (err error) {
	defer func() { err = afterFault(err, images) }()
	s, err := c.startFor(images)
	if err != nil {
		return err
	}
	if ct.Pages != nil {
		s.pages.serve(ct.Pages.Serve)
	}
	defer func() { err = s.pages.end(err) }()
	defer func() { s.end(err) }()
	dir, err := os.Open(images)
	if err != nil {
		return fmt.Errorf("open the folder for the checkpoint: %w", err)
	}
	defer dir.Close()
	defer unbind(images)
	o, err := common(ct, dir, "dump.log")
	if err != nil {
		return err
	}
	o.Root = ptr(ct.Root)
	o.Pid = ptr(int32(pid))
	o.Ps = s.pages.option()
	if ct.Lazy {
		if err := s.leaveOut(o, images); err != nil {
			return err
		}
	}
	if ct.Pages != nil && ct.Pages.Marked {
		if err := marked(o, images); err != nil {
			return err
		}
	}
	o.LeaveRunning = ptr(true)
	o.FreezeCgroup = ptr(ct.Freezer)
	o.GhostLimit = ptr(uint32(runtime.GhostLimit))
	o.TcpSkipInFlight = ptr(true)
	for _, b := range ct.Binds {
		o.ExtMnt = append(o.ExtMnt, &rpc.ExtMountMap{Key: ptr(b.Path), Val: ptr(b.Path)})
	}
	for _, path := range ct.Masked {
		o.ExtMnt = append(o.ExtMnt, &rpc.ExtMountMap{Key: ptr(path), Val: ptr("/dev/null")})
	}
	if err := dumpFolders(ct, images); err != nil {
		return err
	}
	before, err := ct.PIDs()
	if err != nil {
		return err
	}
	if err := noteTimers(before, images); err != nil {
		return err
	}
	_, err = s.do(rpc.CriuReqType_DUMP, o, func(script string, _ int) error {
		if script == "post-dump" {
			if ct.Lazy { // nobody asks CRIU for what it has left out
				s.pages.ours.Close()
			}
			if ready != nil {
				ready()
			}
		}
		return nil
	})
	if err != nil {
		hurt := c.hurt(before, ct.PIDs) // at once: what CRIU has left in a process may end it at any moment
		err = fmt.Errorf("checkpoint: %w", decisive(err, filepath.Join(images, "dump.log")))
		if s.close(); s.killed() && (hurt || c.hurtSoon(before, ct.PIDs)) {
			return fmt.Errorf("%w: %w", runtime.ErrBroken, err)
		}
		if s.killed() {
			return fmt.Errorf("criu was killed, and a connection that was used at that moment may be lost: %w", err)
		}
		return err
	}
	return nil
}

// Restore implements runtime.Checkpointer. The full log is restore.log in the images directory.
func (c *Criu) Restore(ct runtime.Checkpoint, images string, h runtime.RestoreHooks) (pid int, err error) {
	defer func() { err = afterFault(err, images) }()
	s, err := c.startFor(images)
	if err != nil {
		return 0, err
	}
	defer func() { s.end(err) }()
	dir, err := os.Open(images)
	if err != nil {
		return 0, fmt.Errorf("open the folder of the checkpoint: %w", err)
	}
	defer dir.Close()
	defer unbind(images)
	root, err := bindRoot(ct.Root, images)
	if err != nil {
		return 0, err
	}
	o, err := common(ct, dir, "restore.log")
	if err != nil {
		return 0, err
	}
	o.Root = ptr(root)
	o.EvasiveDevices = ptr(true)
	o.LazyPages = ptr(ct.Lazy)
	// Masked files lie behind the root's own /dev/null, as at the start: the container's user namespace may not change the
	// mount flags of the host's /dev, which systemd mounts with strictatime.
	null := runtime.Bind{Path: os.DevNull, Source: filepath.Join(ct.Root, os.DevNull)}
	for _, b := range append(slices.Clone(ct.Binds), null) {
		if err := inside(ct.Root, b.Source); err != nil {
			return 0, err
		}
		o.ExtMnt = append(o.ExtMnt, &rpc.ExtMountMap{Key: ptr(b.Path), Val: ptr(b.Source)})
	}
	if o.CgRoot, err = cgroupRoots(ct.Cgroup); err != nil {
		return 0, err
	}
	if err := errors.Join(restoreFolders(ct, images), holdAtEnd(ct, images), mendFiles(images)); err != nil {
		return 0, err
	}
	resp, err := s.do(rpc.CriuReqType_RESTORE, o, func(script string, pid int) error {
		switch script {
		case "setup-namespaces":
			return h.Namespaces(pid)
		case "post-setup-namespaces": // sockets come next
			return h.Connected()
		case "pre-resume": // not earlier: CRIU must still stop the processes once more
			pids, err := ct.PIDs()
			return errors.Join(err, setTimers(pids, images), h.Restored(pid))
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("restore: %w", decisive(err, filepath.Join(images, "restore.log")))
	}
	return int(resp.GetRestore().GetPid()), nil
}

// pidFile names the criu that works with these images, for a caller that comes after one that died.
const pidFile = "criu.pid"

// Ready implements runtime.Checkpointer.
func (c *Criu) Ready(images string) error {
	s, err := c.startFor(images)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ready == nil {
		c.ready = map[string]*session{}
	}
	c.ready[images] = s
	return nil
}

// take returns the session that Ready has started for these images, nil if there is none that still waits.
func (c *Criu) take(images string) *session {
	c.mu.Lock()
	s := c.ready[images]
	delete(c.ready, images)
	c.mu.Unlock()
	if s == nil {
		return nil
	}
	select {
	case <-s.ended:
		s.close()
		return nil
	default:
		return s
	}
}

func (c *Criu) startFor(images string) (*session, error) {
	if s := c.take(images); s != nil {
		return s, nil
	}
	s, err := c.start()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(images, pidFile), []byte(strconv.Itoa(s.cmd.Process.Pid)), 0o600); err != nil {
		s.close()
		return nil, fmt.Errorf("note the pid of criu: %w", err)
	}
	if err := c.point("criu.started"); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// Settle implements runtime.Checkpointer. A criu whose caller has died finds its socket closed at the next question
// and undoes what it was doing.
func (c *Criu) Settle(ctx context.Context, images string) error {
	if s := c.take(images); s != nil {
		s.close()
	}
	if err := c.awaitEnd(ctx, images); err != nil {
		return err
	}
	unbind(images)
	return clearMounts(images)
}

func (c *Criu) awaitEnd(ctx context.Context, images string) error {
	b, err := os.ReadFile(filepath.Join(images, pidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the pid of criu: %w", err)
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		return nil // a loss of power has emptied the file, and ended criu too
	}
	for p := (stuck{pid: pid}); ; {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil || string(name) != "criu\n" {
			return nil
		}
		if p.idle() > c.patience() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for criu (pid %d) to end: %w", pid, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// common are the options that dump and restore must agree on. The network is an empty namespace, filled by us; nothing
// is locked by CRIU, because the container's port on the bridge is closed.
func common(ct runtime.Checkpoint, images *os.File, log string) (*rpc.CriuOpts, error) {
	o := &rpc.CriuOpts{
		ImagesDirFd:       ptr(int32(images.Fd())),
		LogLevel:          ptr(int32(2)),
		LogFile:           ptr(log),
		NotifyScripts:     ptr(true),
		TcpEstablished:    ptr(true),
		FileLocks:         ptr(true),
		ExtUnixSk:         ptr(true),
		OrphanPtsMaster:   ptr(true),
		ManageCgroups:     ptr(true),
		ManageCgroupsMode: ptr(rpc.CriuCgMode_FULL),
		NetworkLock:       ptr(rpc.CriuNetworkLockMethod_SKIP),
		EmptyNs:           ptr(uint32(unix.CLONE_NEWNET)),
	}
	yard, err := bindCgroups(ct, images.Name())
	if yard != "" {
		o.CgroupYard = ptr(yard)
	}
	return o, err
}

// inside refuses a path below the root that leads through a symbolic link: the container made what is there, and CRIU
// would bind to what the link means on the host.
func inside(root, path string) error {
	rel, below := strings.CutPrefix(path, root+"/")
	if !below {
		return nil // the host's own
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the root of a restore: %w", err)
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, rel, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return fmt.Errorf("the container has changed its /%s, put it back there: %w", rel, err)
	}
	return unix.Close(fd)
}

// bindRoot binds the root to a place of its own, because CRIU wants a mount point whose parent is not overmounted.
func bindRoot(root, images string) (string, error) {
	dir := rootOf(images)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the mount point of a restore: %w", err)
	}
	if err := unix.Mount(root, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind the root of a restore: %w", err)
	}
	return dir, nil
}

func rootOf(images string) string { return images + ".root" }

// unbind undoes bindRoot and bindCgroups, also for a caller that died. What is below these mounts is a container's or the
// host's: it is never removed by path.
func unbind(images string) {
	for _, at := range []string{rootOf(images), cgroupsOf(images)} {
		for unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
		_ = os.Remove(at)
	}
	hold := filepath.Join(yardOf(images), freezerName, freezerGroup)
	for _, name := range []string{filepath.Join(hold, freezerFile), hold, filepath.Dir(hold), yardOf(images)} {
		_ = os.Remove(name)
	}
}

// decisive adds the line of CRIU's log that says what went wrong.
func decisive(err error, log string) error {
	f, ferr := os.Open(log)
	if ferr != nil {
		return err
	}
	defer f.Close()
	line := ""
	s := bufio.NewScanner(f)
	s.Buffer(make([]byte, 64<<10), 1<<20)
	for s.Scan() {
		// The first error is the cause; those that follow are its consequences. A limit that cannot be raised is none.
		if _, text, ok := strings.Cut(s.Text(), "Error ("); ok && line == "" && !strings.Contains(text, "rlimit: ") {
			_, line, _ = strings.Cut(text, "): ")
		}
	}
	if line == "" {
		return err
	}
	return fmt.Errorf("criu: %s (%w)", line, err)
}
