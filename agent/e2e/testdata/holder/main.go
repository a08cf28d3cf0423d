// Command holder holds one kind of thing that a checkpoint may not know, until it is killed.
//
//	holder KIND READY   writes "ready", or why it cannot hold that here, into the file READY
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: holder KIND READY")
		os.Exit(2)
	}
	runtime.LockOSThread()
	word := "ready"
	hold := kinds()[os.Args[1]]
	if hold == nil {
		word = "there is no such kind"
	} else if err := hold(filepath.Dir(os.Args[2])); err != nil {
		word = err.Error()
	}
	if err := os.WriteFile(os.Args[2]+".new", []byte(word), 0o600); err != nil {
		os.Exit(1)
	}
	if err := os.Rename(os.Args[2]+".new", os.Args[2]); err != nil {
		os.Exit(1)
	}
	for {
		time.Sleep(time.Hour)
	}
}

// socket makes a kind that is one socket.
func socket(family, kind, protocol int) func(string) error {
	return func(string) error {
		_, err := unix.Socket(family, kind, protocol)
		return err
	}
}

// call makes a kind that is what a system call returns.
func call(number uintptr, args ...uintptr) func(string) error {
	return func(string) error {
		args = append(args, 0, 0, 0, 0, 0, 0)
		if _, _, errno := unix.Syscall6(number, args[0], args[1], args[2], args[3], args[4], args[5]); errno != 0 {
			return errno
		}
		return nil
	}
}

func open(path string) func(string) error {
	return func(string) error {
		_, err := unix.Open(path, unix.O_RDWR, 0)
		return err
	}
}

// address is where something lies that the kernel reads; on the heap, where it stays.
func address[T any](v *T) uintptr {
	heap := make(chan *T, 1)
	heap <- v
	return uintptr(unsafe.Pointer(v))
}

// kinds are the things that can be held.
func kinds() map[string]func(dir string) error {
	uring := &[120]byte{}
	return map[string]func(string) error{
		"nothing":   func(string) error { return nil },
		"io_uring":  call(unix.SYS_IO_URING_SETUP, 4, address(uring)),
		"bpf-map":   bpfMap,
		"bpf-prog":  bpfProgram,
		"uffd":      call(unix.SYS_USERFAULTFD, 1), // UFFD_USER_MODE_ONLY
		"perf":      perf,
		"fanotify":  call(unix.SYS_FANOTIFY_INIT, unix.FAN_CLASS_NOTIF, unix.O_RDONLY),
		"inotify":   func(dir string) error { return inotify(dir) },
		"memfd":     func(string) error { _, err := unix.MemfdCreate("x", 0); return err },
		"eventfd":   func(string) error { _, err := unix.Eventfd(1, 0); return err },
		"semaphore": func(string) error { _, err := unix.Eventfd(1, unix.EFD_SEMAPHORE); return err },
		"tty":       func(string) error { return terminal(false) },
		"pager":     func(string) error { return terminal(true) },
		"timerfd":   func(string) error { _, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0); return err },
		"pidfd":     func(string) error { _, err := unix.PidfdOpen(os.Getpid(), 0); return err },
		"watcher":   func(string) error { _, err := unix.PidfdOpen(os.Getppid(), 0); return err },
		"mptcp":     socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP),
		"sctp":      socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP),
		"vsock":     socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		"alg":       socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
		"key":       socket(unix.AF_KEY, unix.SOCK_RAW, 2),
		"packet":    socket(unix.AF_PACKET, unix.SOCK_RAW, 0),
		"ring":      packetRing,
		"netlink":   socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE),
		"audit":     socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT),
		"generic":   socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC),
		"unread":    netlinkUnread,
		"raw":       socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
		"ping":      socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP),
		"tcp":       socket(unix.AF_INET, unix.SOCK_STREAM, 0),
		"tcp6":      socket(unix.AF_INET6, unix.SOCK_STREAM, 0),
		"udp":       socket(unix.AF_INET, unix.SOCK_DGRAM, 0),
		"udplite":   socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE),
		"unix":      func(string) error { _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
		"seqpacket": func(string) error { _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0); return err },
		"opening":   opening,
		"waiting":   waiting,
		"ghost":     func(dir string) error { return ghost(dir, 1<<20) },
		"big-ghost": func(dir string) error { return ghost(dir, 80<<20) },
		"renamed":   renamed,
		"detached":  detached,
		"fuse":      open("/dev/fuse"),
		"tun":       open("/dev/net/tun"),
		"kvm":       open("/dev/kvm"),
		"loop":      open("/dev/loop-control"),
		"block":     func(string) error { return block() },
		"full":      open("/dev/full"),
		"terminal":  open("/dev/ptmx"),
		"secret":    secret,
		"shm":       sharedMemory,
		"aio":       func(string) error { var id uintptr; return call(unix.SYS_IO_SETUP, 8, address(&id))("") },
		"lease":     lease,
		"landlock":  landlock,
		"stopped":   func(string) error { return child(func(pid int) error { return unix.Kill(pid, unix.SIGSTOP) }) },
		"traced":    func(string) error { return child(unix.PtraceSeize) },
		"zombie":    func(string) error { return child(func(pid int) error { return unix.Kill(pid, unix.SIGKILL) }) },
		"pid-ns":    func(string) error { return nested(unix.CLONE_NEWPID) },
		"uts-ns":    func(string) error { return nested(unix.CLONE_NEWUTS) },
		"ipc-ns":    func(string) error { return nested(unix.CLONE_NEWIPC) },
		"cgroup-ns": func(string) error { return nested(unix.CLONE_NEWCGROUP) },
		"passed":    passed,
	}
}

// terminal has a terminal and /dev/tty open, by itself or in a child that is in the foreground, as a pager in a shell.
func terminal(inChild bool) error {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return err
	}
	if _, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR, 0); err != nil { // we lead a session, and it becomes ours
		return err
	}
	if !inChild {
		return open("/dev/tty")("")
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	cmd := exec.Command(os.Args[0], "nothing", os.Args[2]+".child")
	cmd.Stdin = tty
	cmd.SysProcAttr = &unix.SysProcAttr{Foreground: true, Ctty: int(tty.Fd())}
	if err := cmd.Start(); err != nil {
		return err
	}
	return tty.Close()
}

func inotify(dir string) error {
	fd, err := unix.InotifyInit1(0)
	if err == nil {
		_, err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE)
	}
	return err
}

func bpfMap(string) error {
	attr := struct{ kind, key, value, entries uint32 }{2, 4, 4, 1} // an array
	return call(unix.SYS_BPF, unix.BPF_MAP_CREATE, address(&attr), unsafe.Sizeof(attr))("")
}

func bpfProgram(string) error {
	code := [2]uint64{0xb7, 0x95} // r0 = 0; exit
	license := [4]byte{'G', 'P', 'L'}
	attr := struct {
		kind, count   uint32
		code, license uint64
		rest          [64]byte
	}{kind: 1, count: 2, code: uint64(address(&code)), license: uint64(address(&license))}
	return call(unix.SYS_BPF, unix.BPF_PROG_LOAD, address(&attr), unsafe.Sizeof(attr))("")
}

func perf(string) error {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
	_, err := unix.PerfEventOpen(&attr, os.Getpid(), -1, -1, 0)
	return err
}

func packetRing(string) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq{Block_size: 4096, Block_nr: 1, Frame_size: 2048, Frame_nr: 2}); err != nil {
		return err
	}
	_, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	return err
}

// netlinkUnread asks for all links and does not read the answer.
func netlinkUnread(string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	req := make([]byte, unix.NLMSG_HDRLEN+unix.SizeofIfInfomsg)
	h := (*unix.NlMsghdr)(unsafe.Pointer(&req[0]))
	*h = unix.NlMsghdr{Len: uint32(len(req)), Type: unix.RTM_GETLINK, Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP}
	return unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// opening opens a connection to an address that never answers.
func opening(string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{192, 0, 2, 1}}); err != unix.EINPROGRESS {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// waiting has a connection that it does not accept.
func waiting(string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err := unix.Listen(fd, 8); err != nil {
		return err
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	return unix.Connect(client, at)
}

// passed has a descriptor on its way through a socket, where nobody sees it, of a kind that CRIU does not know.
func passed(string) error {
	fd, err := unix.PidfdOpen(os.Getpid(), unix.O_EXCL) // of one thread
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fd), nil, 0); err != nil {
		return err
	}
	return unix.Close(fd)
}

func ghost(dir string, size int) error {
	fd, err := unix.Open(dir+"/ghost", unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Unlink(dir + "/ghost"); err != nil {
		return err
	}
	part := make([]byte, 1<<20)
	for ; size > 0; size -= len(part) {
		if _, err := unix.Write(fd, part); err != nil {
			return err
		}
	}
	return nil
}

func renamed(dir string) error {
	if _, err := unix.Open(dir+"/a", unix.O_CREAT|unix.O_RDWR, 0o600); err != nil {
		return err
	}
	if err := unix.Link(dir+"/a", dir+"/b"); err != nil {
		return err
	}
	return unix.Unlink(dir + "/a")
}

// detached has a file open on a file system that it has unmounted.
func detached(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		return err
	}
	if _, err := unix.Open(dir+"/file", unix.O_CREAT|unix.O_RDWR, 0o600); err != nil {
		return err
	}
	return unix.Unmount(dir, unix.MNT_DETACH)
}

func block() error {
	disks, _ := filepath.Glob("/sys/block/*")
	for _, d := range disks {
		if _, err := unix.Open("/dev/"+filepath.Base(d), unix.O_RDONLY, 0); err == nil {
			return nil
		}
	}
	return fmt.Errorf("there is no block device")
}

func secret(string) error {
	const memfdSecret = 447
	fd, _, errno := unix.Syscall(memfdSecret, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if err := unix.Ftruncate(int(fd), 4096); err != nil {
		return err
	}
	_, err := unix.Mmap(int(fd), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return err
}

func sharedMemory(string) error {
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600)
	if err != nil {
		return err
	}
	if _, err = unix.SysvShmAttach(id, 0, 0); err != nil {
		return err
	}
	_, err = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	return err
}

func lease(dir string) error {
	fd, err := unix.Open(dir+"/lease", unix.O_CREAT|unix.O_RDONLY, 0o600)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	}
	return err
}

func landlock(string) error {
	attr := uint64(1)
	return call(unix.SYS_LANDLOCK_CREATE_RULESET, address(&attr), 8, 0)("")
}

// child starts a process and does something to it.
func child(do func(pid int) error) error {
	cmd := exec.Command(os.Args[0], "nothing", os.Args[2]+".child")
	if err := cmd.Start(); err != nil {
		return err
	}
	for {
		if _, err := os.Stat(os.Args[2] + ".child"); err == nil {
			return do(cmd.Process.Pid)
		}
		time.Sleep(time.Millisecond)
	}
}

// nested starts a process in a namespace of its own.
func nested(flag uintptr) error {
	cmd := exec.Command(os.Args[0], "nothing", os.Args[2]+".child")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: flag}
	return cmd.Start()
}
