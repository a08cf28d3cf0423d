package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/lab"
	"github.com/vzcluster/vzcluster/cluster"
)

// Goals of many containers on one host.
const (
	idleContainers    = 1000
	idleSystemd       = 100
	goalThousandth    = 1.2   // start of the last ones over that of the first ones
	goalIdleMemory    = 256.0 // KiB of ours each
	goalLs            = 50.0  // ms
	goalIdleCPU       = 2.0   // percent of one CPU
	idleSample        = 20    // so many first and last starts are compared
	idleWatch         = 20 * time.Second
	idleRAM           = 16 << 20
	idleOffered       = 4 << 40 // what the lab's host offers: nobody uses it
	lsRuns            = 20
	userClockTicks    = 100 // per second, what /proc counts in
	idleSystemdMemory = 256 << 20
)

// idle: a thousand containers that do nothing, on one host.
func idle(ctx context.Context, b *bench, _ int) (_ []result, err error) {
	one, away, err := b.alone(ctx, lab.Options{RAM: idleOffered, Disk: idleOffered})
	if err != nil {
		return nil, err
	}
	defer away(&err)
	host := one.roles.owner
	if _, err := one.prepare(ctx, host, "busybox"); err != nil {
		return nil, err
	}
	pid, err := one.lab.AgentPID(host)
	if err != nil {
		return nil, err
	}
	before, err := memoryOf(pid, "VmRSS")
	if err != nil {
		return nil, err
	}
	starts, err := one.many(ctx, "busybox", idleContainers, idleRAM)
	if err != nil {
		return nil, err
	}
	after, err := memoryOf(pid, "VmRSS")
	if err != nil {
		return nil, err
	}
	var lists []float64
	for range lsRuns {
		cmd := exec.CommandContext(ctx, b.options.binary, "ls")
		cmd.Env = append(os.Environ(), "VZCLUSTER_HOST="+one.lab.Endpoint(host))
		begin := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("vzcluster ls: %w: %s", err, out)
		}
		lists = append(lists, ms(time.Since(begin)))
	}
	busy, err := cpuOf(ctx, pid, idleWatch)
	if err != nil {
		return nil, err
	}
	goal := goalThousandth
	return []result{
		compare("thousandth-start", starts[len(starts)-idleSample:], starts[:idleSample], &goal),
		absolute("idle-memory-each", "KiB", []float64{(after - before) * 1024 / idleContainers}, goalIdleMemory),
		absolute("idle-ls", "ms", lists, goalLs),
		absolute("idle-agent-cpu", "%", []float64{busy}, goalIdleCPU),
	}, nil
}

// many starts containers one after the other and returns how long each took, in ms.
func (b *bench) many(ctx context.Context, template string, n int, ram int64) ([]float64, error) {
	var took []float64
	for i := range n {
		r := b.request(b.roles.owner, template)
		r.Start, r.Limits.RAM = true, ram
		begin := time.Now()
		c, err := b.client().Create(ctx, r)
		if err == nil && c.State != cluster.Running {
			err = fmt.Errorf("container %d is %s: %s", c.ID, c.State, c.Detail)
		}
		if err != nil {
			return nil, fmt.Errorf("the start of container %d of %d: %w", i+1, n, err)
		}
		if took = append(took, ms(time.Since(begin))); i%100 == 99 {
			b.say("%d containers, the last took %.0f ms", i+1, last(took))
		}
	}
	return took, nil
}

// cpuOf is how much of one CPU a process uses, in percent.
func cpuOf(ctx context.Context, pid int, during time.Duration) (float64, error) {
	before, err := ticksOf(pid)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(during):
	}
	after, err := ticksOf(pid)
	return (after - before) / userClockTicks / time.Since(begin).Seconds() * 100, err
}

// ticksOf is the CPU time of a process.
func ticksOf(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read what a process uses: %w", err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is cut off", pid)
	}
	user, err1 := strconv.ParseFloat(f[11], 64)
	system, err2 := strconv.ParseFloat(f[12], 64)
	return user + system, errors.Join(err1, err2)
}

// hundredSystemd: a hundred containers with systemd boot on one host, all of them until systemd has started everything.
func hundredSystemd(ctx context.Context, b *bench, _ int) (_ []result, err error) {
	one, away, err := b.alone(ctx, lab.Options{RAM: idleOffered, Disk: idleOffered})
	if err != nil {
		return nil, err
	}
	defer away(&err)
	if _, err := one.prepare(ctx, one.roles.owner, "debian-12"); err != nil {
		return nil, err
	}
	first := one.nextID + 1
	if _, err := one.many(ctx, "debian-12", idleSystemd, idleSystemdMemory); err != nil {
		return nil, err
	}
	missing := 0
	for id := first; id <= one.nextID; id++ {
		if err := settled(ctx, one.runner(id)); err != nil {
			b.say("container %d: %v", id, err)
			missing++
		}
	}
	return []result{absolute("hundred-systemd-failed", fmt.Sprintf("of %d", idleSystemd), []float64{float64(missing)}, 0)}, nil
}
