package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func statsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "stats", Usage: "show what running containers use", ArgsUsage: "[CTID|NAME...]",
		Description: "For example: vzcluster stats --watch web db\nCPU is in percent of one core, over the interval. Hosts that do not answer are left out.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "interval", Value: "1s", Usage: "measure CPU time over `TIME`"},
			&cli.BoolFlag{Name: "watch", Usage: "go on until it is interrupted"},
		},
		Action: e.with(0, -1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			interval, err := flagValue(c, "interval", parseDuration)
			if err != nil {
				return err
			}
			if interval < 100*time.Millisecond {
				return usagef(c, "interval: %s is too short to measure, write 100ms or more", interval)
			}
			before, err := someStats(ctx, cl, c.Args().Slice())
			if err != nil {
				return err
			}
			for {
				if err := e.pause(ctx, interval); err != nil {
					return err
				}
				now, err := someStats(ctx, cl, c.Args().Slice())
				if err != nil {
					return err
				}
				if err := e.show(c, now, statsView(before, now)); err != nil || !c.Bool("watch") {
					return err
				}
				before = now
			}
		}),
	}
}

// someStats measures the containers that are named, or all. One that does not run is an error.
func someStats(ctx context.Context, cl *api.Client, names []string) ([]api.Stats, error) {
	all, err := cl.Stats(ctx)
	if err != nil || len(names) == 0 {
		return all, err
	}
	out := []api.Stats{}
	for _, name := range names {
		i := slices.IndexFunc(all, func(s api.Stats) bool { return s.Name == name || strconv.Itoa(s.ID) == name })
		if i < 0 {
			return nil, api.Errorf(api.CodeNotFound, "see `vzcluster ls`", "no container %s runs on a host that answers", name)
		}
		out = append(out, all[i])
	}
	return out, nil
}

func statsView(before, now []api.Stats) view {
	v := view{head: []string{"CTID", "NAME", "HOST", "CPU %", "CPUS", "RAM", "LIMIT", "PIDS", "OOM KILLS"}}
	for _, s := range now {
		v.names = append(v.names, s.Name)
		v.rows = append(v.rows, []string{
			strconv.Itoa(s.ID), s.Name, s.Host, cpuPercent(before, s), cores(s.MilliCPU), cluster.Bytes(s.RAM), size(s.RAMLimit),
			strconv.FormatInt(s.PIDs, 10), strconv.FormatInt(s.OOMKills, 10),
		})
	}
	return v
}

// cpuPercent is a container's CPU time since it was measured before, of one core; "-" when it was not, or moved meanwhile.
func cpuPercent(before []api.Stats, now api.Stats) string {
	for _, b := range before {
		took := now.At.Sub(b.At)
		if b.ID == now.ID && b.Host == now.Host && took > 0 && now.CPUUsec >= b.CPUUsec {
			return fmt.Sprintf("%.1f", 100*float64(now.CPUUsec-b.CPUUsec)/float64(took.Microseconds()))
		}
	}
	return "-"
}
