package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

func logsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "logs", Aliases: []string{"console"}, Usage: "show what a container wrote to its console", ArgsUsage: "CT",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on as it writes more"}},
		Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			return cl.Logs(ctx, c.Args().First(), c.Bool("follow"), e.stdout)
		}),
	}
}
