package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

func lsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "ls", Aliases: []string{"list", "ps"}, Usage: "list containers, all or those that are named", ArgsUsage: "[CT...]",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print CTIDs only"}},
		Action: e.with(0, -1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			cs, err := cl.Containers(ctx)
			if err != nil {
				return err
			}
			if names := c.Args().Slice(); len(names) > 0 {
				if cs, err = pick(cs, names); err != nil {
					return err
				}
			}
			if c.Bool("quiet") {
				for _, ct := range cs {
					fmt.Fprintln(e.stdout, ct.ID)
				}
				return nil
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
