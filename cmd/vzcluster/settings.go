package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func settingsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "settings", Usage: "how the cluster places containers, and what it does by itself",
		Subcommands: []*cli.Command{
			{
				Name: "show", Usage: "show the settings",
				Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					s, err := cl.Settings(ctx)
					if err != nil {
						return err
					}
					return e.show(c, s, settingsView(s))
				}),
			},
			{
				Name: "set", Usage: "change some of them", ArgsUsage: " ",
				Description: "Nothing happens by itself unless it is switched on:\n\n" +
					"   vzcluster settings set --rebalance --imbalance 25 --window \"22:00-04:00\"\n   vzcluster settings set --rebalance=false",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "placement", Usage: "choose hosts by `WAY`: spread, pack or balanced"},
					&cli.IntFlag{Name: "cpu-percent", Usage: "promise `N` percent of hosts' cores"},
					&cli.IntFlag{Name: "ram-percent", Usage: "promise `N` percent of hosts' memory"},
					&cli.IntFlag{Name: "disk-percent", Usage: "promise `N` percent of hosts' disks"},
					&cli.BoolFlag{Name: "survive", Usage: "keep room so that any one host may die"},
					&cli.BoolFlag{Name: "rebalance", Usage: "even out how full hosts are"},
					&cli.BoolFlag{Name: "consolidate", Usage: "free hosts, one at a time"},
					&cli.BoolFlag{Name: "park", Usage: "switch free hosts off, and on again when room runs short"},
					&cli.StringFlag{Name: "window", Usage: "plans begin by themselves at `TIMES` (UTC), as \"sat,sun 22:00-04:00\"; always"},
					&cli.IntFlag{Name: "imbalance", Usage: "rebalance when hosts differ by `POINTS` of a hundred"},
					&cli.IntFlag{Name: "spare", Usage: "`POINTS` of a hundred that stay free when a host is switched off"},
					&cli.StringFlag{Name: "hold", Usage: "there must be a reason for `TIME` before a plan begins"},
					&cli.IntFlag{Name: "moves-per-host", Usage: "plans make at most `N` moves at once that a host is part of; 0: any number"},
					&cli.StringFlag{Name: "host-move-rate", Usage: "their moves take at most `RATE` from or to one host, as 500mbit; 0: any"},
					&cli.StringFlag{Name: "move-rate", Usage: "their moves take at most `RATE` in all; 0: any"},
					&cli.IntFlag{Name: "min-gain", Usage: "a move must even out hosts by `POINTS` of a hundred, what it costs taken off"},
					&cli.StringFlag{Name: "rest", Usage: "containers and hosts are left alone by automatic plans for `TIME` after they came"},
					&cli.StringFlag{Name: "cool-down", Usage: "no plan begins by itself for `TIME` after another"},
					&cli.StringFlag{Name: "idle", Usage: "a host is switched off after being free for `TIME`"},
				},
				Action: e.with(0, 0, e.setSettings),
			},
		},
	}
}

func (e *env) setSettings(ctx context.Context, c *cli.Context, cl *api.Client) error {
	if c.NumFlags() == 0 {
		return usagef(c, "settings set needs something to change, for example --rebalance")
	}
	s, err := cl.Settings(ctx)
	if err != nil {
		return err
	}
	if err := readSettings(c, &s); err != nil {
		return err
	}
	if s, err = cl.WriteSettings(ctx, s); err != nil {
		return err
	}
	return e.show(c, s, settingsView(s))
}

func readSettings(c *cli.Context, s *api.Settings) (err error) {
	p, a := &s.Policy, &s.Automation
	if c.IsSet("placement") {
		p.Placement = cluster.Placement(c.String("placement"))
	}
	for name, to := range map[string]*int64{"cpu-percent": &p.CPUPercent, "ram-percent": &p.RAMPercent, "disk-percent": &p.DiskPercent} {
		if c.IsSet(name) {
			*to = int64(c.Int(name))
		}
	}
	for name, to := range map[string]*bool{"survive": &p.Survive, "rebalance": &a.Rebalance, "consolidate": &a.Consolidate, "park": &a.Park} {
		if c.IsSet(name) {
			*to = c.Bool(name)
		}
	}
	for name, to := range map[string]*int{"imbalance": &a.Imbalance, "spare": &a.Spare, "min-gain": &a.MinGain, "moves-per-host": &p.MovesPerHost} {
		if c.IsSet(name) {
			*to = c.Int(name)
		}
	}
	for name, to := range map[string]*int64{"hold": &a.HoldMS, "cool-down": &a.CoolDownMS, "idle": &a.IdleMS, "rest": &a.RestMS} {
		if c.IsSet(name) {
			d, err := flagValue(c, name, parseDuration)
			if err != nil {
				return err
			}
			*to = d.Milliseconds()
		}
	}
	for name, to := range map[string]*cluster.BitRate{"host-move-rate": &p.HostMoveRate, "move-rate": &p.MoveRate} {
		if c.IsSet(name) {
			if *to, err = flagValue(c, name, parseRate); err != nil {
				return err
			}
		}
	}
	if c.IsSet("window") {
		a.Window, err = flagValue(c, "window", cluster.ParseWindow)
	}
	return err
}

func settingsView(s api.Settings) view {
	p, a := s.Policy, s.Automation.WithDefaults()
	percent := func(n int64) string {
		if n == 0 {
			n = 100
		}
		return strconv.FormatInt(n, 10) + "%"
	}
	placement := string(p.Placement)
	if placement == "" {
		placement = string(cluster.Spread)
	}
	return view{text: record(
		"placement", placement, "promised", fmt.Sprintf("%s of the cores, %s of the memory, %s of the disks", percent(p.CPUPercent), percent(p.RAMPercent), percent(p.DiskPercent)),
		"survive", yes(p.Survive), "rebalance", yes(a.Rebalance), "consolidate", yes(a.Consolidate), "park", yes(a.Park), "window", a.Window.String(),
		"imbalance", strconv.Itoa(a.Imbalance), "spare", strconv.Itoa(a.Spare),
		"hold", long(float64(a.HoldMS)), "cool-down", long(float64(a.CoolDownMS)), "idle", long(float64(a.IdleMS)), "rest", long(float64(a.RestMS)), "min gain", strconv.Itoa(a.MinGain),
		"moves per host", unlimited(p.MovesPerHost, strconv.Itoa(p.MovesPerHost)), "move rate of a host", unlimited(int(p.HostMoveRate), p.HostMoveRate.String()),
		"move rate", unlimited(int(p.MoveRate), p.MoveRate.String()))}
}

// unlimited says so of a limit that is none.
func unlimited(n int, text string) string {
	if n == 0 {
		return "unlimited"
	}
	return text
}
