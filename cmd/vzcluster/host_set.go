package main

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// moreHostCommands are those that change what a host is for, or whether it is on.
func moreHostCommands(e *env) []*cli.Command {
	power := func(on bool) cli.ActionFunc {
		return e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			h, err := cl.Power(ctx, c.Args().First(), on)
			if err != nil {
				return err
			}
			return e.show(c, h, hostView([]api.Host{h}))
		})
	}
	return []*cli.Command{
		{
			Name: "set", Usage: "change a host's labels, what it keeps for itself, and how it is switched off and on", ArgsUsage: "HOST",
			Description: "   vzcluster host set host2 --label zone=b --reserve-ram 2G\n" +
				"   vzcluster host set host2 --power ipmi --power-address 10.0.0.2 --power-user admin --power-password bmc.secret\n\n" +
				"--power is command (a hook in the leader's hooks_dir, called with park or wake and the host's name), ipmi (needs ipmitool), wol\n" +
				"(Wake-on-LAN; the host switches itself off) or none.",
			Flags: []cli.Flag{
				&cli.StringSliceFlag{Name: "label", Usage: "`K=V`, may be repeated; K= removes it; zone says what shares its fate"},
				&cli.StringFlag{Name: "reserve-ram", Usage: "keep `SIZE` of memory for the host itself"},
				&cli.StringFlag{Name: "reserve-cpus", Usage: "keep `CORES` for the host itself"},
				&cli.StringFlag{Name: "reserve-disk", Usage: "keep `SIZE` of disk for the host itself"},
				&cli.IntFlag{Name: "max-containers", Usage: "take at most `N` containers; 0: any number"},
				&cli.StringFlag{Name: "power", Usage: "`METHOD`: command, ipmi, wol or none"},
				&cli.StringFlag{Name: "power-hook", Usage: "command: `NAME` of the hook"},
				&cli.StringFlag{Name: "power-address", Usage: "ipmi: `ADDR` of the controller; wol: where the packet goes"},
				&cli.StringFlag{Name: "power-user", Usage: "ipmi: `NAME`"},
				&cli.StringFlag{Name: "power-password", Usage: "ipmi: `FILE` in hooks_dir that holds the password"},
				&cli.StringFlag{Name: "power-mac", Usage: "wol: `MAC` of the network card"},
			},
			Action: e.with(1, 1, e.setHost),
		},
		{
			Name: "park", Usage: "switch an empty host off, as its --power says", ArgsUsage: "HOST", Action: power(false),
			Description: "A host that the quorum needs is refused. `vzcluster host drain HOST` empties one.",
		},
		{Name: "wake", Usage: "switch a parked host on again", ArgsUsage: "HOST", Action: power(true)},
		{
			Name: "leave", Aliases: []string{"remove", "rm"}, Usage: "take a host out of the cluster for good", ArgsUsage: "HOST",
			Description: "Everything on it is moved away first; then it is no member any more, and its certificate is worthless. It may join again.\n" +
				"A host that is dead can be forgotten, with all that was on it:\n\n   vzcluster host leave host3\n   vzcluster host leave host4 --force",
			Flags:  append(planFlags(), &cli.BoolFlag{Name: "force", Usage: "it is down and does not come back: forget it and its containers"}),
			Action: e.with(1, 1, e.leave),
		},
	}
}

func (e *env) leave(ctx context.Context, c *cli.Context, cl *api.Client) error {
	host := c.Args().First()
	if c.Bool("partial") {
		return usagef(c, "a host leaves when nothing is on it; --partial does not go with that")
	}
	if !c.Bool("force") {
		return e.carryOut(ctx, c, planned{
			cl: cl, what: "leaving of " + host, nothing: host + " has nothing to move", question: "take " + host + " out of the cluster?",
			start: func(dry bool) (cluster.Operation, error) {
				return cl.Leave(ctx, host, planRequest(c, dry))
			},
			impossible: func(plan cluster.Operation) error { return mustStay(ctx, cl, host, plan) },
		})
	}
	for _, flag := range []string{"dry-run", "save", "offline", "parallel"} {
		if c.IsSet(flag) {
			return usagef(c, "--force forgets a host that is down, nothing is moved; it does not go with --%s", flag)
		}
	}
	if !c.Bool("yes") && e.terminal(e.stdin) {
		if err := e.ask("forget %s and everything that is on it?", host); err != nil {
			return err
		}
	}
	if err := cl.RemoveHost(ctx, host); err != nil {
		return err
	}
	e.progress("%s is no member any more", host)
	return nil
}

func (e *env) setHost(ctx context.Context, c *cli.Context, cl *api.Client) error {
	if c.NumFlags() == 0 {
		return usagef(c, "host set needs something to change, for example --label zone=b")
	}
	r, err := hostRequest(ctx, c, cl)
	if err != nil {
		return err
	}
	h, err := cl.SetHost(ctx, c.Args().First(), r)
	if err != nil {
		return err
	}
	return e.show(c, h, hostView([]api.Host{h}))
}

func hostRequest(ctx context.Context, c *cli.Context, cl *api.Client) (r api.HostSetRequest, err error) {
	if r.Labels, err = parseLabels(c.StringSlice("label")); err != nil {
		return r, usagef(c, "label: %v", err)
	}
	if c.IsSet("max-containers") {
		n := int64(c.Int("max-containers"))
		r.MaxContainers = &n
	}
	if c.IsSet("reserve-ram") || c.IsSet("reserve-cpus") || c.IsSet("reserve-disk") {
		if r.Reserve, err = reserve(ctx, c, cl); err != nil {
			return r, err
		}
	}
	if m := c.String("power"); m != "" {
		r.Power = &cluster.Power{
			Method: cluster.PowerMethod(strings.TrimSpace(unlessNone(m))), Hook: c.String("power-hook"), Address: c.String("power-address"),
			User: c.String("power-user"), Password: c.String("power-password"), MAC: c.String("power-mac"),
		}
	} else if c.IsSet("power-hook") || c.IsSet("power-address") || c.IsSet("power-mac") {
		return r, usagef(c, "say with --power how the host is switched off and on")
	}
	return r, nil
}

// reserve is what a host keeps for itself, with the changes.
func reserve(ctx context.Context, c *cli.Context, cl *api.Client) (*cluster.Resources, error) {
	hs, err := cl.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	var keep cluster.Resources
	for _, h := range hs {
		if h.Name == c.Args().First() {
			keep = h.Reserve
		}
	}
	for name, part := range map[string]struct {
		to    *int64
		parse func(string) (int64, error)
	}{"reserve-ram": {&keep.RAM, parseAmount}, "reserve-disk": {&keep.Disk, parseAmount}, "reserve-cpus": {&keep.MilliCPU, parseCPUs}} {
		if c.IsSet(name) {
			if *part.to, err = flagValue(c, name, part.parse); err != nil {
				return nil, err
			}
		}
	}
	return &keep, nil
}
