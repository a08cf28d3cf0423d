package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// read reads a number of 8 bytes from a descriptor that does not block.
func read(fd int) (uint64, error) {
	b := make([]byte, 8)
	_, err := unix.Read(fd, b)
	return binary.NativeEndian.Uint64(b), err
}

// eventfd has a value between checks.
func eventfd() func() {
	fd := must(unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK))
	up := func() { must(unix.Write(fd, binary.NativeEndian.AppendUint64(nil, 3))) }
	up()
	return func() {
		expect("value", must(read(fd)), 3)
		_, err := read(fd)
		expect("one read too many", err, error(unix.EAGAIN))
		up()
	}
}

// epoll watches an eventfd that is ready, one that is not, and an edge that was seen already.
func epoll() func() {
	ep := must(unix.EpollCreate1(unix.EPOLL_CLOEXEC))
	watch := func(events uint32, mark int32, value uint) int {
		fd := must(unix.Eventfd(value, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK))
		ok(unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: mark, Pad: 7}))
		return fd
	}
	watch(unix.EPOLLIN, 1001, 1)
	later := watch(unix.EPOLLIN, 1002, 0)
	ready := func() (marks string) {
		events := make([]unix.EpollEvent, 8)
		n := must(unix.EpollWait(ep, events, 0))
		for _, e := range events[:n] {
			expect("mark", e.Pad, 7)
			marks += fmt.Sprint(" ", e.Fd)
		}
		return marks
	}
	return func() {
		expect("ready", ready(), " 1001")
		must(unix.Write(later, binary.NativeEndian.AppendUint64(nil, 1)))
		if got := ready(); len(got) != 10 || !strings.Contains(got, " 1002") {
			panic("ready:" + got)
		}
		must(read(later))
	}
}

// signalfd has a signal pending between checks. A thread of its own blocks the signal, gets it and reads it.
func signalfd() func() {
	asked, answers := make(chan bool), make(chan error)
	go func() {
		runtime.LockOSThread()
		var set unix.Sigset_t
		set.Val[0] = 1 << (unix.SIGUSR2 - 1)
		fd := 0
		raise := func() { ok(unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGUSR2)) }
		answers <- try(func() {
			ok(unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil))
			fd = must(unix.Signalfd(-1, &set, unix.SFD_CLOEXEC|unix.SFD_NONBLOCK))
			raise()
		})
		for range asked {
			answers <- try(func() {
				var info unix.SignalfdSiginfo
				b := unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info))
				must(unix.Read(fd, b))
				expect("signal", unix.Signal(info.Signo), unix.SIGUSR2)
				expect("sender", int(info.Pid), os.Getpid())
				raise()
			})
		}
	}()
	ok(<-answers)
	return func() {
		asked <- true
		ok(<-answers)
	}
}

// inotify sees what happens to a file and in a directory after the move; what nobody has read before it is lost.
func inotify() func() {
	ok(os.MkdirAll("watched", 0o700))
	ok(os.WriteFile("watched-file", nil, 0o600))
	fd := must(unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK))
	dir := must(unix.InotifyAddWatch(fd, "watched", unix.IN_CREATE|unix.IN_DELETE))
	file := must(unix.InotifyAddWatch(fd, "watched-file", unix.IN_MODIFY))
	return func() {
		ok(os.WriteFile("watched/new", nil, 0o600))
		ok(os.Remove("watched/new"))
		ok(os.WriteFile("watched-file", []byte("more"), 0o600))
		buf, got := make([]byte, 4096), ""
		for b := buf[:must(unix.Read(fd, buf))]; len(b) > 0; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+e.Len]), "\x00")
			got += fmt.Sprintf("%d %x %s\n", e.Wd, e.Mask, name)
			b = b[unix.SizeofInotifyEvent+e.Len:]
		}
		want := fmt.Sprintf("%d %x new\n%d %x new\n", dir, unix.IN_CREATE, dir, unix.IN_DELETE)
		modified := fmt.Sprintf("%d %x \n", file, unix.IN_MODIFY)
		if got != want+modified && got != want+modified+modified { // once for the truncation, if there was something
			panic(fmt.Sprintf("seen %q, not %q", got, want+modified))
		}
	}
}
