package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vzcluster/vzcluster/agent/lab"
)

// Goals of the whole, in seconds.
const (
	goalLabUp = 5.0
	goalDemo  = 120.0
)

// labUp: a lab of three hosts with its cluster, from nothing.
func labUp(ctx context.Context, b *bench, runs int) ([]result, error) {
	const name = labName + "-up"
	var took []float64
	for range runs {
		if err := down(name); err != nil {
			return nil, err
		}
		begin := time.Now()
		l, err := lab.Up(ctx, lab.Options{Name: name, Hosts: 3, Binary: b.options.binary})
		if err != nil {
			return nil, err // Up leaves nothing when it fails
		}
		took = append(took, time.Since(begin).Seconds())
		b.say("lab-up: %.2f s", took[len(took)-1])
		if err := down(l.Name()); err != nil {
			return nil, err
		}
	}
	return []result{absolute("lab-up", "s", took, goalLabUp)}, nil
}

// demo: the whole story, after the set-up. What it prints goes to a file beside the results.
func demo(ctx context.Context, b *bench, runs int) ([]result, error) {
	if err := os.MkdirAll(b.options.out, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for results: %w", err)
	}
	log, err := os.Create(filepath.Join(b.options.out, "demo.log"))
	if err != nil {
		return nil, fmt.Errorf("keep what the demo prints: %w", err)
	}
	defer log.Close()
	var took []float64
	for range runs {
		begin := time.Now()
		cmd := exec.CommandContext(ctx, b.options.binary, "demo")
		cmd.Stdout, cmd.Stderr = log, log
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it takes its lab down
		cmd.WaitDelay = 30 * time.Second
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("the demo failed, see %s: %w", log.Name(), err)
		}
		took = append(took, time.Since(begin).Seconds())
	}
	return []result{absolute("demo", "s", took, goalDemo)}, nil
}
