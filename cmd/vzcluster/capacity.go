package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func capacityCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "capacity", Usage: "show how many more containers of a shape fit, now and with any one host dead", ArgsUsage: " ",
		Description: "The shape is given as for create. Example: vzcluster capacity --ram 2G --cpus 1 --max-per-zone 10 --group web",
		Flags:       append(cliLimits(true), ruleFlags()...),
		Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			var r api.CreateRequest
			var err error
			if r.Rules, err = readRules(c, cluster.Rules{}); err != nil {
				return err
			}
			if r.Limits, err = limits(c); err != nil {
				return err
			}
			room, err := cl.Capacity(ctx, r)
			if err != nil {
				return err
			}
			v := view{
				head:  []string{"FIT NOW", "WITH ONE HOST DEAD", "WORST TO LOSE"},
				rows:  [][]string{{strconv.Itoa(room.Now), strconv.Itoa(room.AfterLoss), dash(room.Worst)}},
				names: []string{strconv.Itoa(room.Now)},
			}
			return e.show(c, room, v)
		}),
	}
}

func whatIfCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "whatif", Usage: "show what an event would mean; nothing is changed",
		Subcommands: []*cli.Command{{
			Name: "host-dies", Usage: "where the containers of a host would fit if it died", ArgsUsage: "HOST",
			Description: "Exit code 4 when some would fit nowhere. Containers with a negative priority do not count. Example: vzcluster whatif host-dies host2",
			Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
				w, err := cl.WhatIf(ctx, c.Args().First())
				if err != nil {
					return err
				}
				if w.Homes == nil {
					w.Homes = []cluster.Move{}
				}
				if err := e.show(c, w, whatIfView(w)); err != nil {
					return err
				}
				if len(w.Unplaced) > 0 {
					return api.Errorf(api.CodeNoFit, "", "%s", w.Why)
				}
				e.progress("%s", w.Why)
				return nil
			}),
		}},
	}
}

func whatIfView(w api.WhatIfReply) view {
	v := view{head: []string{"CONTAINER", "WOULD FIT ON", "WHY NOT"}}
	for _, m := range w.Homes {
		v.rows = append(v.rows, []string{fmt.Sprintf("%s (%d)", m.Name, m.Container), m.To, "-"})
		v.names = append(v.names, m.Name)
	}
	for _, u := range w.Unplaced {
		v.rows = append(v.rows, []string{fmt.Sprintf("%s (%d)", u.Name, u.Container), "-", u.Why})
		v.names = append(v.names, u.Name)
	}
	return v
}
