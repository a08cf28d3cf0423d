package main

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// taskTimeout is how long what copies a disk is waited for.
func taskTimeout() cli.Flag {
	return &cli.StringFlag{Name: "timeout", Value: "10m", Usage: "wait for the end for at most `TIME`; it goes on without"}
}

func taskRequest(c *cli.Context) (api.TaskRequest, error) {
	wait, err := flagValue(c, "timeout", parseDuration)
	return api.TaskRequest{Wait: wait}, err
}

func snapshotCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "snapshot", Aliases: []string{"snap"}, Usage: "keep what a container is, and go back to it",
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "keep what a container is now", ArgsUsage: "CT [NAME]",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "memory", Usage: "with what runs, so that switch goes on from here"},
					&cli.StringFlag{Name: "description", Usage: "`TEXT` that says what it is good for"}, taskTimeout(),
				},
				Description: "Its layer is copied while it runs; it stands still for the last changes only, with --memory also while that is written. " +
					"Without a name it is called after the time. Example: vzcluster snapshot create web before-upgrade --memory",
				Action: e.with(1, 2, e.snapshotCreate),
			},
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "list the snapshots of a container", ArgsUsage: "CT",
				Description: "Example: vzcluster snapshot ls web",
				Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					ct, err := cl.Container(ctx, c.Args().First())
					if err != nil {
						return err
					}
					return e.show(c, ct.Snapshots, snapshotView(ct.Snapshots))
				}),
			},
			{
				Name: "switch", Aliases: []string{"restore"}, Usage: "make a container what it was at a snapshot", ArgsUsage: "CT NAME",
				Flags: []cli.Flag{&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"}, taskTimeout()},
				Description: "What it is now is lost, unless there is a snapshot of it. One with memory goes on where it was; without, the container boots if " +
					"it ran. Example: vzcluster snapshot switch -y web before-upgrade",
				Action: e.with(2, 2, e.snapshotSwitch),
			},
			{
				Name: "delete", Aliases: []string{"rm"}, Usage: "delete a snapshot", ArgsUsage: "CT NAME",
				Description: "Example: vzcluster snapshot rm web before-upgrade",
				Action: e.with(2, 2, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					ct, err := cl.DropSnapshot(ctx, c.Args().First(), c.Args().Get(1))
					if err != nil {
						return err
					}
					return e.show(c, ct.Snapshots, snapshotView(ct.Snapshots))
				}),
			},
		},
	}
}

func (e *env) snapshotCreate(ctx context.Context, c *cli.Context, cl *api.Client) error {
	task, err := taskRequest(c)
	if err != nil {
		return err
	}
	ct, err := cl.Snapshot(ctx, c.Args().First(), api.SnapshotRequest{
		TaskRequest: task, Name: c.Args().Get(1), Memory: c.Bool("memory"), Text: c.String("description"),
	})
	if err != nil {
		return err
	}
	return e.show(c, ct.Snapshots, snapshotView(ct.Snapshots))
}

func (e *env) snapshotSwitch(ctx context.Context, c *cli.Context, cl *api.Client) error {
	task, err := taskRequest(c)
	if err != nil {
		return err
	}
	name, snapshot := c.Args().First(), c.Args().Get(1)
	if err := e.sure(c, "make %s what it was at %s, and lose what it is now?", name, snapshot); err != nil {
		return err
	}
	ct, err := cl.Switch(ctx, name, snapshot, task)
	if err != nil {
		return err
	}
	return e.showContainer(c, ct)
}

// sure asks before something is lost, unless --yes was said.
func (e *env) sure(c *cli.Context, format string, args ...any) error {
	if c.Bool("yes") {
		return nil
	}
	if !e.terminal(e.stdin) {
		return usagef(c, "%s asks before something is lost, but this is no terminal; say -y if you mean it", subject(path(c)))
	}
	return e.ask(format, args...)
}

func snapshotView(ss []cluster.Snapshot) view {
	v := view{head: []string{"NAME", "CREATED", "SIZE", "MEMORY", "DESCRIPTION"}}
	for _, s := range ss {
		v.names = append(v.names, s.Name)
		v.rows = append(v.rows, []string{s.Name, moment(s.Created), cluster.Bytes(s.Bytes), yes(s.Memory), dash(s.Text)})
	}
	return v
}

func cloneCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "clone", Usage: "make another container with the same content, also of a running one", ArgsUsage: "CT [CTID|NAME]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "`NAME`, unique in the cluster; default: ct<CTID>"},
			&cli.StringFlag{Name: "hostname", Usage: "`NAME` inside; default: the container's name"},
			&cli.StringFlag{Name: "ip", Value: "auto", Usage: "`ADDR` of the pool, auto or none"},
			&cli.StringSliceFlag{Name: "label", Usage: "`K=V` beside the old one's, may be repeated"},
			&cli.StringFlag{Name: "snapshot", Usage: "what it was at the snapshot `NAME`, not what it is now"},
			&cli.BoolFlag{Name: "start", Usage: "start it"}, taskTimeout(),
		},
		Description: "It is made on the same host, with the same limits, an address, a machine-id and ssh host keys of its own. " +
			"A running one stands still for the last changes only. Example: vzcluster clone web web2 --start",
		Action: e.with(1, 2, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			r, err := cloneRequest(c)
			if err != nil {
				return err
			}
			ct, err := cl.Clone(ctx, c.Args().First(), r)
			if err != nil {
				return err
			}
			return e.showContainer(c, ct)
		}),
	}
}

func cloneRequest(c *cli.Context) (r api.CloneRequest, err error) {
	r = api.CloneRequest{Hostname: c.String("hostname"), Snapshot: c.String("snapshot"), Start: c.Bool("start")}
	if r.ID, r.Name, err = idOrName(c, c.Args().Get(1)); err != nil {
		return r, err
	}
	if r.IP, err = flagValue(c, "ip", parseIP); err != nil {
		return r, err
	}
	if r.Labels, err = parseLabels(c.StringSlice("label")); err != nil {
		return r, usagef(c, "label: %v", err)
	}
	r.TaskRequest, err = taskRequest(c)
	return r, err
}

func reinstallCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "reinstall", Usage: "have a container begin again from its template, or from another one", ArgsUsage: "CT",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "template", Usage: "begin from template `NAME`; default: its own, as it is now"},
			&cli.StringSliceFlag{Name: "keep", Usage: "leave the file or folder `PATH` as it is, may be repeated"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"}, taskTimeout(),
		},
		Description: "It keeps its CTID, name, limits, addresses and snapshots. Of a folder that is kept stays what the container itself has written there. " +
			"Example: vzcluster reinstall -y web --keep /var/www --keep /etc/nginx",
		Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			task, err := taskRequest(c)
			if err != nil {
				return err
			}
			keep := c.StringSlice("keep")
			what := "everything in it"
			if len(keep) > 0 {
				what = "everything but " + strings.Join(keep, ", ")
			}
			if err := e.sure(c, "reinstall %s and lose %s?", c.Args().First(), what); err != nil {
				return err
			}
			ct, err := cl.Reinstall(ctx, c.Args().First(), api.ReinstallRequest{TaskRequest: task, Template: c.String("template"), Keep: keep})
			if err != nil {
				return err
			}
			return e.showContainer(c, ct)
		}),
	}
}
