package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// talkTo returns a connection to a server with a little memory.
func talkTo(t *testing.T, s *server) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	go s.talk(theirs)
	t.Cleanup(func() { ours.Close() })
	_ = ours.SetDeadline(time.Now().Add(10 * time.Second))
	return ours
}

func TestCommands(t *testing.T) {
	s := &server{memory: make([]byte, 1<<20)}
	for line, want := range map[string]string{
		"dirty 10": "ok\n", "once 500": "ok\n", "nonsense": "there is no command \"nonsense\"\n", "dirty": "there is no command \"dirty\"\n",
	} {
		c := talkTo(t, s)
		fmt.Fprintln(c, line)
		got, err := io.ReadAll(c)
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", line, got, err, want)
		}
	}
	if s.dirty.Load() != 10 {
		t.Errorf("dirty is %d", s.dirty.Load())
	}
	if bytes.Equal(s.memory, make([]byte, 1<<20)) {
		t.Error("nothing was written to the memory")
	}
}

func TestEcho(t *testing.T) {
	c := talkTo(t, &server{})
	fmt.Fprint(c, "echo\nhello")
	var got [5]byte
	if _, err := io.ReadFull(c, got[:]); err != nil || string(got[:]) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}
