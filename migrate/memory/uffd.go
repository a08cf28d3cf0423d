package memory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests to a userfaultfd, and what it reports.
const (
	uffdWake = 0x8010aa02
	uffdCopy = 0xc028aa03
	uffdZero = 0xc020aa04

	eventFault  = 0x12
	eventFork   = 0x13
	eventRemap  = 0x14
	eventRemove = 0x15
	eventUnmap  = 0x16

	eventSize = 32
)

// uffd is the userfaultfd of a process's memory. Once its last descriptor is closed, what is missing there reads as zeros.
type uffd struct {
	file *os.File
	conn interface {
		Read(f func(fd uintptr) bool) error
	}
	fd int
}

func newUffd(fd int) (*uffd, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	u := &uffd{file: os.NewFile(uintptr(fd), "userfaultfd"), fd: fd}
	var err error
	if u.conn, err = u.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, u.file.Close())
	}
	return u, nil
}

// errBusy says that the memory is being changed; what changes it is the next event.
var errBusy = unix.EAGAIN

// copy puts pages where they are missing, and wakes who waits for them. It returns how many were put, and unix.EEXIST if the next
// one is there already.
func (u *uffd) copy(addr uint64, data []byte) (pages int, err error) {
	arg := struct {
		dst, src, size, mode uint64
		copied               int64
	}{dst: addr, src: uint64(uintptr(unsafe.Pointer(&data[0]))), size: uint64(len(data))}
	err = u.do(uffdCopy, unsafe.Pointer(&arg))
	runtime.KeepAlive(data)
	if err == nil || arg.copied > 0 {
		return int(arg.copied / PageSize), nil
	}
	return 0, err
}

// zero puts a page of zeros, and wakes who waits for it.
func (u *uffd) zero(addr uint64) error {
	arg := struct {
		start, size, mode uint64
		zeroed            int64
	}{start: addr, size: PageSize}
	return u.do(uffdZero, unsafe.Pointer(&arg))
}

// wake wakes who waits for a page that is there.
func (u *uffd) wake(addr uint64) error {
	arg := struct{ start, size uint64 }{addr, PageSize}
	return u.do(uffdWake, unsafe.Pointer(&arg))
}

func (u *uffd) do(request uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(u.fd), request, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

// event is what happened to the memory: an access to a missing page, or a change of the mappings.
type event struct {
	kind             byte
	address          uint64 // of a fault
	child            int    // descriptor for the memory of a child
	from, to, length uint64 // of a move
	start, end       uint64 // of what is gone
}

func parseEvent(b []byte) (event, error) {
	at := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8+8*i:]) }
	e := event{kind: b[0]}
	switch e.kind {
	case eventFault:
		e.address = at(1)
	case eventFork:
		e.child = int(binary.NativeEndian.Uint32(b[8:]))
	case eventRemap:
		e.from, e.to, e.length = at(0), at(1), at(2)
	case eventRemove, eventUnmap:
		e.start, e.end = at(0), at(1)
	default:
		return e, fmt.Errorf("the kernel reports event %#x of a userfaultfd, which nobody knows", e.kind)
	}
	return e, nil
}

// events calls handle for each event until the descriptor is closed. Read runs with lock held from before an event is taken from
// the kernel: a process that forks, or changes its mappings, goes on as soon as that is done.
func (u *uffd) events(lock func() func(), handle func(event) error) error {
	var failed error
	buf := make([]byte, eventSize)
	for failed == nil {
		err := u.conn.Read(func(uintptr) bool {
			defer lock()()
			n, err := unix.Read(u.fd, buf)
			switch {
			case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
				return errors.Is(err, unix.EINTR)
			case err != nil:
				failed = err
			case n != eventSize:
				failed = fmt.Errorf("the kernel reports %d bytes of a userfaultfd", n)
			default:
				var e event
				if e, failed = parseEvent(buf); failed == nil {
					failed = handle(e)
				}
			}
			return true
		})
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		failed = errors.Join(failed, err)
	}
	return failed
}
