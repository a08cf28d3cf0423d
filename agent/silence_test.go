package agent

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns the two ends of a TCP connection.
func pair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	x, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	t.Cleanup(func() { x.Close() })
	y, err := ln.Accept()
	must(t, err)
	t.Cleanup(func() { y.Close() })
	return x.(*net.TCPConn), y.(*net.TCPConn)
}

// cutOff makes a socket's kernel drop what comes in, as if the cable were cut.
func cutOff(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	must(t, err)
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	must(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
	}))
	must(t, err)
}

const testSilence = 1200 * time.Millisecond

// A request that is on its way when its peer is lost ends soon: no keep-alive is sent as long as it is not delivered.
func TestLostPeerIsNoticed(t *testing.T) {
	a, b := pair(t)
	must(t, noticeLoss(a, testSilence))
	cutOff(t, b)
	_, err := a.Write([]byte("a request"))
	must(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := a.Read(make([]byte, 1))
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the answer of a lost peer is still waited for")
	}
}

// A peer that does not read on, as a paused exec session, is no lost one.
func TestSlowPeerIsKept(t *testing.T) {
	a, b := pair(t)
	must(t, noticeLoss(a, testSilence))
	const size = 32 << 20 // more than the kernel buffers
	sent := make(chan error, 1)
	go func() {
		_, err := a.Write(make([]byte, size))
		sent <- err
	}()
	select {
	case err := <-sent:
		t.Fatalf("nobody has read it, and it is sent: %v", err)
	case <-time.After(3 * testSilence):
	}
	n, err := io.CopyN(io.Discard, b, size)
	must(t, err)
	must(t, <-sent)
	if n != size {
		t.Errorf("%d bytes of %d came", n, size)
	}
}
