package criu

import (
	"net"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestConnecting sees a connection over a unix socket from the moment it is made until it is accepted.
func TestConnecting(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("a network namespace of its own needs root")
	}
	done := make(chan struct{})
	go func() { // the thread ends with it, since it is never unlocked
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		connecting(t, unix.Gettid())
	}()
	<-done
}

func connecting(t *testing.T, thread int) {
	c := &Criu{}
	expect := func(want bool, when string) {
		t.Helper()
		if got, err := c.Connecting(thread); err != nil || got != want {
			t.Errorf("%s: %t, %v", when, got, err)
		}
	}
	expect(false, "without a socket")
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Error(err)
		return
	}
	defer l.Close()
	expect(false, "when nobody has called")
	client, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path})
	if err != nil {
		t.Error(err)
		return
	}
	defer client.Close()
	expect(true, "while it is not accepted")
	server, err := l.AcceptUnix()
	if err != nil {
		t.Error(err)
		return
	}
	defer server.Close()
	expect(false, "once it is accepted")
}
