package main

import (
	"context"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// createMany creates --count containers as one plan: all of them, or none.
func (e *env) createMany(ctx context.Context, c *cli.Context, cl *api.Client, r api.CreateRequest) error {
	made, err := cl.CreateMany(ctx, api.CreateManyRequest{Containers: []api.CreateRequest{r}, WaitForRoom: r.WaitForRoom})
	if err != nil {
		return err
	}
	on, waiting := map[string]bool{}, 0
	for _, m := range made {
		if m.Host == "" {
			waiting++
			continue
		}
		on[m.Host] = true
	}
	e.progress("%s on %s", number(len(made)-waiting, "container"), number(len(on), "host"))
	if waiting > 0 {
		e.progress("%d of them wait for room, `vzcluster show` says why", waiting)
	}
	if r.Start {
		if err := e.waitAllRun(ctx, c, cl, made); err != nil {
			return err
		}
	}
	return e.show(c, made, createdView(made))
}

// waitAllRun waits until all of several containers run, those that wait for room aside.
func (e *env) waitAllRun(ctx context.Context, c *cli.Context, cl *api.Client, made []api.Created) error {
	wait, err := flagValue(c, "timeout", parseDuration)
	if err != nil {
		return err
	}
	for i, m := range made {
		if m.Host == "" {
			continue
		}
		ct := api.Container{Container: cluster.Container{ID: m.ID, Name: m.Name, Host: m.Host, State: m.State}}
		now, err := e.waitRunning(ctx, cl, ct, wait)
		if err != nil {
			return err
		}
		made[i].State = now.State
	}
	return nil
}

func createdView(made []api.Created) view {
	v := view{head: []string{"ID", "NAME", "HOST", "STATE", "ADDRESS", "WHY"}, most: lineMost}
	for _, m := range made {
		address := ""
		if len(m.Addresses) > 0 {
			address = m.Addresses[0]
		}
		v.names = append(v.names, m.Name)
		v.rows = append(v.rows, []string{strconv.Itoa(m.ID), m.Name, dash(m.Host), string(m.State), dash(address), m.Why})
	}
	return v
}
