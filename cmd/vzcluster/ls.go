package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

func lsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "ls", Aliases: []string{"list", "ps"}, Usage: "list containers",
		Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			cs, err := cl.Containers(ctx)
			if err != nil {
				return err
			}
			return e.show(c, cs, containerView(cs))
		}),
	}
}

func showCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "show everything about a container", ArgsUsage: "CT",
		Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			ct, err := cl.Container(ctx, c.Args().First())
			if err != nil {
				return err
			}
			return e.show(c, ct, containerRecord(ct))
		}),
	}
}
