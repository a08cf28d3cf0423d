// Command vzbench measures vzcluster against floors: the same thing done by hand with plain runc, in the same lab, in
// turns with ours. It owns the benchmarks' lab and everything in it, takes it down whatever happens, and leaves only
// its results.
//
// The one rule for who adds a case: ours and the floor alternate, with the same specification, and nothing is timed
// that the other side does not do as well.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// benchmark is one case of the command line; its name is that of its file of results.
type benchmark struct {
	name string
	set  string
	runs int // or pairs of runs, when -n does not say
	slow bool
	run  func(ctx context.Context, b *bench, runs int) ([]result, error)
}

// The sets of cases.
const (
	general = "general"
	migrate = "migrate"
	planned = "scheduler"
	local   = "runtime"
)

func sets() []string { return []string{general, migrate, planned, local} }

func benchmarks() []benchmark {
	return []benchmark{
		{name: "lab-up", set: general, runs: 3, run: labUp},
		{name: "create-start", set: general, runs: 10, run: createStart},
		{name: "systemd-boot", set: general, runs: 5, run: systemdBoot},
		{name: "blackout-systemd", set: migrate, runs: 30, run: blackoutSystemd},
		{name: "agent-memory", set: general, runs: 1, run: agentMemory},
		{name: "demo", set: general, runs: 1, slow: true, run: demo},
		{name: "one-process", set: migrate, runs: 30, run: oneProcess},
		{name: "gigabyte", set: migrate, runs: 30, run: gigabyte},
		{name: "quick-return", set: migrate, runs: 5, run: quickReturn},
		{name: "connections", set: migrate, runs: 30, run: thousand},
		{name: "layer", set: migrate, runs: 5, run: layer},
		{name: "drain", set: migrate, runs: 5, run: drain},
		{name: "placements", set: planned, runs: 3, run: pinned(placements)},
		{name: "million", set: planned, runs: 1, run: pinned(million)},
		{name: "drain-plan", set: planned, runs: 20, run: pinned(drainPlan)},
		{name: "compact", set: planned, runs: 3, run: pinned(compact)},
		{name: "openb", set: planned, runs: 3, run: pinned(openb)},
		{name: "dlrm", set: planned, runs: 1, run: pinned(dlrm)},
		{name: "durable", set: planned, runs: 3, run: durable},
		{name: "local-start", set: local, runs: 20, run: localStart},
		{name: "local-boot", set: local, runs: 5, run: localBoot},
		{name: "instant", set: local, runs: 20, run: instant},
		{name: "set", set: local, runs: 100, run: set},
		{name: "work", set: local, runs: 20, run: work},
		{name: "idle", set: local, runs: 1, slow: true, run: idle},
		{name: "hundred-systemd", set: local, runs: 1, slow: true, run: hundredSystemd},
		{name: "hundred", set: migrate, runs: 100, run: hundredMoves},
	}
}

type options struct {
	runs   int
	cases  string
	set    string
	limit  time.Duration
	quick  bool
	out    string
	binary string
	traces string
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == insideArg {
		exit(inside(context.Background(), os.Stdin, os.Stdout))
	}
	var o options
	flag.IntVar(&o.runs, "n", 0, "runs, or pairs of runs, of each case (0: each case's own default)")
	flag.StringVar(&o.cases, "case", "", "only these cases, separated by commas: "+strings.Join(names(), ", "))
	flag.StringVar(&o.set, "set", general, "the set of cases when -case names none: "+strings.Join(sets(), ", "))
	flag.DurationVar(&o.limit, "limit", 15*time.Minute, "what a whole run may take")
	flag.BoolVar(&o.quick, "quick", false, "leave out what takes minutes: the demo, a thousand and a hundred containers")
	flag.StringVar(&o.out, "out", filepath.Join("out", "bench"), "folder for results")
	flag.StringVar(&o.traces, "traces", os.Getenv("VZCLUSTER_TRACES"), "folder of the public traces openb and dlrm, as CSV files of vzcluster simulate")
	flag.StringVar(&o.binary, "binary", filepath.Join("bin", "vzcluster"), "the vzcluster that is measured")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	exit(run(o))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "vzbench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func names() []string {
	var all []string
	for _, c := range benchmarks() {
		all = append(all, c.name)
	}
	return all
}

// choose returns the cases that the options ask for, in their own order.
func choose(o options) ([]benchmark, error) {
	if !slices.Contains(sets(), o.set) {
		return nil, fmt.Errorf("there is no set %q; the sets are %s", o.set, strings.Join(sets(), ", "))
	}
	wanted := strings.FieldsFunc(o.cases, func(r rune) bool { return r == ',' || r == ' ' })
	for _, name := range wanted {
		if !slices.Contains(names(), name) {
			return nil, fmt.Errorf("there is no case %q; the cases are %s", name, strings.Join(names(), ", "))
		}
	}
	var chosen []benchmark
	for _, c := range benchmarks() {
		if len(wanted) > 0 && !slices.Contains(wanted, c.name) || len(wanted) == 0 && (c.set != o.set || o.quick && c.slow) {
			continue
		}
		if o.runs > 0 {
			c.runs = o.runs
		}
		chosen = append(chosen, c)
	}
	return chosen, nil
}

// run carries out the cases; one that fails does not keep the others from running.
func run(o options) (err error) {
	chosen, err := choose(o)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("containers and namespaces need root; run it with sudo")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	b, err := newBench(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var failed []error
	for _, c := range chosen {
		if ctx.Err() != nil {
			break
		}
		if err := b.one(ctx, c); err != nil {
			fmt.Fprintf(os.Stderr, "%s failed: %v\n", c.name, err)
			failed = append(failed, fmt.Errorf("%s: %w", c.name, err))
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d cases failed: %w", len(failed), len(chosen), errors.Join(failed...))
	}
	return context.Cause(ctx)
}

// one carries out a case, prints its table and writes its results.
func (b *bench) one(ctx context.Context, c benchmark) error {
	b.say("%s: %d runs", c.name, c.runs)
	begin := time.Now()
	rs, err := c.run(ctx, b, c.runs)
	if err != nil {
		return err
	}
	b.say("%s took %.1f s", c.name, time.Since(begin).Seconds())
	if err := writeTable(os.Stdout, rs); err != nil {
		return err
	}
	fmt.Println()
	return save(b.options.out, c.name, rs)
}
