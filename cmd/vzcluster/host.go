package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func hostCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "host", Usage: "hosts of the cluster",
		Subcommands: []*cli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "list hosts with what is reserved of them",
				Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					hs, err := cl.Hosts(ctx)
					if err != nil {
						return err
					}
					return e.show(c, hs, hostView(hs))
				}),
			},
			{
				Name: "cordon", Usage: "let a host keep what it has and take nothing new", ArgsUsage: "HOST",
				Action: e.with(1, 1, e.hostState(cluster.HostCordoned)),
			},
			{
				Name: "activate", Usage: "let a host take containers again", ArgsUsage: "HOST",
				Action: e.with(1, 1, e.hostState(cluster.HostActive)),
			},
			{
				Name: "drain", Usage: "move everything off a host by live migration", ArgsUsage: "HOST",
				Description: "The plan is shown first. The host stays cordoned afterwards; `host activate` takes that back.",
				Flags:       planFlags(),
				Action:      e.with(1, 1, e.drain),
			},
		},
	}
}

func (e *env) hostState(state cluster.HostState) action {
	return func(ctx context.Context, c *cli.Context, cl *api.Client) error {
		h, err := cl.SetHostState(ctx, c.Args().First(), state)
		if err != nil {
			return err
		}
		return e.show(c, h, hostView([]api.Host{h}))
	}
}

func (e *env) drain(ctx context.Context, c *cli.Context, cl *api.Client) error {
	host := c.Args().First()
	return e.carryOut(ctx, c, planned{
		cl: cl, what: "draining " + host, nothing: host + " has nothing to move",
		start: func(dry bool) (cluster.Operation, error) {
			return cl.Drain(ctx, host, api.PlanRequest{DryRun: dry})
		},
	})
}
