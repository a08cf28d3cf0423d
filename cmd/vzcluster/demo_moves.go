package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// counterHost returns where the container with the counter is, the leader, and the hosts that are neither.
func (d *demo) counterHost(ctx context.Context) (on, leader string, others []string, err error) {
	st, err := d.status(ctx, d.lab.Hosts()[0])
	if err != nil {
		return "", "", nil, err
	}
	for _, ct := range st.Containers {
		if ct.Name == d.cts[0].Name {
			on = ct.Host
		}
	}
	for _, h := range st.Hosts {
		if h.Name != on && !h.Leader {
			others = append(others, h.Name)
		}
	}
	return on, st.Leader, others, nil
}

// firstMove goes to a host that does not lead, so that its agent can be killed apart from the leader.
func (d *demo) firstMove(ctx context.Context) error {
	_, _, others, err := d.counterHost(ctx)
	if err != nil {
		return err
	}
	return d.move(ctx, others[0])
}

// secondMove goes to a host where the container has not been.
func (d *demo) secondMove(ctx context.Context) error {
	been := d.result.Moves[0]
	to := slices.DeleteFunc(d.lab.Hosts(), func(h string) bool { return h == been.From || h == been.To })
	return d.move(ctx, to[0])
}

// move migrates the container with the counter under its two clients.
func (d *demo) move(ctx context.Context, to string) error {
	ct := d.cts[0].Name
	before, err := d.count.lap()
	if err != nil {
		return err
	}
	lines, err := d.shell.check()
	if err != nil {
		return err
	}
	d.say.line("%s goes to %s; %d increments and %d lines so far", ct, to, before.Acked, lines)
	op, err := d.migrate(ctx, ct, to)
	if err != nil {
		return err
	}
	after, err := d.count.progressed(ctx, d.e, before.Acked, 1) // maybe from before the freeze
	if err != nil {
		return err
	}
	back, err := d.count.progressed(ctx, d.e, after.Acked, 100)
	if err != nil {
		return err
	}
	if lines, err = d.shell.progressed(ctx, d.e, lines, 20); err != nil {
		return err
	}
	m := newDemoMove(ct, *op.Result)
	m.ClientGap, m.Counted = max(after.GapMS, back.GapMS), after.Acked-before.Acked
	d.result.Moves = append(d.result.Moves, m)
	d.say.line("%s", m)
	d.say.line("the client's longest wait for one reply was %s; it is at %d, %d of them during the move", ms(m.ClientGap), back.Acked, m.Counted)
	d.say.line("the ssh session is at line %d", lines)
	return nil
}

// migrate moves a container live and returns the finished operation, which must have lost nothing.
func (d *demo) migrate(ctx context.Context, ct, to string) (op cluster.Operation, err error) {
	err = d.at(d.lab.Hosts()[0], func(cl *api.Client) error {
		if op, err = cl.Migrate(ctx, ct, api.MigrateRequest{To: to, Mode: "live"}); err != nil {
			return fmt.Errorf("%s cannot be moved to %s: %w", ct, to, err)
		}
		op, err = d.e.follow(ctx, cl, op, func(cluster.Operation) {})
		return err
	})
	switch {
	case err != nil:
	case op.Status != cluster.OpDone || op.Result == nil:
		err = fmt.Errorf("the migration of %s to %s has %s: %s", ct, to, op.Status, dash(op.Error))
	case op.Result.Restarted:
		err = fmt.Errorf("%s was started again on %s instead of moved", ct, to)
	}
	return op, err
}

func (d *demo) killAgent(ctx context.Context) error {
	host, _, _, err := d.counterHost(ctx)
	if err != nil {
		return err
	}
	born, err := d.firstProcesses(ctx, host)
	if err != nil {
		return err
	}
	old, err := d.lab.AgentPID(host)
	if err != nil {
		return err
	}
	before, err := d.count.lap()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := d.lab.Kill(ctx, host, false); err != nil {
		return err
	}
	d.say.line("kill -9 %d, the agent of %s", old, host)
	if err := d.until(ctx, "the agent of "+host+" is back", func(ctx context.Context) (bool, error) {
		st, err := d.status(ctx, host)
		return err == nil && st.Joined && st.Quorum && st.Leader != "", err
	}); err != nil {
		return err
	}
	took := time.Since(start)
	after, err := d.count.progressed(ctx, d.e, before.Acked, 1)
	if err != nil {
		return err
	}
	if err := d.sameProcesses(ctx, host, born); err != nil {
		return err
	}
	d.result.Agent = demoFault{Host: host, Seconds: took.Seconds(), Containers: len(born)}
	d.say.line("its init has started it again, it answers after %.1f s", took.Seconds())
	d.say.line("its %s never stopped: the same PID 1 in each, %d increments meanwhile, none waited more than %s",
		number(len(born), "container"), after.Acked-before.Acked, ms(after.GapMS))
	return nil
}

// sameProcesses fails if a container on a host was started again or is gone.
func (d *demo) sameProcesses(ctx context.Context, host string, born map[string]int) error {
	now, err := d.firstProcesses(ctx, host)
	if err != nil {
		return err
	}
	if !maps.Equal(born, now) {
		return fmt.Errorf("containers of %s were started again: PID 1 started at %v before and at %v after", host, born, now)
	}
	return nil
}

func (d *demo) killLeader(ctx context.Context) error {
	_, leader, _, err := d.counterHost(ctx)
	if err != nil {
		return err
	}
	born, err := d.firstProcesses(ctx, leader)
	if err != nil {
		return err
	}
	rest := slices.DeleteFunc(d.lab.Hosts(), func(h string) bool { return h == leader })
	start := time.Now()
	if err := d.lab.Kill(ctx, leader, true); err != nil {
		return err
	}
	d.say.line("%s, which led, has no agent any more", leader)
	ct, err := d.createAnyway(ctx, rest[0], "late")
	if err != nil {
		return err
	}
	d.result.Leader = demoFault{Host: leader, Seconds: time.Since(start).Seconds(), Containers: len(born)}
	st, err := d.status(ctx, rest[0])
	if err != nil {
		return err
	}
	d.result.Leader.Successor = st.Leader
	d.say.line("%s leads now, and after %.1f s the cluster has accepted a create: %s goes to %s", st.Leader, d.result.Leader.Seconds, ct.Name, ct.Host)
	if err := d.at(rest[0], func(cl *api.Client) error {
		_, err := cl.Action(ctx, ct.Name, "start", api.ActionRequest{})
		return err
	}); err != nil {
		return err
	}
	d.cts = append(d.cts, ct)
	if err := d.allServe(ctx); err != nil {
		return err
	}
	d.say.line("%s serve their pages, those on %s too", number(len(d.cts), "container"), leader)
	return d.restartLeader(ctx, leader, born)
}

// createAnyway repeats a create until the cluster can decide again. It does not start the container: what is measured
// is the decision.
func (d *demo) createAnyway(ctx context.Context, host, name string) (ct api.Container, err error) {
	r := demoRequest(name)
	r.Start = false
	err = d.until(ctx, "the cluster accepts a create", func(ctx context.Context) (bool, error) {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err := d.at(host, func(cl *api.Client) (err error) {
			ct, err = cl.Create(try, r)
			if api.CodeOf(err) == api.CodeConflict { // an earlier try was accepted, its answer got lost
				ct, err = cl.Container(try, name)
			}
			return err
		})
		return err == nil, err
	})
	return ct, err
}

func (d *demo) restartLeader(ctx context.Context, host string, born map[string]int) error {
	if err := d.lab.Start(ctx, host); err != nil {
		return err
	}
	if err := d.until(ctx, host+" is a member again", func(ctx context.Context) (bool, error) {
		st, err := d.status(ctx, host)
		alive := 0
		for _, h := range st.Hosts {
			if h.Alive {
				alive++
			}
		}
		return st.Joined && st.Quorum && alive == demoHosts, err
	}); err != nil {
		return err
	}
	if err := d.sameProcesses(ctx, host, born); err != nil {
		return err
	}
	d.say.line("the agent of %s is started again; its %s never stopped", host, number(len(born), "container"))
	return nil
}

func (d *demo) destroyHalf(ctx context.Context) error {
	st, err := d.status(ctx, d.lab.Hosts()[0])
	if err != nil {
		return err
	}
	gone := half(st.Containers, d.cts[0].Name)
	var g errgroup.Group
	for _, name := range gone {
		g.Go(func() error {
			return d.at(d.lab.Hosts()[0], func(cl *api.Client) error {
				_, err := cl.Action(ctx, name, "destroy", api.ActionRequest{Force: true, Now: true})
				return err
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	d.cts = slices.DeleteFunc(d.cts, func(ct api.Container) bool { return slices.Contains(gone, ct.Name) })
	d.result.Destroyed = len(gone)
	d.say.line("destroyed %s", list(gone))
	return d.until(ctx, "the status is without them", func(ctx context.Context) (bool, error) {
		st, err := d.status(ctx, d.lab.Hosts()[0])
		return len(st.Containers) == len(d.cts), err
	})
}

// half chooses half of the containers, always from the host that has most of them left, but never keep.
func half(cts []api.Container, keep string) []string {
	on := map[string][]string{}
	for _, ct := range cts {
		on[ct.Host] = append(on[ct.Host], ct.Name)
	}
	var gone []string
	for range len(cts) / 2 {
		fullest := ""
		for _, h := range slices.Sorted(maps.Keys(on)) {
			if len(on[h]) > len(on[fullest]) {
				fullest = h
			}
		}
		i := len(on[fullest]) - 1
		if on[fullest][i] == keep && i > 0 {
			i--
		}
		gone = append(gone, on[fullest][i])
		on[fullest] = slices.Delete(on[fullest], i, i+1)
	}
	slices.Sort(gone)
	return gone
}

func (d *demo) consolidate(ctx context.Context) error {
	var op cluster.Operation
	err := d.at(d.lab.Hosts()[0], func(cl *api.Client) error {
		plan, err := cl.Consolidate(ctx, api.PlanRequest{DryRun: true})
		if err != nil {
			return err
		}
		if len(plan.Steps) == 0 {
			return fmt.Errorf("no host can be freed: %s", dash(plan.Error))
		}
		d.say.line("the plan, shown before anything is done:")
		d.say.block(planView(plan).table())
		if op, err = cl.Consolidate(ctx, api.PlanRequest{}); err != nil {
			return err
		}
		if op, err = d.e.follow(ctx, cl, op, func(cluster.Operation) {}); err != nil {
			return err
		}
		return errors.Join(opError(op, "the consolidation"), d.consolidated(ctx, cl, op))
	})
	if err != nil {
		return err
	}
	st, err := d.status(ctx, d.lab.Hosts()[0])
	if err != nil {
		return err
	}
	for _, h := range st.Hosts {
		if h.Containers == 0 {
			d.result.Freed = append(d.result.Freed, h.Name)
		}
	}
	if len(d.result.Freed) == 0 {
		return errors.New("the consolidation has freed no host")
	}
	if err := d.allServe(ctx); err != nil {
		return err
	}
	d.say.line("%s is empty, and all pages are still served:", list(d.result.Freed))
	d.say.block(statusText(st, false))
	return nil
}

// consolidated notes what the moves of a plan have measured.
func (d *demo) consolidated(ctx context.Context, cl *api.Client, op cluster.Operation) error {
	for _, s := range op.Steps {
		m, err := cl.Operation(ctx, s.Operation, 0)
		if err != nil {
			return err
		}
		if m.Result == nil || m.Result.Restarted {
			return fmt.Errorf("%s was not moved live to %s", s.Name, s.To)
		}
		d.result.Consolidated = append(d.result.Consolidated, newDemoMove(s.Name, *m.Result))
		d.say.line("%-8s %s", s.Name, d.result.Consolidated[len(d.result.Consolidated)-1])
	}
	return nil
}
