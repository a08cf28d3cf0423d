package main

import (
	"context"
	"io"
	"strings"
	"testing"
)

func TestPingPong(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	thereR, thereW := io.Pipe()
	backR, backW := io.Pipe()
	go func() { _, _ = io.Copy(backW, thereR) }()
	s := &series{}
	ended := make(chan error, 1)
	go func() { ended <- pingPong(ctx, thereW, backR, s) }()
	if err := s.waitFor(ctx, "an echo", 0); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != context.Canceled {
		t.Errorf("it ended with %v", err)
	}
	if at, _ := s.last(); at == 0 {
		t.Error("nothing was noted")
	}
}

func TestPingPongNoticesWhatIsWrong(t *testing.T) {
	for _, answer := range []string{"", "7\n"} {
		if err := pingPong(t.Context(), io.Discard, strings.NewReader(answer), &series{}); err == nil {
			t.Errorf("the answer %q was taken for an echo", answer)
		}
	}
}

func TestParseMemory(t *testing.T) {
	const status = "Name:\tx\nVmHWM:\t 102400 kB\nVmRSS:\t   51200 kB\n"
	for what, want := range map[string]float64{"VmRSS": 50, "VmHWM": 100} {
		if mib, err := parseMemory(status, what); err != nil || mib != want {
			t.Errorf("%s: %v MiB, %v", what, mib, err)
		}
	}
	if _, err := parseMemory("Name:\tx\n", "VmRSS"); err == nil {
		t.Error("a process without memory was accepted")
	}
}
