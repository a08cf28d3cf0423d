package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler/simulate"
)

func simulateCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "simulate", Usage: "run the scheduler on files of hosts and containers", ArgsUsage: " ",
		Description: "place puts the containers on hosts in the file's order; replay follows their arrivals and departures; consolidate empties\n" +
			"hosts, from the column host or from --placement, which is then read and not written. Nothing is changed but the files\n" +
			"that --moves and --placement name. The format of the files is in docs/scheduler.md.\n" +
			"Example: vzcluster simulate --hosts H.csv --containers C.csv --policy pack --placement P.csv",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "hosts", Usage: "`FILE` of hosts: name,cpu_milli,memory_mib[,disk_mib][,zone]", Required: true},
			&cli.StringFlag{Name: "containers", Usage: "`FILE` of containers: name,cpu_milli,memory_mib[,disk_mib][,group][,max_per_host][,host][,arrive_s][,depart_s]", Required: true},
			&cli.StringFlag{Name: "plan", Usage: "`WHAT` to do: " + strings.Join(simulate.Plans(), ", "), Value: simulate.Place},
			&cli.StringFlag{Name: "policy", Usage: "`HOW` to choose between hosts: spread, pack or balanced", Value: string(cluster.Pack)},
			&cli.Uint64Flag{Name: "seed", Usage: "`N` that decides between hosts that are alike; 0: their names"},
			&cli.IntFlag{Name: "max-moves", Usage: "at most `N` migrations; 0: any number that the plan needs"},
			&cli.Float64Flag{Name: "moves-per-arrival", Usage: "replay: migrations that each arrival allows, as a `FRACTION`; 0: none"},
			&cli.StringFlag{Name: "moves", Usage: "write the migrations to `FILE`: step,container,from,to"},
			&cli.StringFlag{Name: "placement", Usage: "write container,host to `FILE`; consolidate reads it, if there is no column host"},
		},
		Action: func(c *cli.Context) error {
			if err := countArgs(c, 0, 0); err != nil {
				return err
			}
			r, err := e.simulate(c)
			if err != nil {
				return err
			}
			if err := e.show(c, r, simulated(r)); err != nil {
				return err
			}
			if r.Unplaced > 0 {
				return exitCode(api.CodeNoFit.Exit())
			}
			return nil
		},
	}
}

// simulate reads the files, runs, and writes what was asked for: nothing before everything has succeeded.
func (e *env) simulate(c *cli.Context) (*simulate.Result, error) {
	o := simulate.Options{
		Plan: c.String("plan"), Policy: cluster.Placement(c.String("policy")), Seed: c.Uint64("seed"),
		MaxMoves: c.Int("max-moves"), MovesPerArrival: c.Float64("moves-per-arrival"),
	}
	switch {
	case !slices.Contains(simulate.Plans(), o.Plan):
		return nil, usagef(c, "plan: %q is none of %s", o.Plan, strings.Join(simulate.Plans(), ", "))
	case !slices.Contains(cluster.Placements(), o.Policy):
		return nil, usagef(c, "policy: %q is none of spread, pack, balanced", o.Policy)
	case o.MaxMoves < 0 || o.MovesPerArrival < 0 || math.IsNaN(o.MovesPerArrival) || math.IsInf(o.MovesPerArrival, 0):
		return nil, usagef(c, "max-moves and moves-per-arrival cannot be negative or endless")
	}
	hosts, err := readFile(c.String("hosts"), simulate.ReadHosts)
	if err != nil {
		return nil, err
	}
	containers, err := readFile(c.String("containers"), simulate.ReadContainers)
	if err != nil {
		return nil, err
	}
	start := o.Plan == simulate.Consolidate && c.IsSet("placement")
	if start {
		_, err := readFile(c.String("placement"), func(name string, r io.Reader) (struct{}, error) {
			return struct{}{}, simulate.ReadPlacement(name, r, hosts, containers)
		})
		if err != nil {
			return nil, err
		}
	}
	r, err := simulate.Run(hosts, containers, o)
	if err != nil {
		return nil, badInput(err)
	}
	if err := writeFile(c.String("moves"), r.WriteMoves); err != nil || start {
		return r, err
	}
	return r, writeFile(c.String("placement"), r.WritePlacement)
}

// badInput makes what is wrong with the files an error of usage.
func badInput(err error) error {
	if errors.Is(err, cluster.ErrInvalid) {
		return api.Errorf(api.CodeUsage, "", "%v", err)
	}
	return err
}

func readFile[T any](name string, read func(string, io.Reader) (T, error)) (T, error) {
	var none T
	f, err := os.Open(name)
	if err != nil {
		return none, api.Errorf(api.CodeUsage, "", "%v", err)
	}
	defer f.Close()
	v, err := read(name, f)
	return v, badInput(err)
}

// writeFile writes a whole file or none; no name writes nothing.
func writeFile(name string, write func(io.Writer) error) error {
	if name == "" {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	err = errors.Join(write(f), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// simulated shows the figures to people.
func simulated(r *simulate.Result) view {
	row := func(name, value string) []string { return []string{name, value} }
	return view{head: []string{"FIGURE", "VALUE"}, names: []string{strconv.Itoa(r.HostsUsed)}, rows: [][]string{
		row("hosts used", strconv.Itoa(r.HostsUsed)), row("placed", strconv.Itoa(r.Placed)), row("unplaced", strconv.Itoa(r.Unplaced)),
		row("moves", strconv.Itoa(r.Moves)), row("host seconds", strconv.FormatInt(r.HostSeconds, 10)),
		row("lower bound", strconv.FormatInt(r.LowerBound, 10)), row("seconds", fmt.Sprintf("%.3f", r.Seconds)),
		row("placements/s", fmt.Sprintf("%.0f", r.PerSecond)),
	}}
}
