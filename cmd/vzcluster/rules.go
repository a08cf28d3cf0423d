package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/cluster"
)

// ruleFlags are the flags of create, run, place and set that say where a container may be and when it may be moved.
func ruleFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "constraint", Usage: "only on hosts with `LABEL`: zone=a,b or zone!=a or kernel>=6.8 or ssd or !ssd; may be repeated; none: no constraints"},
		&cli.StringSliceFlag{Name: "affinity", Usage: "rather on hosts with `LABEL:WEIGHT`, from -100 to 100; group=web:-50 keeps away from others; may be repeated; none: none"},
		&cli.StringFlag{Name: "group", Usage: "`NAME` of what --max-per-host and --max-per-zone count"},
		&cli.IntFlag{Name: "max-per-host", Usage: "at most `N` of its group on its host; 0: any number"},
		&cli.IntFlag{Name: "max-per-zone", Usage: "at most `N` of its group in its zone; 0: any number"},
		&cli.IntFlag{Name: "priority", Usage: "`N` from -1000 to 1000: higher ones get room first, and lower ones are moved for them"},
		&cli.StringFlag{Name: "preempt", Usage: "if it fits nowhere, move lower priorities away: `HOW` is live, offline (stop those that cannot move live) or never"},
		&cli.StringFlag{Name: "policy", Usage: "how a host is chosen, `WAY` is spread, pack or balanced; default: the cluster's"},
		&cli.StringFlag{Name: "pin", Usage: "it may only be on `HOST`, plans cannot move it; none: anywhere"},
		&cli.StringFlag{Name: "guarantee", Usage: "`SIZE` of memory that is kept for it however much is overcommitted"},
		&cli.BoolFlag{Name: "stay", Usage: "automatic plans leave it where it is; a drain may move it"},
		&cli.StringFlag{Name: "max-downtime", Usage: "plans move it only if it is predicted to stand still for no longer than `TIME`, as 300ms or 2s; none: any time"},
		&cli.StringFlag{Name: "window", Usage: "plans may move it at `TIMES` (UTC), as \"22:00-04:00\" or \"sat,sun 22:00-04:00\"; always: any time"},
	}
}

// readRules returns the rules with what the flags change of them.
func readRules(c *cli.Context, r cluster.Rules) (cluster.Rules, error) {
	var err error
	if c.IsSet("constraint") {
		if r.Constraints, err = eachOf(c, "constraint", cluster.ParseConstraint); err != nil {
			return r, err
		}
	}
	if c.IsSet("affinity") {
		if r.Affinities, err = eachOf(c, "affinity", cluster.ParseAffinity); err != nil {
			return r, err
		}
	}
	for name, to := range map[string]*int{"max-per-host": &r.MaxPerHost, "max-per-zone": &r.MaxPerZone, "priority": &r.Priority} {
		if c.IsSet(name) {
			*to = c.Int(name)
		}
	}
	if c.IsSet("group") {
		r.Group = unlessNone(c.String("group"))
	}
	if c.IsSet("policy") {
		r.Policy = cluster.Placement(unlessNone(c.String("policy")))
	}
	if c.IsSet("preempt") {
		if r.Preempt = cluster.Preempt(c.String("preempt")); r.Preempt == "live" {
			r.Preempt = ""
		}
	}
	if c.IsSet("pin") {
		r.Pinned = unlessNone(c.String("pin"))
	}
	if c.IsSet("stay") {
		r.Stay = c.Bool("stay")
	}
	if c.IsSet("guarantee") {
		if r.Guarantee, err = flagValue(c, "guarantee", parseAmount); err != nil {
			return r, err
		}
	}
	if c.IsSet("max-downtime") {
		r.MaxDowntimeMS = 0
		if text := unlessNone(c.String("max-downtime")); text != "" {
			d, err := flagValue(c, "max-downtime", parseDowntime)
			if err != nil {
				return r, err
			}
			r.MaxDowntimeMS = d.Milliseconds()
		}
	}
	if c.IsSet("window") {
		r.Window, err = flagValue(c, "window", cluster.ParseWindow)
	}
	return r, err
}

// ruled reports whether any of the flags is set.
func ruled(c *cli.Context) bool {
	for _, f := range ruleFlags() {
		if c.IsSet(f.Names()[0]) {
			return true
		}
	}
	return false
}

// eachOf parses every value of a flag that may be repeated; "none" stands for none.
func eachOf[T any](c *cli.Context, name string, parse func(string) (T, error)) ([]T, error) {
	var out []T
	for _, text := range c.StringSlice(name) {
		if unlessNone(text) == "" {
			continue
		}
		v, err := parse(text)
		if err != nil {
			return nil, usagef(c, "%s: %v", name, err)
		}
		out = append(out, v)
	}
	return out, nil
}

func unlessNone(s string) string {
	if s == "none" {
		return ""
	}
	return s
}

// rulesText is what `show` says about a container's rules.
func rulesText(r cluster.Rules) string {
	var lines []string
	say := func(when bool, text string) {
		if when {
			lines = append(lines, text)
		}
	}
	for _, k := range r.Constraints {
		say(true, "only where "+k.String())
	}
	for _, a := range r.Affinities {
		say(true, fmt.Sprintf("rather where %s, weight %d", a.Constraint, a.Weight))
	}
	say(r.Group != "", "group "+r.Group)
	say(r.MaxPerHost > 0, "at most "+number(r.MaxPerHost, "container")+" of its group on a host")
	say(r.MaxPerZone > 0, "at most "+number(r.MaxPerZone, "container")+" of its group in a zone")
	say(r.Priority != 0, fmt.Sprintf("priority %d", r.Priority))
	say(r.Preempt == cluster.PreemptOffline, "lower priorities are moved for it, stopped if need be")
	say(r.Preempt == cluster.PreemptNever, "nothing is moved for it")
	say(r.Policy != "", "placed by "+string(r.Policy))
	say(r.Pinned != "", "only on "+r.Pinned)
	say(r.Guarantee > 0, cluster.Bytes(r.Guarantee)+" of memory guaranteed")
	say(r.Stay, "automatic plans leave it where it is")
	say(r.MaxDowntimeMS > 0, "plans move it if it stands still for at most "+ms(float64(r.MaxDowntimeMS)))
	say(!r.Window.IsZero(), "plans move it "+r.Window.String())
	return strings.Join(lines, "\n")
}
