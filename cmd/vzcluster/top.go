package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// clearScreen begins a new page on a terminal.
const clearScreen = "\x1b[H\x1b[2J"

func topCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "show the processes of a container and what they use", ArgsUsage: "CT",
		Description: "On a terminal again and again, until ^C. PID is the number on its host, INSIDE in the container; CPU% is of one core, since the last look. " +
			"Example: vzcluster top web --once -o json",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "once", Usage: "only one page; it is so where there is no terminal"},
			&cli.DurationFlag{Name: "delay", Aliases: []string{"d"}, Value: 2 * time.Second, Usage: "`TIME` between two looks"},
		},
		Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			delay := c.Duration("delay")
			if delay <= 0 {
				return usagef(c, "delay: %s is no time to wait", delay)
			}
			before, err := cl.Processes(ctx, c.Args().First())
			if err != nil {
				return err
			}
			began, live := time.Now(), forPeople(c) && isTerminal(e.stdout) && !c.Bool("once")
			if !forPeople(c) {
				return e.show(c, before, topView(before, nil, 0))
			}
			for {
				if err := pause(ctx, delay); err != nil {
					return nil
				}
				now, err := cl.Processes(ctx, c.Args().First())
				if err != nil {
					return err
				}
				if live {
					fmt.Fprint(e.stdout, clearScreen)
				}
				at := time.Now()
				if err := e.show(c, now, topView(now, before, at.Sub(began))); err != nil || !live {
					return err
				}
				before, began = now, at
			}
		}),
	}
}

// topView has who has used most since the last look first.
func topView(now, before []api.Running, took time.Duration) view {
	used := map[int]time.Duration{}
	for _, p := range before {
		used[p.PID] = p.CPU
	}
	share := func(p api.Running) float64 {
		was, known := used[p.PID]
		if !known || took <= 0 || p.CPU < was {
			return 0
		}
		return 100 * float64(p.CPU-was) / float64(took)
	}
	list := slices.Clone(now)
	slices.SortStableFunc(list, func(a, b api.Running) int {
		return cmp.Or(cmp.Compare(share(b), share(a)), cmp.Compare(b.RAM, a.RAM), cmp.Compare(a.Inside, b.Inside))
	})
	v := view{head: []string{"PID", "INSIDE", "S", "CPU%", "TIME", "RAM", "THREADS", "COMMAND"}, most: lineMost}
	for _, p := range list {
		v.names = append(v.names, strconv.Itoa(p.PID))
		v.rows = append(v.rows, []string{
			strconv.Itoa(p.PID), strconv.Itoa(p.Inside), p.State, fmt.Sprintf("%.1f", share(p)), p.CPU.String(),
			cluster.Bytes(p.RAM), strconv.Itoa(p.Threads), p.Command,
		})
	}
	return v
}

func pidCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "pid", Aliases: []string{"which"}, Usage: "say which container of a host a process belongs to", ArgsUsage: "PID",
		Description: "PID is the number on the host whose agent is asked: this one, unless -H names another. Example: vzcluster pid 4711",
		Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			pid, err := strconv.Atoi(c.Args().First())
			if err != nil || pid <= 0 {
				return usagef(c, "%s is not the number of a process", orNothing(c.Args().First()))
			}
			w, err := cl.Which(ctx, pid)
			if err != nil {
				return err
			}
			return e.show(c, w, view{
				head: []string{"PID", "CTID", "NAME", "INSIDE", "COMMAND"}, names: []string{w.Name}, most: lineMost,
				rows: [][]string{{strconv.Itoa(pid), strconv.Itoa(w.Container), w.Name, strconv.Itoa(w.Process.Inside), w.Process.Command}},
			})
		}),
	}
}
