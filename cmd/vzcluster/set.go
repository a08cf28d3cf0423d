package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

func setCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "set", Usage: "change a container, also while it runs; all or nothing", ArgsUsage: "CT",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "ram", Usage: "memory, `SIZE` as 512M or 2G"},
			&cli.StringFlag{Name: "swap", Usage: "swap beyond the memory, `SIZE`"},
			&cli.StringFlag{Name: "cpus", Usage: "`CORES`, fractions too; 0: no limit, and none reserved"},
			&cli.Int64Flag{Name: "cpuunits", Usage: "`WEIGHT` against other containers, 1024 is normal"},
			&cli.StringFlag{Name: "disk", Usage: "`SIZE` reserved for the private layer"},
			&cli.StringFlag{Name: "hostname", Usage: "`NAME` inside"},
			&cli.StringFlag{Name: "name", Usage: "`NAME`, unique in the cluster"},
			&cli.StringSliceFlag{Name: "label", Usage: "`K=V`, may be repeated; K= removes it"},
		},
		Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			if c.NumFlags() == 0 {
				return usagef(c, "set needs something to change, for example --ram 2G")
			}
			r, err := setRequest(c)
			if err != nil {
				return err
			}
			ct, err := cl.Set(ctx, c.Args().First(), r)
			if err != nil {
				return err
			}
			return e.showContainer(c, ct)
		}),
	}
}

func setRequest(c *cli.Context) (r api.SetRequest, err error) {
	for _, f := range []struct {
		name  string
		to    **int64
		parse func(string) (int64, error)
	}{{"ram", &r.RAM, parseAmount}, {"swap", &r.Swap, parseAmount}, {"disk", &r.Disk, parseAmount}, {"cpus", &r.MilliCPU, parseCPUs}} {
		if !c.IsSet(f.name) {
			continue
		}
		n, err := flagValue(c, f.name, f.parse)
		if err != nil {
			return r, err
		}
		*f.to = &n
	}
	if c.IsSet("cpuunits") {
		n := c.Int64("cpuunits")
		if n <= 0 {
			return r, usagef(c, "cpuunits: %d is not a weight, 1024 is normal", n)
		}
		r.CPUUnits = &n
	}
	for name, to := range map[string]**string{"hostname": &r.Hostname, "name": &r.Name} {
		if s := c.String(name); s != "" {
			*to = &s
		} else if c.IsSet(name) {
			return r, usagef(c, "%s: it cannot be empty", name)
		}
	}
	if r.Labels, err = parseLabels(c.StringSlice("label")); err != nil {
		return r, usagef(c, "label: %v", err)
	}
	return r, nil
}
