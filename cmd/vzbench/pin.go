package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// pinned has a case run on one core: all threads of this program are bound to one of those it may use, and Go runs one
// goroutine at a time. Both are put back afterwards.
func pinned(run func(context.Context, *bench, int) ([]result, error)) func(context.Context, *bench, int) ([]result, error) {
	return func(ctx context.Context, b *bench, runs int) ([]result, error) {
		var before, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &before); err != nil {
			return nil, fmt.Errorf("ask for the cores of this program: %w", err)
		}
		for cpu := 0; one.Count() == 0; cpu++ {
			if before.IsSet(cpu) {
				one.Set(cpu)
			}
		}
		if err := bind(&one); err != nil {
			return nil, err
		}
		procs := runtime.GOMAXPROCS(1)
		rs, err := run(ctx, b, runs)
		runtime.GOMAXPROCS(procs)
		if back := bind(&before); err == nil {
			err = back
		}
		return rs, err
	}
}

// bind binds every thread of this program to some cores; threads that are made later inherit it.
func bind(cores *unix.CPUSet) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list the threads of this program: %w", err)
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.SchedSetaffinity(id, cores); err != nil && err != unix.ESRCH {
			return fmt.Errorf("bind thread %d to a core: %w", id, err)
		}
	}
	return nil
}
