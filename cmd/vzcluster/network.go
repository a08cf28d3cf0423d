package main

import (
	"context"
	"fmt"
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
				Name: "create", Usage: "make a network of its own for containers", ArgsUsage: "NAME",
				Flags: append([]cli.Flag{
					&cli.BoolFlag{Name: "overlay", Usage: "VXLAN between the hosts, which need no LAN in common"},
					&cli.IntFlag{Name: "vni", Usage: "`NUMBER` of the VXLAN; default: a free one"},
					&cli.IntFlag{Name: "vlan", Usage: "VLAN `NUMBER` at the hosts' uplinks"},
					&cli.StringFlag{Name: "bridge", Usage: "the bridge `NAME`, which every host has"},
					&cli.StringFlag{Name: "pool", Usage: "addresses come from `CIDR`; more with add-pool; default: none"},
				}, poolFlags...),
				Description: "One of --overlay, --vlan and --bridge: vzcluster network create inner --overlay --pool 10.9.0.0/24",
				Action:      e.with(1, 1, e.createNetwork),
			},
			{Name: "rm", Usage: "remove a network that no container is in", ArgsUsage: "NAME", Action: e.with(1, 1, e.dropNetwork)},
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

func (e *env) createNetwork(ctx context.Context, c *cli.Context, cl *api.Client) error {
	n := cluster.Network{Name: c.Args().First(), VLAN: c.Int("vlan"), VNI: c.Int("vni"), Bridge: c.String("bridge")}
	kinds := 0
	for kind, given := range map[cluster.NetworkKind]bool{
		cluster.NetworkOverlay: c.Bool("overlay") || c.IsSet("vni"), cluster.NetworkVLAN: c.IsSet("vlan"), cluster.NetworkBridge: c.IsSet("bridge"),
	} {
		if given {
			n.Kind = kind
			kinds++
		}
	}
	if kinds != 1 {
		return usagef(c, "create needs one of --overlay, --vlan and --bridge, for example --overlay --pool 10.9.0.0/24")
	}
	if c.IsSet("pool") {
		n.Pools = []cluster.AddressPool{{Prefix: c.String("pool"), First: c.String("first"), Last: c.String("last"), Gateway: c.String("gateway")}}
	}
	made, err := cl.AddNetwork(ctx, n)
	if err != nil {
		return err
	}
	return e.show(c, made, networkView([]cluster.Network{made}))
}

func (e *env) dropNetwork(ctx context.Context, c *cli.Context, cl *api.Client) error {
	name := c.Args().First()
	if err := cl.DropNetwork(ctx, name); err != nil {
		return err
	}
	return e.show(c, map[string]string{"removed": name}, view{names: []string{name}, text: "removed " + name + "\n"})
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
		&cli.StringSliceFlag{Name: "nic-add", Usage: "one more network card, `NAME[,network=NETWORK][,ip=ADDR]...`, as eth1,network=inner; may be repeated"},
		&cli.StringSliceFlag{Name: "nic-del", Usage: "take network card `NAME` away; may be repeated"},
		&cli.StringSliceFlag{Name: "publish", Usage: "have `HOSTPORT:CTPORT[/udp]` of every host lead to it, wherever it is; may be repeated"},
		&cli.StringSliceFlag{Name: "unpublish", Usage: "take the published `HOSTPORT[/udp]` back; may be repeated"},
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
	for _, text := range c.StringSlice("nic-add") {
		n, err := parseNIC(text)
		if err != nil {
			return usagef(c, "nic-add: %v", err)
		}
		r.NICAdd = append(r.NICAdd, n)
	}
	r.NICDel = c.StringSlice("nic-del")
	for name, to := range map[string]*[]cluster.PublishedPort{"publish": &r.Publish, "unpublish": &r.Unpublish} {
		for _, text := range c.StringSlice(name) {
			p, err := cluster.ParsePublishedPort(text)
			if err != nil {
				return usagef(c, "%s: %v", name, err)
			}
			*to = append(*to, p)
		}
	}
	return nil
}

// parseNIC reads NAME[,network=NETWORK][,ip=ADDR]...
func parseNIC(text string) (cluster.NIC, error) {
	parts := strings.Split(text, ",")
	n := cluster.NIC{Name: parts[0]}
	for _, part := range parts[1:] {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "network":
			n.Network = value
		case "ip":
			if _, err := parseIP(value); err != nil {
				return n, err
			}
			n.Addresses = append(n.Addresses, value)
		default:
			return n, fmt.Errorf("%q is neither network= nor ip=; write for example eth1,network=inner,ip=auto", part)
		}
	}
	return n, nil
}

func nameServerFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "nameserver", Usage: "`ADDR` that it asks for names, instead of the cluster's; up to three, repeated; default: those of the cluster"}
}

func searchDomainFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "searchdomain", Usage: "`DOMAIN` that short names are looked for in, may be repeated; default: that of the cluster, . alone: none"}
}
