package main

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func hostCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "host", Usage: "hosts of the cluster",
		Subcommands: append([]*cli.Command{
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
		}, moreHostCommands(e)...),
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
			return cl.Drain(ctx, host, planRequest(c, dry))
		},
		impossible: func(plan cluster.Operation) error {
			if c.Bool("partial") {
				return nil
			}
			return mustStay(ctx, cl, host, plan)
		},
	})
}

// mustStay refuses a plan that leaves containers on the host, and lists all of them.
func mustStay(ctx context.Context, cl *api.Client, host string, plan cluster.Operation) error {
	cs, err := cl.Containers(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, c := range cs {
		moves := slices.ContainsFunc(plan.Steps, func(m cluster.Move) bool { return m.Container == c.ID })
		if c.Host == host && !moves {
			names = append(names, c.Name)
		}
	}
	switch len(names) {
	case 0:
		return nil
	}
	return api.Errorf(api.CodeNoFit, "", "%s", cmp.Or(plan.Error, host+" cannot be emptied: "+strings.Join(names, ", ")+" must stay"))
}
