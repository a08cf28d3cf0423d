package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

// changing makes the action of a command that changes one container.
func (e *env) changing(least, most int, request func(c *cli.Context) (api.SetRequest, error)) cli.ActionFunc {
	return e.with(least, most, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
		r, err := request(c)
		if err != nil {
			return err
		}
		ct, err := cl.Set(ctx, c.Args().First(), r)
		if err != nil {
			return err
		}
		return e.showContainer(c, ct)
	})
}

func renameCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "rename", Usage: "give a container another name", ArgsUsage: "CT NAME",
		Description: "Example: vzcluster rename web www. The host name inside stays; set --hostname changes it.",
		Action: e.changing(2, 2, func(c *cli.Context) (api.SetRequest, error) {
			name := c.Args().Get(1)
			return api.SetRequest{Name: &name}, nil
		}),
	}
}

func describeCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "describe", Usage: "say what a container is good for", ArgsUsage: "CT TEXT",
		Description: "Example: vzcluster describe web \"the shop, asks before restarting\". An empty text takes it away.",
		Action: e.changing(2, 2, func(c *cli.Context) (api.SetRequest, error) {
			text := c.Args().Get(1)
			return api.SetRequest{Text: &text}, nil
		}),
	}
}

func labelCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "label", Usage: "set labels of a container", ArgsUsage: "CT K=V...",
		Description: "Example: vzcluster label web tier=front zone=; K= takes a label away.",
		Action: e.changing(2, -1, func(c *cli.Context) (api.SetRequest, error) {
			labels, err := parseLabels(c.Args().Slice()[1:])
			if err != nil {
				return api.SetRequest{}, usagef(c, "%v", err)
			}
			return api.SetRequest{Labels: labels}, nil
		}),
	}
}
