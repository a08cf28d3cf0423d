package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func planCommand(e *env) *cli.Command {
	act := func(verb, usage, more string) *cli.Command {
		return &cli.Command{
			Name: verb, Usage: usage, ArgsUsage: "ID", Description: more,
			Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
				op, err := cl.ActOnPlan(ctx, c.Args().First(), verb)
				if err != nil {
					return err
				}
				return e.show(c, op, operationRecord(api.Operation{Operation: op}))
			}),
		}
	}
	return &cli.Command{
		Name: "plan", Usage: "plans that wait for approval, are carried out, or have been",
		Description: "A plan comes from `host drain`, `rebalance`, `consolidate` or `maintain`; with --save it waits here:\n\n" +
			"   vzcluster consolidate --save\n   vzcluster plan ls\n   vzcluster plan approve 3f9c0a7be112",
		Subcommands: []*cli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "list plans by their start",
				Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					ops, err := cl.Operations(ctx)
					if err != nil {
						return err
					}
					plans := []cluster.Operation{}
					for _, op := range ops {
						if op.IsPlan() {
							plans = append(plans, op)
						}
					}
					return e.show(c, plans, operationView(plans))
				}),
			},
			{
				Name: "show", Usage: "show a plan with its moves and their reasons", ArgsUsage: "ID",
				Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					op, err := cl.Watch(ctx, c.Args().First(), 0)
					if err != nil {
						return err
					}
					return e.show(c, op, operationRecord(op))
				}),
			},
			{Name: "watch", Usage: "show how far a plan is, until it has ended", ArgsUsage: "ID", Action: e.with(1, 1, e.watch)},
			act("approve", "have a saved plan carried out", "Each move is checked again when it begins; one that makes no sense any more is withdrawn, with the reason."),
			act("reject", "throw a saved plan away", ""),
			act("pause", "begin no further move; those under way are finished", ""),
			act("resume", "go on with a plan that was paused", ""),
			act("stop", "end a plan half-way", "The moves that are under way are finished, the others are withdrawn."),
		},
	}
}

func rebalanceCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "rebalance", Usage: "even out how full hosts are by live migration", ArgsUsage: " ",
		Description: "Containers go from the fullest hosts to the emptiest, as few as possible, until hosts differ by no more than --imbalance\n" +
			"points. A host that has just joined is filled so:\n\n   vzcluster rebalance --dry-run",
		Flags: append(planFlags(), &cli.IntFlag{Name: "imbalance", Value: 10, Usage: "hosts may differ by `POINTS` of a hundred"}),
		Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			points := c.Int("imbalance")
			if points < 1 || points > 100 {
				return usagef(c, "imbalance: hosts cannot differ by %d points of a hundred, write a number from 1 to 100", points)
			}
			return e.carryOut(ctx, c, planned{
				cl: cl, what: "rebalancing", nothing: "hosts are full alike",
				start: func(dry bool) (cluster.Operation, error) {
					r := planRequest(c, dry)
					r.Imbalance = points
					return cl.Rebalance(ctx, r)
				},
			})
		}),
	}
}

func maintainCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "maintain", Usage: "drain hosts one after the other, run a hook on each, and fill it again", ArgsUsage: "[HOST...]",
		Description: "The hook is a program in the host's hooks_dir; it may reboot the host, whose return is waited for. Without a hook the plan\n" +
			"pauses when a host is empty, and `vzcluster plan resume` goes on. Without HOST all hosts have their turn:\n\n" +
			"   vzcluster maintain host2 host3 --hook upgrade",
		Flags: append(planFlags(), &cli.StringFlag{Name: "hook", Usage: "run `NAME` of hooks_dir on each host while it is empty, as NAME maintain HOST"}),
		Action: e.with(0, -1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			return e.carryOut(ctx, c, planned{
				cl: cl, what: "maintenance", nothing: "there is nothing to maintain",
				start: func(dry bool) (cluster.Operation, error) {
					r := planRequest(c, dry)
					r.Hosts, r.Hook = c.Args().Slice(), c.String("hook")
					return cl.Maintain(ctx, r)
				},
			})
		}),
	}
}

// planRequest reads the flags that all plans have.
func planRequest(c *cli.Context, dry bool) api.PlanRequest {
	return api.PlanRequest{DryRun: dry, Save: c.Bool("save"), Partial: c.Bool("partial"), Offline: c.Bool("offline"), Parallel: c.Int("parallel")}
}

// saved tells what to do with a plan that waits for approval.
func (e *env) saved(c *cli.Context, op cluster.Operation) error {
	e.progress("plan %s is saved: `vzcluster plan show %s` shows it, `vzcluster plan approve %s` has it carried out", op.ID, op.ID, op.ID)
	v := planView(op)
	if c.Bool("explain") {
		v = explained(op)
	}
	return e.show(c, op, v)
}

// roundText says how far a maintenance is.
func roundText(o cluster.Operation) string {
	if o.Round == nil {
		return ""
	}
	return fmt.Sprintf("%s, %d of %s: %s", o.Round.Hosts[o.Round.Turn], o.Round.Turn+1, number(len(o.Round.Hosts), "host"), o.Round.Stage)
}
