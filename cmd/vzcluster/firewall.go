package main

import (
	"context"
	"net/netip"
	"slices"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func firewallCommand(e *env) *cli.Command {
	ruleFlags := []cli.Flag{
		&cli.StringFlag{Name: "peer", Usage: "only where the other side is of `CIDR`"},
		&cli.BoolFlag{Name: "out", Usage: "what the container begins; else what others begin"},
		&cli.IntFlag{Name: "at", Usage: "put it before rule `NUMBER`; default: last"},
	}
	const about = "WHAT is tcp/80, udp/5000-5010, tcp, icmp or all. The first rule that matches decides: vzcluster firewall allow web tcp/80"
	return &cli.Command{
		Name: "firewall", Usage: "what a container may get and send; changed live, and moved with it",
		Subcommands: []*cli.Command{
			{Name: "list", Aliases: []string{"ls"}, Usage: "list a container's rules", ArgsUsage: "CT", Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
				ct, err := cl.Container(ctx, c.Args().First())
				if err != nil {
					return err
				}
				return e.showFirewall(c, ct)
			})},
			{Name: "allow", Usage: "add a rule that lets something through", ArgsUsage: "CT WHAT", Description: about, Flags: ruleFlags, Action: e.with(2, 2, e.addRule(cluster.Allow))},
			{Name: "deny", Usage: "add a rule that drops something", ArgsUsage: "CT WHAT", Description: about, Flags: ruleFlags, Action: e.with(2, 2, e.addRule(cluster.Deny))},
			{
				Name: "policy", Usage: "say what becomes of what no rule is about", ArgsUsage: "CT",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "in", Usage: "`ACTION` for what others begin: allow or deny"},
					&cli.StringFlag{Name: "out", Usage: "`ACTION` for what the container begins"},
				},
				Description: "For a container that takes nothing but what rules allow: vzcluster firewall policy web --in deny",
				Action:      e.with(1, 1, e.setPolicies),
			},
			{Name: "rm", Usage: "remove a rule by its number", ArgsUsage: "CT NUMBER", Action: e.with(2, 2, e.dropRule)},
			{Name: "clear", Usage: "remove all rules and let everything through", ArgsUsage: "CT", Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
				return e.changeFirewall(ctx, c, cl, func(f *cluster.Firewall) error { *f = cluster.Firewall{}; return nil })
			})},
		},
	}
}

// changeFirewall reads a container's firewall, changes it and sends it back.
func (e *env) changeFirewall(ctx context.Context, c *cli.Context, cl *api.Client, change func(f *cluster.Firewall) error) error {
	ct, err := cl.Container(ctx, c.Args().First())
	if err != nil {
		return err
	}
	var f cluster.Firewall
	if ct.Firewall != nil {
		f = *ct.Firewall
		f.Rules = slices.Clone(f.Rules)
	}
	if err := change(&f); err != nil {
		return err
	}
	if ct, err = cl.Set(ctx, strconv.Itoa(ct.ID), api.SetRequest{Firewall: &f}); err != nil {
		return err
	}
	return e.showFirewall(c, ct)
}

func (e *env) addRule(action string) func(context.Context, *cli.Context, *api.Client) error {
	return func(ctx context.Context, c *cli.Context, cl *api.Client) error {
		r, err := cluster.ParseFirewallRule(c.Args().Get(1))
		if err != nil {
			return usagef(c, "%v", err)
		}
		r.Action, r.Out, r.Peer = action, c.Bool("out"), c.String("peer")
		if r.Peer != "" {
			if _, err := netip.ParsePrefix(r.Peer); err != nil {
				return usagef(c, "peer: %s is no network, write for example 10.77.0.0/16", orNothing(r.Peer))
			}
		}
		return e.changeFirewall(ctx, c, cl, func(f *cluster.Firewall) error {
			at := len(f.Rules)
			if c.IsSet("at") {
				at = c.Int("at") - 1
			}
			if at < 0 || at > len(f.Rules) {
				return usagef(c, "at: there is no rule %d, there are %d", at+1, len(f.Rules))
			}
			f.Rules = slices.Insert(f.Rules, at, r)
			return nil
		})
	}
}

func (e *env) setPolicies(ctx context.Context, c *cli.Context, cl *api.Client) error {
	if !c.IsSet("in") && !c.IsSet("out") {
		return usagef(c, "policy needs --in or --out, for example --in deny")
	}
	for _, name := range []string{"in", "out"} {
		if v := c.String(name); c.IsSet(name) && v != cluster.Allow && v != cluster.Deny {
			return usagef(c, "%s: %s is neither allow nor deny", name, orNothing(v))
		}
	}
	return e.changeFirewall(ctx, c, cl, func(f *cluster.Firewall) error {
		for name, to := range map[string]*string{"in": &f.In, "out": &f.Out} {
			if c.IsSet(name) {
				*to = c.String(name)
			}
		}
		return nil
	})
}

func (e *env) dropRule(ctx context.Context, c *cli.Context, cl *api.Client) error {
	return e.changeFirewall(ctx, c, cl, func(f *cluster.Firewall) error {
		n, err := strconv.Atoi(c.Args().Get(1))
		if err != nil || n < 1 || n > len(f.Rules) {
			return usagef(c, "there is no rule %s, there are %d", c.Args().Get(1), len(f.Rules))
		}
		f.Rules = slices.Delete(f.Rules, n-1, n)
		return nil
	})
}

func (e *env) showFirewall(c *cli.Context, ct api.Container) error {
	f := cluster.Firewall{}
	if ct.Firewall != nil {
		f = *ct.Firewall
	}
	v := view{head: []string{"NUMBER", "DIRECTION", "ACTION", "WHAT", "PEER"}}
	row := func(number string, out bool, action, what, peer string) {
		direction := "in"
		if out {
			direction = "out"
		}
		if action == "" {
			action = cluster.Allow
		}
		v.rows = append(v.rows, []string{number, direction, action, what, dash(peer)})
	}
	for i, r := range f.Rules {
		v.names = append(v.names, strconv.Itoa(i+1))
		row(strconv.Itoa(i+1), r.Out, r.Action, r.What(), r.Peer)
	}
	row("else", false, f.In, "all", "")
	row("else", true, f.Out, "all", "")
	return e.show(c, f, v)
}
