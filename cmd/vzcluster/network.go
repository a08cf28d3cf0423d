package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func networkCommand(e *env) *cli.Command {
	poolFlags := []cli.Flag{
		&cli.StringFlag{Name: "first", Usage: "`ADDR` is the first address that a container may have; default: the pool's middle"},
		&cli.StringFlag{Name: "last", Usage: "`ADDR` is the last one; default: the pool's end"},
		&cli.StringFlag{Name: "gateway", Usage: "the default route of containers goes to `ADDR`"},
	}
	return &cli.Command{
		Name: "network", Usage: "networks that containers are in, and their addresses",
		Subcommands: []*cli.Command{
			{Name: "list", Aliases: []string{"ls"}, Usage: "list networks", Action: e.with(0, 0, e.listNetworks)},
			{
				Name: "add-pool", Usage: "give a network addresses, of IPv4 or IPv6, of which it has none yet", ArgsUsage: "NAME CIDR", Flags: poolFlags,
				Description: "The network of the hosts' LAN is called default: vzcluster network add-pool default fd00:77::/64",
				Action:      e.with(2, 2, e.addPool),
			},
		},
	}
}

func (e *env) listNetworks(ctx context.Context, c *cli.Context, cl *api.Client) error {
	ns, err := cl.Networks(ctx)
	if err != nil {
		return err
	}
	return e.show(c, ns, networkView(ns))
}

func (e *env) addPool(ctx context.Context, c *cli.Context, cl *api.Client) error {
	n, err := cl.AddPool(ctx, c.Args().First(), cluster.AddressPool{
		Prefix: c.Args().Get(1), First: c.String("first"), Last: c.String("last"), Gateway: c.String("gateway"),
	})
	if err != nil {
		return err
	}
	return e.show(c, n, networkView([]cluster.Network{n}))
}

func networkView(ns []cluster.Network) view {
	v := view{head: []string{"NAME", "KIND", "NUMBER", "POOLS", "ADDRESSES", "GATEWAYS"}, most: lineMost}
	for _, n := range ns {
		var pools, ranges, gateways []string
		for _, p := range n.Pools {
			pools, ranges = append(pools, p.Prefix), append(ranges, p.First+"-"+p.Last)
			if p.Gateway != "" {
				gateways = append(gateways, p.Gateway)
			}
		}
		v.names = append(v.names, n.Name)
		v.rows = append(v.rows, []string{
			n.Name, string(n.Kind), networkNumber(n), dash(strings.Join(pools, ",")), dash(strings.Join(ranges, ",")), dash(strings.Join(gateways, ",")),
		})
	}
	return v
}

// networkNumber is what tells a network apart from others of its kind.
func networkNumber(n cluster.Network) string {
	switch {
	case n.VLAN != 0:
		return strconv.Itoa(n.VLAN)
	case n.VNI != 0:
		return strconv.Itoa(n.VNI)
	}
	return dash(n.Bridge)
}

// networkFlags change a container's network.
func networkFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "ip", Usage: "`ADDRS` of eth0, all of them, between commas: addresses of the pools, auto (one of each pool), auto4, auto6; or none"},
		&cli.StringSliceFlag{Name: "ip-add", Usage: "one more `ADDR`, also auto, auto4 or auto6; may be repeated"},
		&cli.StringSliceFlag{Name: "ip-del", Usage: "take `ADDR` away; may be repeated"},
	}
}

func readNetwork(c *cli.Context, r *api.SetRequest) error {
	if c.IsSet("ip") {
		ip, err := flagValue(c, "ip", parseIP)
		if err != nil {
			return err
		}
		r.IP = &ip
	}
	for name, to := range map[string]*[]string{"ip-add": &r.IPAdd, "ip-del": &r.IPDel} {
		for _, word := range c.StringSlice(name) {
			if _, err := parseIP(word); err != nil || word == "none" {
				return usagef(c, "%s: %s is no address, write for example 10.0.0.7", name, orNothing(word))
			}
			*to = append(*to, word)
		}
	}
	return nil
}
