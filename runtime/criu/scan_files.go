package criu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// readMounts adds the mounts of a process's mount namespace.
func (s *scanner) readMounts(pid int) error {
	if id, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); err == nil {
		s.seen[id] = true
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return fmt.Errorf("read the mounts of process %d: %w", pid, err)
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return fmt.Errorf("read the mounts of process %d: %w", pid, err)
	}
	for _, m := range mounts {
		s.mounts[m.ID] = m.FSType
		if m := (runtime.Mount{Path: m.Mountpoint, Type: m.FSType}); !slices.Contains(s.scan.Mounts, m) {
			s.scan.Mounts = append(s.scan.Mounts, m)
		}
	}
	return nil
}

// files reads a process's descriptors. Those that point to the same are listed once.
func (s *scanner) files(dir string) ([]runtime.File, error) {
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return nil, err
	}
	var out []runtime.File
	seen := map[string]bool{}
	for _, fd := range fds {
		at := filepath.Join(dir, "fd", fd.Name())
		target, err := os.Readlink(at)
		if err != nil || seen[target] {
			continue
		}
		f := runtime.File{Target: target}
		switch {
		case strings.HasPrefix(target, "socket:"):
			f.Protocol = protocol(at)
		case strings.HasPrefix(target, "/"):
			s.named(&f, at, filepath.Join(dir, "fdinfo", fd.Name()))
			if f.Device == ptmx {
				pid, _ := strconv.Atoi(filepath.Base(dir))
				s.masters[number(filepath.Join(dir, "fdinfo", fd.Name()), "tty-index:")] = pid
			}
			seen[target] = !strings.HasSuffix(target, deleted) && f.Device != ptmx // else two may have the same name
		case target == "anon_inode:[eventfd]":
			f.Counting = number(filepath.Join(dir, "fdinfo", fd.Name()), "eventfd-semaphore:") == 1
		case target == "anon_inode:[pidfd]" || strings.HasPrefix(target, "pidfd:"):
			f.Outside = s.outside(filepath.Join(dir, "fdinfo", fd.Name()))
		default:
			seen[target] = strings.HasPrefix(target, "anon_inode:") || strings.HasPrefix(target, "pipe:")
		}
		out = append(out, f)
	}
	return out, nil
}

// deleted ends the path of a file that was deleted.
const deleted = " (deleted)"

// protocol is the name that the kernel gives a socket.
func protocol(at string) string {
	var name [64]byte
	n, err := unix.Getxattr(at, "system.sockprotoname", name[:])
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(name[:n]), "\x00")
}

// named looks at a file that has or had a path.
func (s *scanner) named(f *runtime.File, at, info string) {
	kind, mounted := s.mounts[number(info, "mnt_id:")]
	if slices.ContainsFunc([]string{"fuse", "nfs", "cifs", "9p"}, func(remote string) bool { return strings.HasPrefix(kind, remote) }) {
		return // its server may be in the container, and may not answer
	}
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, at, unix.AT_STATX_DONT_SYNC, unix.STATX_BASIC_STATS, &st) != nil {
		return
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		f.Device = fmt.Sprintf("char %d:%d", st.Rdev_major, st.Rdev_minor)
	case unix.S_IFBLK:
		f.Device = fmt.Sprintf("block %d:%d", st.Rdev_major, st.Rdev_minor)
	case unix.S_IFREG:
		if strings.HasPrefix(f.Target, "/memfd:") || strings.HasPrefix(f.Target, "/SYSV") || kind == "hugetlbfs" {
			return
		}
		f.Detached = !mounted
		if strings.HasSuffix(f.Target, deleted) {
			f.Renamed = st.Nlink > 0
			f.Ghost = int64(st.Blocks) * 512
		}
	case unix.S_IFDIR:
		f.Detached = !mounted
	}
}

// outside says whether a pidfd is one that no restore can make: of a process of somebody else, or of a thread.
func (s *scanner) outside(info string) bool {
	pid := number(info, "Pid:")
	b, _ := os.ReadFile(info)
	_, after, _ := strings.Cut(string(b), "flags:")
	flags, _ := strconv.ParseInt(strings.TrimSpace(strings.SplitN(after, "\n", 2)[0]), 8, 64)
	return pid >= 0 && !s.has(pid) || flags&unix.O_EXCL != 0 // O_EXCL is PIDFD_THREAD
}

// has says whether a process is the container's. One that has ended and that its parent has not asked for is, though
// its cgroup does not list it.
func (s *scanner) has(pid int) bool {
	if slices.Contains(s.pids, pid) {
		return true
	}
	st, err := readStatus(fmt.Sprintf("/proc/%d", pid))
	return err == nil && st.state == 'Z' && slices.Contains(s.pids, st.parent)
}

// number reads a value of an fdinfo file; -1 when there is none.
func number(info, key string) int {
	b, err := os.ReadFile(info)
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key); ok {
			if n, err := strconv.Atoi(strings.TrimSpace(v)); err == nil {
				return n
			}
		}
	}
	return -1
}

// connections reads the network of the container's init.
func (s *scanner) connections(init int) {
	for _, table := range []string{"tcp", "tcp6"} {
		for f := range rows(fmt.Sprintf("/proc/%d/net/%s", init, table)) {
			if len(f) < 5 {
				continue
			}
			const synRecv, listen = "03", "0A"
			switch _, queue, _ := strings.Cut(f[4], ":"); f[3] {
			case listen:
				n, _ := strconv.ParseInt(queue, 16, 64)
				s.scan.Unaccepted += int(n)
			case synRecv:
				s.scan.HalfOpen++
			}
		}
	}
	unread := s.unread()
	for i := range s.scan.Processes {
		for j, f := range s.scan.Processes[i].Files {
			s.scan.Processes[i].Files[j].Unread = f.Protocol == "NETLINK" && unread[inode(f.Target)]
		}
	}
}

// unread finds the netlink sockets that have messages waiting, by inode.
func (s *scanner) unread() map[string]bool {
	out := map[string]bool{}
	for f := range rows(fmt.Sprintf("/proc/%d/net/netlink", s.scan.Init)) {
		if len(f) >= 10 && f[4] != "0" && f[4] != "Rmem" {
			out[f[9]] = true
		}
	}
	return out
}

// rows yields the fields of each line of a table in /proc.
func rows(path string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		b, _ := os.ReadFile(path) // without it there is nothing to be seen
		for line := range strings.Lines(string(b)) {
			if !yield(strings.Fields(line)) {
				return
			}
		}
	}
}

// inode is that of a socket, from what its descriptor points to.
func inode(target string) string {
	return strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")
}
