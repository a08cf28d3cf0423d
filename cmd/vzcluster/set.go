package main

import (
	"context"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func setCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "set", Usage: "change a container, also while it runs; all or nothing", ArgsUsage: "CT",
		Flags: append(slices.Concat(cliLimits(false), ruleFlags(), networkFlags(), insideFlags()),
			&cli.StringFlag{Name: "hostname", Usage: "`NAME` inside"},
			nameServerFlag(), searchDomainFlag(),
			&cli.StringFlag{Name: "onboot", Usage: "when its host boots: `WHAT`, yes, no or as-before"},
			&cli.IntFlag{Name: "bootorder", Usage: "the higher `N`, the earlier it is started then and the later it is stopped"},
			&cli.StringFlag{Name: "description", Usage: "`TEXT` that says what it is good for; empty: none"},
			&cli.StringFlag{Name: "name", Usage: "`NAME`, unique in the cluster"},
			&cli.StringSliceFlag{Name: "label", Usage: "`K=V`, may be repeated; K= removes it"},
		),
		Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			if c.NumFlags() == 0 {
				return usagef(c, "set needs something to change, for example --ram 2G")
			}
			r, err := setRequest(c)
			if err != nil {
				return err
			}
			inside, files, err := e.insideRequest(c)
			if err != nil {
				return err
			}
			if ruled(c) {
				now, err := cl.Container(ctx, c.Args().First())
				if err != nil {
					return err
				}
				rules, err := readRules(c, now.Rules)
				if err != nil {
					return err
				}
				r.Rules = &rules
			}
			if files { // before the rest: what is refused here has changed nothing
				if err := cl.Inside(ctx, c.Args().First(), inside); err != nil {
					return err
				}
			}
			if !changes(c) {
				ct, err := cl.Container(ctx, c.Args().First())
				if err != nil {
					return err
				}
				return e.showContainer(c, ct)
			}
			ct, err := cl.Set(ctx, c.Args().First(), r)
			if err != nil {
				return err
			}
			return e.showContainer(c, ct)
		}),
	}
}

// changes says whether something is to be set that is kept of the container.
func changes(c *cli.Context) bool {
	return slices.ContainsFunc(c.LocalFlagNames(), func(name string) bool {
		return !slices.ContainsFunc(insideFlags(), func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
	})
}

func setRequest(c *cli.Context) (r api.SetRequest, err error) {
	if err := readLimits(c, &r); err != nil {
		return r, err
	}
	if err := readNetwork(c, &r); err != nil {
		return r, err
	}
	for name, to := range map[string]**string{"hostname": &r.Hostname, "name": &r.Name} {
		if s := c.String(name); s != "" {
			*to = &s
		} else if c.IsSet(name) {
			return r, usagef(c, "%s: it cannot be empty", name)
		}
	}
	r.NameServers, r.SearchDomains = c.StringSlice("nameserver"), c.StringSlice("searchdomain")
	if c.IsSet("onboot") {
		boot := cluster.OnBoot(c.String("onboot"))
		if boot == "as-before" || boot == "auto" {
			boot = cluster.BootAsBefore
		} else if boot == cluster.BootAsBefore {
			boot = "nothing"
		}
		r.OnBoot = &boot
	}
	if c.IsSet("bootorder") {
		n := c.Int("bootorder")
		r.BootOrder = &n
	}
	if c.IsSet("description") {
		text := c.String("description")
		r.Text = &text
	}
	if r.Labels, err = parseLabels(c.StringSlice("label")); err != nil {
		return r, usagef(c, "label: %v", err)
	}
	return r, nil
}
