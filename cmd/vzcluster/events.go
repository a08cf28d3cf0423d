package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

// eventsPoll is how often followed events are asked for.
const eventsPoll = time.Second

func eventsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "events", Usage: "show which limits containers have met, how often and when", ArgsUsage: "[CT]",
		Description: "For example: vzcluster events -f web\nEach host keeps its last 500. What is met again within a minute is counted, not told anew.",
		Flags:       []cli.Flag{&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on as more are met"}},
		Action: e.with(0, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			events, err := cl.LimitEvents(ctx, c.Args().First())
			if err != nil {
				return err
			}
			if !c.Bool("follow") {
				return e.show(c, events, eventsView(events))
			}
			return e.followEvents(ctx, c, cl, events)
		}),
	}
}

// followEvents prints what there is, and then what comes or is counted on, until the user has enough.
func (e *env) followEvents(ctx context.Context, c *cli.Context, cl *api.Client, events []api.LimitEvent) error {
	told := map[string]time.Time{}
	for {
		for _, ev := range events {
			key := fmt.Sprint(ev.Host, ev.Container, ev.Resource)
			if !ev.Last.After(told[key]) {
				continue
			}
			told[key] = ev.Last
			fmt.Fprintf(e.stdout, "%s  %s  %s (%d): %s (%d times)\n", moment(ev.Last), ev.Host, ev.Name, ev.Container, ev.What, ev.Times)
		}
		if err := e.pause(ctx, eventsPoll); err != nil {
			return err
		}
		var err error
		if events, err = cl.LimitEvents(ctx, c.Args().First()); err != nil {
			return err
		}
	}
}

func eventsView(events []api.LimitEvent) view {
	v := view{head: []string{"LAST", "CONTAINER", "TIMES", "WHAT", "FIRST", "HOST", "RESOURCE"}, wide: 3}
	for _, ev := range events {
		v.names = append(v.names, ev.Name)
		v.rows = append(v.rows, []string{
			moment(ev.Last), fmt.Sprintf("%s (%d)", ev.Name, ev.Container), strconv.FormatInt(ev.Times, 10), ev.What, moment(ev.First), ev.Host, ev.Resource,
		})
	}
	return v
}

func ubcCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "ubc", Usage: "show what a container uses and how often it met a limit, as user beancounters", ArgsUsage: "CT",
		Description: "For example: vzcluster ubc web\nPages are of 4096 bytes. Counters begin when the container is started or comes to its host.",
		Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			beans, err := cl.Beans(ctx, c.Args().First())
			if err != nil {
				return err
			}
			return e.show(c, beans, beansView(beans))
		}),
	}
}

func beansView(beans []api.Bean) view {
	v := view{head: []string{"RESOURCE", "HELD", "MAXHELD", "BARRIER", "LIMIT", "FAILCNT"}}
	bound := func(n int64) string {
		if n < 0 {
			return "unlimited"
		}
		return strconv.FormatInt(n, 10)
	}
	for _, b := range beans {
		v.names = append(v.names, b.Name)
		v.rows = append(v.rows, []string{
			b.Name, strconv.FormatInt(b.Held, 10), strconv.FormatInt(b.MaxHeld, 10), bound(b.Barrier), bound(b.Limit), strconv.FormatInt(b.Failures, 10),
		})
	}
	return v
}
