package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler"
	"github.com/vzcluster/vzcluster/scheduler/simulate"
)

// Goals of the scheduler. Rates are reported as the time of one placement.
const (
	goalPlace    = 123.0  // us: 8,100 a second
	goalEven     = 1.25   // time of the last tenth over the first: flat is at least 0.8 of the rate, with room for the noise of a shared core
	goalMillion  = 250.0  // us: 4,000 a second
	goalRecords  = 4096.0 // MiB
	goalDurable  = 266.0  // us: 3,750 a second
	goalSingle   = 100.0  // ms, p99
	goalPlan     = 50.0   // ms
	goalOpenb    = 897.0  // hosts
	goalFewer    = 890.0  // hosts
	goalReplay   = 1.025  // over the lower bound
	goalMigrated = 1.01
	goalCompact  = 1.02
	goalMoves    = 1.05 // over the containers that stood on freed hosts
)

const gib = 1 << 30

// zoned makes hosts of three sizes in ten zones.
func zoned(n int) []*cluster.Host {
	sizes := []cluster.Resources{
		{MilliCPU: 32_000, RAM: 128 * gib, Disk: 2000 * gib}, {MilliCPU: 64_000, RAM: 256 * gib, Disk: 4000 * gib}, {MilliCPU: 96_000, RAM: 384 * gib, Disk: 4000 * gib},
	}
	hosts := make([]*cluster.Host, n)
	for i := range hosts {
		hosts[i] = &cluster.Host{
			Name: fmt.Sprintf("host%d", i), State: cluster.HostActive, Capacity: sizes[i%len(sizes)], Labels: map[string]string{cluster.ZoneLabel: fmt.Sprintf("z%d", i%10)},
		}
	}
	return hosts
}

// shape makes a container of a size that services have; a third has a rule: a zone, or at most one of its group on a
// host.
func shape(r *rand.Rand, i int) scheduler.Item {
	cores := []int64{1, 1, 2, 2, 4, 4, 8}[r.IntN(7)]
	it := scheduler.Item{Need: cluster.Resources{MilliCPU: cores * 1000, RAM: cores * int64(2+r.IntN(3)) * gib, Disk: 10 * gib, Containers: 1}}
	switch i % 6 {
	case 0:
		it.Rules = &cluster.Rules{Constraints: []cluster.Constraint{{Key: cluster.ZoneLabel, Op: cluster.OpIn, Values: []string{fmt.Sprintf("z%d", r.IntN(10))}}}}
	case 1:
		it.Rules = &cluster.Rules{Group: fmt.Sprintf("g%d", i/600), MaxPerHost: 1}
	}
	return it
}

// fill places containers until there are n or no more fit, and returns what a placement took in each tenth, in us.
func fill(hosts []*cluster.Host, n int, item func(*rand.Rand, int) scheduler.Item, seed uint64) (tenths []float64, unplaced int) {
	r := rand.New(rand.NewPCG(seed, 1))
	b := scheduler.NewBoard(hosts, cluster.Policy{Placement: cluster.Spread}, seed)
	for range 10 {
		begin := time.Now()
		for range n / 10 {
			i := b.Add(item(r, len(tenths)*n/10))
			if h := b.Choose(i, nil); h >= 0 {
				b.Put(i, h)
			} else {
				unplaced++
			}
		}
		tenths = append(tenths, float64(time.Since(begin).Microseconds())/float64(n/10))
	}
	return tenths, unplaced
}

// placements: 5,000 hosts, 50,000 containers, a third with a rule.
func placements(_ context.Context, b *bench, runs int) ([]result, error) {
	var each, flat []float64
	for run := range runs {
		count := 0
		tenths, unplaced := fill(zoned(5000), 50_000, func(r *rand.Rand, _ int) scheduler.Item { count++; return shape(r, count) }, uint64(run))
		if unplaced > 0 {
			return nil, fmt.Errorf("%d of 50,000 containers had no room", unplaced)
		}
		each, flat = append(each, mean(tenths)), append(flat, tenths[9]/tenths[0])
		b.say("placements: %.1f us each, the last tenth %.2f of the first", each[run], flat[run])
	}
	return []result{absolute("placement, 5,000 hosts", "us", each, goalPlace), absolute("last tenth over first", "x", flat, goalEven)}, nil
}

// million: 10,000 hosts and 1,000,000 small containers.
func million(_ context.Context, b *bench, runs int) ([]result, error) {
	var each, memory []float64
	for run := range runs {
		small := func(*rand.Rand, int) scheduler.Item {
			return scheduler.Item{Need: cluster.Resources{MilliCPU: 250, RAM: gib / 2, Disk: gib, Containers: 1}}
		}
		tenths, unplaced := fill(zoned(10_000), 1_000_000, small, uint64(run))
		if unplaced > 0 {
			return nil, fmt.Errorf("%d of 1,000,000 containers had no room", unplaced)
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		each, memory = append(each, mean(tenths)), append(memory, float64(m.Sys)/(1<<20))
		b.say("million: %.1f us each, %.0f MiB", each[run], memory[run])
	}
	return []result{absolute("placement, 1,000,000 containers", "us", each, goalMillion), absolute("their memory", "MiB", memory, goalRecords)}, nil
}

// drainPlan: one host of a hundred with fifty containers, every loss of a host survived before and after.
func drainPlan(_ context.Context, b *bench, runs int) ([]result, error) {
	var snap scheduler.Snapshot
	snap.Policy.Survive = true
	for i := range 100 {
		snap.Hosts = append(snap.Hosts, scheduler.HostView{
			Name: fmt.Sprintf("host%02d", i), State: cluster.HostActive, Alive: true,
			Capacity: snap.Policy.Offer(&cluster.Host{Capacity: cluster.Resources{MilliCPU: 64_000, RAM: 256 * gib, Disk: 4000 * gib}}),
		})
		for range 50 {
			c := cluster.Container{
				ID: 101 + len(snap.Containers), Name: fmt.Sprintf("ct%d", len(snap.Containers)), Host: snap.Hosts[i].Name, State: cluster.Running, Desired: cluster.WantRunning,
				Limits: cluster.Limits{RAM: 2 * gib, MilliCPU: 500, Disk: 10 * gib},
			}
			snap.Containers = append(snap.Containers, c)
			snap.Hosts[i].Reserved = snap.Hosts[i].Reserved.Add(c.Need())
		}
	}
	var took []float64
	for run := range runs {
		begin := time.Now()
		plan := scheduler.Drain(snap, fmt.Sprintf("host%02d", run%100))
		took = append(took, ms(time.Since(begin)))
		if len(plan.Moves) != 50 || len(plan.Unplaced) > 0 {
			return nil, fmt.Errorf("the drain is %d moves: %s", len(plan.Moves), plan.Why)
		}
	}
	b.say("drain-plan: %.1f ms", median(took))
	return []result{absolute("plan of a drain, 100 hosts", "ms", took, goalPlan)}, nil
}

// compact: a thousand hosts that are 40 % full at random.
func compact(_ context.Context, b *bench, runs int) ([]result, error) {
	var over, took, moved []float64
	for run := range runs {
		r := rand.New(rand.NewPCG(uint64(run), 7))
		hosts := make([]*cluster.Host, 1000)
		var all []simulate.Container
		for i := range hosts {
			hosts[i] = &cluster.Host{Name: fmt.Sprintf("host%d", i), State: cluster.HostActive, Capacity: cluster.Resources{MilliCPU: 64_000, RAM: 256 * gib, Disk: 1000 * gib}}
			for cpu := int64(0); cpu < 25_600; {
				cores := int64(1 + r.IntN(8))
				cpu += cores * 1000
				need := cluster.Resources{MilliCPU: cores * 1000, RAM: cores * int64(2+r.IntN(3)) * gib, Containers: 1}
				all = append(all, simulate.Container{Name: fmt.Sprintf("ct%d", len(all)), Need: need, Host: hosts[i].Name})
			}
		}
		res, err := checked(hosts, all, simulate.Options{Plan: simulate.Consolidate, Policy: cluster.Pack, Seed: uint64(run)})
		if err != nil {
			return nil, err
		}
		moved = append(moved, overFreed(all, res))
		over, took = append(over, float64(res.HostsUsed)/float64(res.LowerBound)), append(took, res.Seconds)
		b.say("compact: %d hosts of at least %d, %d moves, %.2f s", res.HostsUsed, res.LowerBound, res.Moves, res.Seconds)
	}
	return []result{absolute("hosts over the bound", "x", over, goalCompact), absolute("its plan", "s", took, 10), absolute("its moves over those on freed hosts", "x", moved, goalMoves)}, nil
}

// checked simulates, and has every step of the result checked.
func checked(hosts []*cluster.Host, all []simulate.Container, o simulate.Options) (*simulate.Result, error) {
	res, err := simulate.Run(hosts, all, o)
	if err == nil {
		err = simulate.Verify(hosts, all, o, res)
	}
	return res, err
}

// overFreed is the number of moves over that of the containers that stood on hosts which are empty now.
func overFreed(all []simulate.Container, res *simulate.Result) float64 {
	used, stood := map[string]bool{}, 0
	for _, p := range res.Placement {
		used[p.Host] = true
	}
	for _, c := range all {
		if c.Host != "" && !used[c.Host] {
			stood++
		}
	}
	return float64(res.Moves) / float64(max(stood, 1))
}

// traced runs the simulator on the files of a public trace, each time from where the time before ended; without the
// folder the case says so. It returns the moves of the last one, over the containers that stood on freed hosts, too.
func (b *bench) traced(name string, o simulate.Options, then ...simulate.Options) (rs []*simulate.Result, over float64, err error) {
	if b.options.traces == "" {
		return nil, 0, errors.New("it needs -traces with a folder of openb-hosts.csv, openb-containers.csv, dlrm-hosts.csv and dlrm-containers.csv")
	}
	hostsFile, err := os.Open(filepath.Join(b.options.traces, name+"-hosts.csv"))
	if err != nil {
		return nil, 0, err
	}
	defer hostsFile.Close()
	hosts, err := simulate.ReadHosts(hostsFile.Name(), hostsFile)
	if err != nil {
		return nil, 0, err
	}
	containersFile, err := os.Open(filepath.Join(b.options.traces, name+"-containers.csv"))
	if err != nil {
		return nil, 0, err
	}
	defer containersFile.Close()
	all, err := simulate.ReadContainers(containersFile.Name(), containersFile)
	if err != nil {
		return nil, 0, err
	}
	for _, o := range append([]simulate.Options{o}, then...) {
		res, err := checked(hosts, all, o)
		if err != nil {
			return nil, 0, err
		}
		rs, over = append(rs, res), overFreed(all, res)
		for i, p := range res.Placement {
			all[i].Host = p.Host
		}
	}
	return rs, over, nil
}

// openb: hosts that are used when the trace is placed in its order, and after a consolidation from there.
func openb(_ context.Context, b *bench, runs int) ([]result, error) {
	var placed, fewer, moved []float64
	for seed := range runs {
		o := simulate.Options{Plan: simulate.Place, Policy: cluster.Pack, Seed: uint64(seed)}
		again := o
		again.Plan = simulate.Consolidate
		rs, over, err := b.traced("openb", o, again)
		if err != nil {
			return nil, err
		}
		res, after := rs[0], rs[1]
		placed, fewer, moved = append(placed, float64(res.HostsUsed+res.Unplaced)), append(fewer, float64(after.HostsUsed)), append(moved, over)
		b.say("openb, seed %d: %d hosts, %d after %d moves (bound %d)", seed, res.HostsUsed, after.HostsUsed, after.Moves, res.LowerBound)
	}
	return []result{
		absolute("openb, placed", "hosts", placed, goalOpenb), absolute("openb, consolidated", "hosts", fewer, goalFewer),
		absolute("its moves over those on freed hosts", "x", moved, goalMoves),
	}, nil
}

// dlrm: host-seconds over the lower bound, without and with migrations.
func dlrm(_ context.Context, b *bench, runs int) ([]result, error) {
	var without, with []float64
	for seed := range runs {
		for _, c := range []struct {
			moves float64
			to    *[]float64
		}{{0, &without}, {1.0 / 3, &with}} {
			rs, _, err := b.traced("dlrm", simulate.Options{Plan: simulate.Replay, Policy: cluster.Pack, Seed: uint64(seed), MovesPerArrival: c.moves})
			if err != nil {
				return nil, err
			}
			*c.to = append(*c.to, float64(rs[0].HostSeconds)/float64(rs[0].LowerBound))
			b.say("dlrm, seed %d, %.2f moves per arrival: %.4f", seed, c.moves, (*c.to)[seed])
		}
	}
	return []result{absolute("dlrm, without migrations", "x", without, goalReplay), absolute("dlrm, a migration per three arrivals", "x", with, goalMigrated)}, nil
}

// durable: records of stopped containers, committed through three voters with fsync, in batches and one by one.
func durable(ctx context.Context, b *bench, runs int) ([]result, error) {
	if err := b.up(ctx); err != nil {
		return nil, err
	}
	if _, err := b.template(ctx, "busybox"); err != nil {
		return nil, err
	}
	ask := func(name string) api.CreateRequest {
		return api.CreateRequest{Name: name, Template: "busybox", IP: "none", Limits: cluster.Limits{RAM: cluster.MinRAM, CPUUnits: 1024}}
	}
	const batch, batchBytes = 1000, 180 // of an item in the log
	var each, single []float64
	for run := range runs {
		var r api.CreateManyRequest
		for i := range batch {
			r.Containers = append(r.Containers, ask(fmt.Sprintf("batch%d-%d", run, i)))
		}
		begin := time.Now()
		if _, err := b.client().CreateMany(ctx, r); err != nil {
			return nil, err
		}
		each = append(each, float64(time.Since(begin).Microseconds())/batch)
		for i := range 100 {
			begin := time.Now()
			if _, err := b.client().Create(ctx, ask(fmt.Sprintf("single%d-%d", run, i))); err != nil {
				return nil, err
			}
			single = append(single, ms(time.Since(begin)))
		}
		b.say("durable: %.0f us each of %d, one by itself %.1f ms (p99 %.1f)", each[run], batch, median(single), percentile(single, 99))
	}
	floor, err := bareVoters(b.dir, batch*batchBytes, 20)
	if err != nil {
		return nil, err
	}
	one, err := bareVoters(b.dir, 600, 100)
	if err != nil {
		return nil, err
	}
	for i := range floor {
		floor[i] *= 1000.0 / batch
	}
	b.say("durable: three bare voters take %.0f us each of %d, %.1f ms for one", median(floor), batch, median(one))
	return []result{
		absolute("durable placement, batches of 1,000", "us", each, goalDurable).beside(floor),
		absolute("p99 of one by itself", "ms", []float64{percentile(single, 99)}, goalSingle).beside([]float64{percentile(one, 99)}),
	}, nil
}

func mean(xs []float64) (m float64) {
	for _, x := range xs {
		m += x / float64(len(xs))
	}
	return m
}
