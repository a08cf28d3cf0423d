package criu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What waits is used once, and ended when nobody uses it.
func TestReady(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "criu")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\ncat <&3 >/dev/null\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, images := &Criu{Binary: binary}, t.TempDir()
	running := func(pid string) bool {
		_, err := os.Stat("/proc/" + strings.TrimSpace(pid))
		return err == nil
	}
	begin := func() string {
		t.Helper()
		if err := c.Ready(images); err != nil {
			t.Fatal(err)
		}
		pid, err := os.ReadFile(filepath.Join(images, pidFile))
		if err != nil || !running(string(pid)) {
			t.Fatalf("process %q does not wait: %v", pid, err)
		}
		return string(pid)
	}
	first := begin()
	s, err := c.startFor(images)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if now, err := os.ReadFile(filepath.Join(images, pidFile)); err != nil || string(now) != first {
		t.Errorf("process %s is used in place of %s, %v", now, first, err)
	}
	if c.take(images) != nil {
		t.Error("it can be taken a second time")
	}
	second := begin()
	if err := c.Settle(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	if running(second) {
		t.Error("a process that nobody used was not ended")
	}
}
