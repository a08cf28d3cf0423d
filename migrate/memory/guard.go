package memory

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// GuardProcess is a Guard in a process of its own: as long as it lives, nothing that is missing reads as zeros, and it ends the
// container when the other end of its socket is closed without a word.
type GuardProcess struct {
	mu       sync.Mutex
	conn     *net.UnixConn
	lost     chan struct{}
	released bool
}

// What a guard is told: here is a descriptor, or that it is not needed any more.
const (
	guardHold    = 'h'
	guardRelease = 'r'
)

// guardFD is the guard's end of the socket.
const guardFD = 3

// StartGuard runs a command that calls Watch.
func StartGuard(name string, args ...string) (*GuardProcess, error) {
	fds, err := unix.Socketpair(unix.AF_LOCAL, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start the guard of a container's memory: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "guard")
	defer theirs.Close()
	conn, err := unixConn(fds[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(name, args...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what is sent to the agent's terminal or group does not meet it
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start the guard of a container's memory: %w", err)
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("-1000"), 0) // without the right to it only less safe
	g := &GuardProcess{conn: conn, lost: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // its end says it all
		close(g.lost)
	}()
	return g, nil
}

func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("use a socket: %w", err)
	}
	return c.(*net.UnixConn), nil
}

// Hold implements Guard. What lies in the socket is held too: no answer is waited for.
func (g *GuardProcess) Hold(fd int) error {
	if _, _, err := g.conn.WriteMsgUnix([]byte{guardHold}, unix.UnixRights(fd), nil); err != nil {
		return fmt.Errorf("give a descriptor to the guard: %w", err)
	}
	return nil
}

// Release implements Guard.
func (g *GuardProcess) Release() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.released {
		return nil
	}
	g.released = true
	_, err := g.conn.Write([]byte{guardRelease})
	if errors.Is(err, unix.EPIPE) { // it has ended
		err = nil
	}
	return errors.Join(err, g.conn.Close())
}

// Lost implements Guard.
func (g *GuardProcess) Lost() <-chan struct{} { return g.lost }

// Watch is the guard. It returns when it is not needed any more, or calls end when who needed it has died; end must return
// only when the container's processes have ended.
func Watch(end func() error) error {
	conn, err := unixConn(guardFD)
	if err != nil {
		return err
	}
	held, limit := []int{}, 64
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	for {
		_, n, _, _, err := conn.ReadMsgUnix(buf, oob)
		if err == nil && buf[0] == guardRelease {
			return nil
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				err = fmt.Errorf("listen to the agent: %w", err)
			}
			return errors.Join(end(), err)
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(msgs) != 1 {
			continue
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil {
			continue
		}
		if held = append(held, fds...); len(held) > limit {
			held = drop(held)
			limit = 2*len(held) + 64
		}
	}
}

// drop closes the descriptors of memory that is no more.
func drop(held []int) (kept []int) {
	for _, fd := range held {
		if ended(fd) {
			unix.Close(fd)
		} else {
			kept = append(kept, fd)
		}
	}
	return kept
}

// ended says that the process of a userfaultfd has ended, by a request that can do nothing.
func ended(fd int) bool {
	arg := struct{ start, size, mode, zeroed uint64 }{PageSize, PageSize, 0, 0} // nothing is ever mapped so low
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uffdZero, uintptr(unsafe.Pointer(&arg)))
	return e == unix.ESRCH
}
