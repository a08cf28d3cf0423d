package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func operationCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "operation", Aliases: []string{"op"}, Usage: "migrations, drains and consolidations, under way and past",
		Subcommands: []*cli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "list operations by their start",
				Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					ops, err := cl.Operations(ctx)
					if err != nil {
						return err
					}
					return e.show(c, ops, operationView(ops))
				}),
			},
			{
				Name: "show", Usage: "show an operation with its steps or phases", ArgsUsage: "ID",
				Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					op, err := cl.Watch(ctx, c.Args().First(), 0)
					if err != nil {
						return err
					}
					return e.show(c, op, operationRecord(op))
				}),
			},
			{
				Name: "watch", Usage: "show how far an operation is, until it has ended", ArgsUsage: "ID",
				Action: e.with(1, 1, e.watch),
			},
			{
				Name: "log", Usage: "print what CRIU wrote about a migration that failed, on both hosts", ArgsUsage: "ID",
				Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					return cl.OperationLog(ctx, c.Args().First(), e.stdout)
				}),
			},
			{
				Name: "stop", Usage: "stop a drain or a consolidation half-way", ArgsUsage: "ID",
				Description: "The move that is under way is finished, no other one begins.",
				Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					op, err := cl.Stop(ctx, c.Args().First())
					if err != nil {
						return err
					}
					return e.show(c, op, operationRecord(api.Operation{Operation: op}))
				}),
			},
		},
	}
}

func operationRecord(op api.Operation) view {
	o := op.Operation
	text := record("id", o.ID, "kind", string(o.Kind), "status", string(o.Status), "what", about(o), "mode", o.Mode, "part of", o.Parent,
		"stage", stageNow(op), "started", moment(o.Started), "took", took(o), "why", o.Why, "turn", roundText(o), "frees", strings.Join(o.Freed, ", "), "error", o.Error)
	if len(o.Steps) > 0 {
		text += "\n" + explained(o).table() + keptText(o)
	}
	if r := o.Result; r != nil {
		text += fmt.Sprintf("\n%s\n%s", resultView(*r).table(), phaseView(*r).table())
	}
	return view{names: []string{o.ID}, text: text}
}

// stageNow is how far a migration is while it is under way.
func stageNow(op api.Operation) string {
	if op.Final() {
		return ""
	}
	return underWay(op.Progress)
}

func phaseView(r cluster.MoveResult) view {
	v := view{head: []string{"PHASE", "TIME"}}
	for _, p := range r.Phases {
		v.rows = append(v.rows, []string{p.Name, ms(p.MS)})
	}
	return v
}
