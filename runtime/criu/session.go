// Package criu drives CRIU without a command line in between: one `criu swrk` process per checkpoint or restore, spoken
// to over a socket. It owns the protocol and CRIU's options; freezing, networks, roots and cgroup limits are made by
// the caller.
//
// The one rule for callers: a container must already be frozen by its cgroup before Dump, and its frozen state must be
// read back after Dump, because a CRIU that is killed may thaw it.
package criu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"golang.org/x/sys/unix"
)

// Criu knows where the program is.
type Criu struct {
	Binary string
	At     func(point string) error // called at every step that CRIU tells of; tests fail them; nil: none
	// Patience is how long a dump or restore may get nothing done before it is ended; zero: 20 seconds.
	Patience time.Duration

	mu      sync.Mutex
	version map[string]int      // by the binary's path, time and size
	ready   map[string]*session // by images directory: started by Ready and not used yet
}

// point passes a named step.
func (c *Criu) point(name string) error {
	if c.At == nil {
		return nil
	}
	return c.At(name)
}

// session is one criu process that waits for a request.
type session struct {
	criu  *Criu
	cmd   *exec.Cmd
	conn  *net.UnixConn
	pages *pageSocket
	ended chan struct{} // closed when the process has ended

	waiting atomic.Bool // for its next message
	stuck   atomic.Bool // it was ended by guard
}

// urgent is CRIU's nice value.
const urgent = -15

// pagesFD is the number of CRIU's end of the page socket.
const pagesFD = 4

// start runs criu. It is not killed with the context: a criu that is
// killed in a dump may leave the container's processes broken, so it is let finish.
func (c *Criu) start() (*session, error) {
	fds, err := unix.Socketpair(unix.AF_LOCAL, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start criu: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "criu"), os.NewFile(uintptr(fds[1]), "criu")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, fmt.Errorf("start criu: %w", err)
	}
	pages, err := newPageSocket()
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer pages.theirs.Close() // so that CRIU's end is seen when its process ends
	cmd := exec.Command(c.Binary, "swrk", "3")
	cmd.ExtraFiles = []*os.File{theirs, pages.theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Symbols are bound at the start, which the container does not wait for: later, each of CRIU's forks would do it anew.
	cmd.Env = append(os.Environ(), "CRIU_CONFIG_FILE=/dev/null", "LD_BIND_NOW=1")
	if err := cmd.Start(); err != nil {
		conn.Close()
		pages.ours.Close()
		return nil, fmt.Errorf("start criu: %w", err)
	}
	// The container stands still while CRIU works. What it restores gets its own priority back.
	_ = unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, urgent) // without the right to it only slower
	s := &session{criu: c, cmd: cmd, conn: conn.(*net.UnixConn), pages: pages, ended: make(chan struct{})}
	go s.watch()
	return s, nil
}

// lastWord is how long a message may still come when criu has ended.
const lastWord = 100 * time.Millisecond

// watch waits for the end of criu. One that was killed leaves helpers behind, which hold its end of the socket open
// and would never go away.
func (s *session) watch() {
	defer close(s.ended)
	pid := s.cmd.Process.Pid
	var info unix.Siginfo
	var err error
	for {
		// It is not reaped yet, so the number of its process group is still its own.
		if err = unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil && info.Code != cldExited {
		_ = unix.Kill(-pid, unix.SIGKILL)
	}
	_ = s.cmd.Wait() // what went wrong is said in the answer
	_ = s.conn.SetReadDeadline(time.Now().Add(lastWord))
}

// cldExited is the code of a process that has ended by itself.
const cldExited = 1

// notifyFunc answers a notification of CRIU; an error makes CRIU undo what it is doing.
type notifyFunc func(script string, pid int) error

// do sends a request and answers notifications until the result comes.
func (s *session) do(t rpc.CriuReqType, opts *rpc.CriuOpts, notify notifyFunc) (*rpc.CriuResp, error) {
	if err := s.send(&rpc.CriuReq{Type: &t, Opts: opts}); err != nil {
		return nil, err
	}
	defer s.guard()()
	var refused error
	for {
		s.waiting.Store(true)
		resp, err := s.receive()
		s.waiting.Store(false)
		if err != nil && s.stuck.Load() {
			err = fmt.Errorf("it got nothing done for %s and was ended: %w", s.criu.patience(), err)
		}
		if err != nil {
			return nil, errors.Join(refused, err)
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY {
			if !resp.GetSuccess() {
				return resp, errors.Join(refused, fmt.Errorf("refused with errno %d", resp.GetCrErrno()))
			}
			return resp, nil
		}
		n := resp.GetNotify()
		step := "criu." + strings.ToLower(t.String()) + "." + n.GetScript()
		if err := errors.Join(s.criu.point(step), notify(n.GetScript(), int(n.GetPid()))); err != nil {
			refused = err
		}
		if err := s.send(&rpc.CriuReq{Type: ptr(rpc.CriuReqType_NOTIFY), NotifySuccess: ptr(refused == nil)}); err != nil {
			return nil, errors.Join(refused, err)
		}
	}
}

func (s *session) send(req *rpc.CriuReq) error {
	b, err := req.MarshalVT()
	if err != nil {
		return fmt.Errorf("speak to criu: %w", err)
	}
	if _, err := s.conn.Write(b); err != nil {
		return fmt.Errorf("speak to criu: %w", err)
	}
	return nil
}

func (s *session) receive() (*rpc.CriuResp, error) {
	buf, oob := make([]byte, 64<<10), make([]byte, 4<<10)
	n, oobn, _, _, err := s.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, fmt.Errorf("listen to criu: %w", err)
	}
	if n == 0 {
		return nil, errors.New("criu ended without an answer")
	}
	closeRights(oob[:oobn])
	resp := new(rpc.CriuResp)
	if err := resp.UnmarshalVT(buf[:n]); err != nil {
		return nil, fmt.Errorf("understand criu: %w", err)
	}
	return resp, nil
}

// closeRights closes descriptors that came with a message; none of them is wanted.
func closeRights(oob []byte) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for i := range msgs {
		if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}
}

// close ends the conversation and waits for the process. Pages that are still being served end by themselves.
func (s *session) close() {
	s.conn.Close()
	<-s.ended
	if s.pages.served == nil {
		s.pages.ours.Close()
	}
}

// end closes a session whose request has ended. The container does not wait for a criu that has done its work.
func (s *session) end(failed error) {
	if failed == nil {
		go s.close()
		return
	}
	s.close()
}

// killed says, after close, whether a signal has ended criu: then it has undone nothing.
func (s *session) killed() bool {
	ws, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled()
}

func ptr[T any](v T) *T { return &v }

// Version returns CRIU's version as 10000*major + 100*minor + patch.
func (c *Criu) Version() (int, error) {
	path, err := exec.LookPath(c.Binary)
	if err != nil {
		return 0, fmt.Errorf("start criu: %w", err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return 0, fmt.Errorf("start criu: %w", err)
	}
	binary := fmt.Sprintf("%s %d %d", path, st.ModTime().UnixNano(), st.Size())
	c.mu.Lock()
	v, known := c.version[binary]
	c.mu.Unlock()
	if known {
		return v, nil
	}
	if v, err = c.ask(); err != nil {
		return 0, err
	}
	c.mu.Lock()
	c.version = map[string]int{binary: v}
	c.mu.Unlock()
	return v, nil
}

// ask has criu say its version.
func (c *Criu) ask() (int, error) {
	s, err := c.start()
	if err != nil {
		return 0, err
	}
	defer s.close()
	t := rpc.CriuReqType_VERSION
	if err := s.send(&rpc.CriuReq{Type: &t}); err != nil {
		return 0, err
	}
	resp, err := s.receive()
	if err != nil {
		return 0, err
	}
	v := resp.GetVersion()
	return int(v.GetMajorNumber())*10000 + int(v.GetMinorNumber())*100 + int(v.GetSublevel()), nil
}

// Warm implements runtime.Checkpointer: CRIU probes the kernel at its first start and keeps what it finds in /run, if
// that is a tmpfs. A host without CRIU can do everything but migrate, so only the doctor complains.
func (c *Criu) Warm(ctx context.Context) error {
	if err := exec.CommandContext(ctx, c.Binary, "check").Run(); err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}
