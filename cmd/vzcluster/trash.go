package main

import (
	"context"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

func trashCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "trash", Usage: "containers that were destroyed and can be brought back",
		Subcommands: []*cli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "list what was destroyed",
				Description: "Example: vzcluster trash ls",
				Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					cs, err := cl.Trash(ctx)
					if err != nil {
						return err
					}
					return e.show(c, cs, trashView(cs))
				}),
			},
			restoreSubcommand(e, "restore"),
			{
				Name: "empty", Usage: "delete for good what was destroyed, all of it or some", ArgsUsage: "[CTID...]",
				Flags:       []cli.Flag{&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"}, timeoutFlag()},
				Description: "Example: vzcluster trash empty -y 105",
				Action:      e.with(0, -1, e.emptyTrash),
			},
		},
	}
}

func undeleteCommand(e *env) *cli.Command { return restoreSubcommand(e, "undelete") }

func restoreSubcommand(e *env, name string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: "bring a container back that was destroyed", ArgsUsage: "CT",
		Flags:       []cli.Flag{&cli.StringFlag{Name: "name", Usage: "give it another `NAME`, if its own was taken meanwhile"}},
		Description: "It is stopped, or suspended if it was. Example: vzcluster trash restore web",
		Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			ct, err := cl.Restore(ctx, c.Args().First(), api.RestoreRequest{Name: c.String("name")})
			if err != nil {
				return err
			}
			return e.showContainer(c, ct)
		}),
	}
}

func (e *env) emptyTrash(ctx context.Context, c *cli.Context, cl *api.Client) error {
	wait, err := flagValue(c, "timeout", parseDuration)
	if err != nil {
		return err
	}
	cs, err := cl.Trash(ctx)
	if err != nil {
		return err
	}
	if c.Args().Present() {
		if cs, err = pick(cs, c.Args().Slice()); err != nil {
			return err
		}
	}
	if len(cs) == 0 {
		e.progress("the trash is empty")
		return e.show(c, cs, trashView(cs))
	}
	if err := e.sure(c, "delete %d containers for good?", len(cs)); err != nil {
		return err
	}
	text := ""
	for _, ct := range cs {
		if _, err := cl.Action(ctx, strconv.Itoa(ct.ID), "destroy", api.ActionRequest{Wait: wait, Now: true}); err != nil {
			return err
		}
		text += "deleted " + ct.Name + "\n"
	}
	return e.show(c, cs, view{text: text, names: trashView(cs).names})
}

func trashView(cs []api.Container) view {
	v := view{head: []string{"ID", "NAME", "HOST", "DESTROYED", "STATE", "DISK", "TEMPLATE"}}
	for _, c := range cs {
		v.names = append(v.names, c.Name)
		v.rows = append(v.rows, []string{strconv.Itoa(c.ID), c.Name, c.Host, moment(c.Trashed), string(c.State), size(c.Limits.Disk), c.Template})
	}
	return v
}

func snapshotNames(c api.Container) string {
	text := ""
	for i, s := range c.Snapshots {
		if i > 0 {
			text += ", "
		}
		text += s.Name
		if s.Memory {
			text += " (with memory)"
		}
	}
	return text
}

// trashed is when a container was destroyed, nothing if it was not.
func trashed(c api.Container) string {
	if !c.InTrash() {
		return ""
	}
	return moment(c.Trashed)
}
