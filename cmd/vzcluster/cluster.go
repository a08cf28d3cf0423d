package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

func initCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "make this host the first of a new cluster",
		Description: "The addresses of containers come from a pool; what is not given is taken from the agent's configuration.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "pool", Usage: "containers' addresses come from `CIDR`"},
			&cli.StringFlag{Name: "pool-first", Usage: "`ADDR` is the first address that a container may have"},
			&cli.StringFlag{Name: "pool-last", Usage: "`ADDR` is the last that may be given out automatically"},
			&cli.StringFlag{Name: "gateway", Usage: "containers' default route goes to `ADDR`"},
		},
		Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			st, err := cl.Init(ctx, api.InitRequest{
				Pool: c.String("pool"), PoolFirst: c.String("pool-first"), PoolLast: c.String("pool-last"), Gateway: c.String("gateway"),
			})
			if err != nil {
				return err
			}
			e.progress("%s is the first host of a new cluster; let others join with a token of `vzcluster token create`", st.Host)
			return e.showStatus(c, st)
		}),
	}
}

func joinCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "join", Usage: "make this host a member of a cluster", ArgsUsage: "ADDR",
		Description: "ADDR is host:port of any member; the token comes from `vzcluster token create` there.",
		Flags:       []cli.Flag{&cli.StringFlag{Name: "token", Usage: "`TOKEN` that lets one host join once"}},
		Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			if c.String("token") == "" {
				return usagef(c, "join needs --token; get one by `vzcluster token create` on a member")
			}
			if err := checkToken(c.String("token")); err != nil {
				return usagef(c, "token: %v", err)
			}
			st, err := cl.Join(ctx, api.JoinRequest{Address: c.Args().First(), Token: c.String("token")})
			if err != nil {
				return err
			}
			e.progress("%s has joined a cluster of %s", st.Host, number(len(st.Hosts), "host"))
			return e.showStatus(c, st)
		}),
	}
}

func tokenCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "token", Usage: "tokens that let hosts join",
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "make a token that lets one host join once",
				Flags:  []cli.Flag{&cli.StringFlag{Name: "ttl", Value: "1h", Usage: "it expires after `TIME`"}},
				Action: e.with(0, 0, e.createToken),
			},
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "list tokens, without their secrets",
				Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					ts, err := cl.Tokens(ctx)
					if err != nil {
						return err
					}
					return e.show(c, ts, tokenView(ts))
				}),
			},
			{
				Name: "revoke", Aliases: []string{"rm"}, Usage: "make a token worthless", ArgsUsage: "ID",
				Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					id := c.Args().First()
					if err := cl.RevokeToken(ctx, id); err != nil {
						return err
					}
					return e.show(c, map[string]string{"revoked": id}, view{names: []string{id}, text: "revoked " + id + "\n"})
				}),
			},
		},
	}
}

func (e *env) createToken(ctx context.Context, c *cli.Context, cl *api.Client) error {
	ttl, err := flagValue(c, "ttl", parseDuration)
	if err != nil {
		return err
	}
	if ttl == 0 {
		return usagef(c, "ttl: a token that expires at once lets nobody join")
	}
	t, err := cl.CreateToken(ctx, ttl)
	if err != nil {
		return err
	}
	e.progress("for one host, until %s; on it: vzcluster join ADDR --token TOKEN", moment(t.Expires))
	return e.show(c, t, view{names: []string{t.Token}, text: t.Token + "\n"})
}

// number prints a count with its noun.
func number(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
