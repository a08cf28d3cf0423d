package main

import (
	"context"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPinnedRunsOnOneCoreAndPutsBack(t *testing.T) {
	cores := func() (n int) {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			t.Fatal(err)
		}
		return set.Count()
	}
	before, procs := cores(), runtime.GOMAXPROCS(0)
	_, err := pinned(func(context.Context, *bench, int) ([]result, error) {
		seen := make(chan int)
		go func() { runtime.LockOSThread(); seen <- cores() }()
		if n := <-seen; n != 1 || runtime.GOMAXPROCS(0) != 1 {
			t.Errorf("%d cores, GOMAXPROCS %d", n, runtime.GOMAXPROCS(0))
		}
		return nil, nil
	})(context.Background(), nil, 1)
	if err != nil || cores() != before || runtime.GOMAXPROCS(0) != procs {
		t.Errorf("afterwards %d cores of %d, GOMAXPROCS %d of %d: %v", cores(), before, runtime.GOMAXPROCS(0), procs, err)
	}
}
