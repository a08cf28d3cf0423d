package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// The host that is measured, and what its agent may take.
const (
	memoryContainers = 50
	memorySystemd    = 20
	memorySamples    = 20
	goalMemory       = 64.0 // MiB
	goalProcesses    = 0.0  // of ours, for each container
)

// agentMemory: what the agent of one host takes with many containers there, and how many processes of ours there are
// for them. The host is the leader, whose agent has the most to do.
func agentMemory(ctx context.Context, b *bench, _ int) ([]result, error) {
	if err := b.up(ctx); err != nil {
		return nil, err
	}
	host := b.roles.leader
	for _, template := range []string{"busybox", "debian-12"} {
		if _, err := b.prepare(ctx, host, template); err != nil {
			return nil, err
		}
	}
	pid, err := b.lab.AgentPID(host)
	if err != nil {
		return nil, err
	}
	before, err := processesOf(pid)
	if err != nil {
		return nil, err
	}
	if err := b.fill(ctx, host); err != nil {
		return nil, err
	}
	var samples []float64
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for range memorySamples {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		mib, err := memoryOf(pid, "VmRSS")
		if err != nil {
			return nil, err
		}
		samples = append(samples, mib)
	}
	after, err := processesOf(pid)
	if err != nil {
		return nil, err
	}
	peak, err := memoryOf(pid, "VmHWM")
	if err != nil {
		return nil, err
	}
	b.say("agent-memory: %.1f MiB with %d containers, %.1f MiB at its peak so far", median(samples), memoryContainers, peak)
	each := float64(after-before) / memoryContainers
	return []result{
		absolute("agent-memory", "MiB", samples, goalMemory),
		absolute("processes-per-container", "processes", []float64{each}, goalProcesses),
	}, nil
}

// fill creates the containers and returns when all of them run.
func (b *bench) fill(ctx context.Context, host string) error {
	first := b.nextID + 1
	for i := range memoryContainers {
		template := "busybox"
		if i < memorySystemd {
			template = "debian-12"
		}
		r := b.request(host, template)
		r.Start = true
		if template == "debian-12" {
			r.Limits.RAM = 192 << 20
		}
		if _, err := b.client().Create(ctx, r); err != nil {
			return err
		}
	}
	running := func(c api.Container) bool { return c.ID >= first && c.State == cluster.Running }
	for range 3 { // each wait has its own patience, and twenty systemd boots take theirs
		err := waitUntil(ctx, "the containers to run", time.Second, func() (bool, error) {
			cs, err := b.client().Containers(ctx)
			n := 0
			for _, c := range cs {
				if running(c) {
					n++
				}
			}
			return n == memoryContainers, err
		})
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("not all of %d containers run on %s", memoryContainers, host)
}

// memoryOf is what the kernel says of a process's resident memory, now (VmRSS) or at most so far (VmHWM), in MiB.
func memoryOf(pid int, what string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read what the agent takes: %w", err)
	}
	return parseMemory(string(b), what)
}

func parseMemory(status, what string) (float64, error) {
	for line := range strings.Lines(status) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == what+":" {
			kib, err := strconv.ParseFloat(f[1], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("the kernel does not tell what the agent takes")
}

// processesOf counts the processes that see a host's mounts as its agent does: everything on it but its containers.
func processesOf(agent int) (int, error) {
	mounts, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", agent))
	if err != nil {
		return 0, fmt.Errorf("find the agent's host: %w", err)
	}
	all, err := filepath.Glob("/proc/[0-9]*/ns/mnt")
	if err != nil {
		return 0, err
	}
	n := 0
	for _, link := range all {
		if to, err := os.Readlink(link); err == nil && to == mounts {
			n++
		}
	}
	return n, nil
}
