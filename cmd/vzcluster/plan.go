package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func consolidateCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "consolidate", Usage: "free as many hosts as possible by live migration", ArgsUsage: " ",
		Description: "The plan with the fewest and cheapest moves is shown first. It can be saved with --dry-run -o json, and carried out later\n" +
			"with --plan; `vzcluster operation stop` stops it half-way.",
		Flags: append(planFlags(), &cli.IntFlag{Name: "max", Usage: "free at most `N` hosts; 0: as many as possible"},
			&cli.BoolFlag{Name: "park", Usage: "switch the freed hosts off, as their --power says"},
			&cli.StringFlag{Name: "plan", Usage: "carry out the plan that was saved in `FILE`"}),
		Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			limit := c.Int("max")
			if limit < 0 {
				return usagef(c, "max: %d is not a number of hosts", limit)
			}
			steps, err := savedPlan(c.String("plan"))
			if err != nil {
				return err
			}
			return e.carryOut(ctx, c, planned{
				cl: cl, what: "consolidation", nothing: "no host can be freed",
				start: func(dry bool) (cluster.Operation, error) {
					r := planRequest(c, dry)
					r.Max, r.Steps, r.Park = limit, steps, c.Bool("park")
					return cl.Consolidate(ctx, r)
				},
			})
		}),
	}
}

// savedPlan reads the moves of a plan that was printed as JSON; no file means no moves.
func savedPlan(file string) ([]cluster.Move, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "plan: %v", err)
	}
	var op cluster.Operation
	if err := json.Unmarshal(raw, &op); err != nil || len(op.Steps) == 0 {
		return nil, api.Errorf(api.CodeUsage, "save one with `vzcluster consolidate --dry-run -o json`", "plan: %s holds no plan", file)
	}
	return op.Steps, nil
}

func planFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "show the plan and change nothing"},
		&cli.BoolFlag{Name: "explain", Usage: "show the reasons in full"},
		&cli.BoolFlag{Name: "save", Usage: "keep the plan for approval: `vzcluster plan approve`"},
		&cli.BoolFlag{Name: "partial", Usage: "what cannot be moved stays where it is; else nothing is moved"},
		&cli.BoolFlag{Name: "offline", Usage: "stop, move and start again the containers that cannot be moved live; else they must stay"},
		&cli.IntFlag{Name: "parallel", Value: api.DefaultParallel, Usage: fmt.Sprintf("make `N` moves at once, 1 to %d", api.MaxParallel)},
		&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
	}
}

// planned is a drain or a consolidation.
type planned struct {
	cl            *api.Client
	what, nothing string
	question      string // asked even when nothing is moved; empty: whether the moves are to be made
	start         func(dry bool) (cluster.Operation, error)
	impossible    func(plan cluster.Operation) error // why a plan would be refused; may be nil
}

// carryOut shows the plan, asks on a terminal, starts it, and follows it to its end.
func (e *env) carryOut(ctx context.Context, c *cli.Context, p planned) error {
	if n := c.Int("parallel"); n < 1 || n > api.MaxParallel {
		return usagef(c, "parallel: %d moves at once cannot be made, write a number from 1 to %d", n, api.MaxParallel)
	}
	plan, err := p.start(true)
	if err != nil {
		return err
	}
	var refused error
	if p.impossible != nil {
		refused = p.impossible(plan)
	}
	if c.Bool("dry-run") {
		return errors.Join(e.showPlan(c, plan, p, refused), refused)
	}
	if refused != nil {
		return refused
	}
	if c.Bool("save") && (len(plan.Steps) > 0 || p.question != "") {
		op, err := p.start(false)
		if err != nil {
			return err
		}
		return e.saved(c, op)
	}
	if len(plan.Steps) > 0 {
		if plan.Error != "" {
			e.progress("%s", plan.Error)
		}
		fmt.Fprint(e.stderr, planView(plan).table())
	}
	if err := e.agreed(c, plan, p); err != nil {
		return err
	}
	op, err := p.start(false)
	if err != nil {
		return err
	}
	op, err = e.followPlan(ctx, p.cl, op)
	if err != nil {
		return err
	}
	if err := e.showPlan(c, op, p, nil); err != nil {
		return err
	}
	return opError(op, p.what)
}

// agreed asks on a terminal whether a plan is to be carried out.
func (e *env) agreed(c *cli.Context, plan cluster.Operation, p planned) error {
	switch {
	case c.Bool("yes"), !e.terminal(e.stdin):
		return nil
	case p.question != "":
		return e.ask("%s", p.question)
	case len(plan.Steps) > 0:
		return e.ask("carry out %s?", moves(len(plan.Steps)))
	}
	return nil
}

// showPlan prints a plan; one without moves is a sentence, unless it is refused: then the refusal is said instead.
func (e *env) showPlan(c *cli.Context, op cluster.Operation, p planned, refused error) error {
	v := planView(op)
	if c.Bool("explain") {
		v = explained(op)
		if forPeople(c) && len(op.Kept) > 0 {
			e.progress("%s", strings.TrimSpace(keptText(op)))
		}
	}
	switch {
	case len(op.Steps) == 0 && refused != nil && forPeople(c):
		return nil
	case len(op.Steps) == 0:
		v.text = cmp.Or(op.Error, p.nothing) + "\n"
	case c.Bool("dry-run") && refused == nil && op.Error != "":
		e.progress("%s", op.Error)
	}
	return e.show(c, op, v)
}

// keptText lists what a plan leaves alone.
func keptText(op cluster.Operation) string {
	if len(op.Kept) == 0 {
		return ""
	}
	return "\nleft alone:\n  " + strings.Join(op.Kept, "\n  ") + "\n"
}

// followPlan prints every step as it changes, with its blackout.
func (e *env) followPlan(ctx context.Context, cl *api.Client, op cluster.Operation) (cluster.Operation, error) {
	seen := map[int]string{}
	return e.follow(ctx, cl, op, func(op cluster.Operation) {
		for i, s := range op.Steps {
			if s.Status == "" || seen[i] == s.Status {
				continue
			}
			seen[i] = s.Status
			result := ""
			if s.Status == string(cluster.OpDone) && s.Operation != "" {
				if m, err := cl.Operation(ctx, s.Operation, 0); err == nil && m.Result != nil && hadBlackout(*m.Result) {
					result = ", blackout " + ms(m.Result.BlackoutMS)
				}
			}
			if s.Reason != "" {
				result += ", " + s.Reason
			}
			e.progress("[%d/%d] %s: %s -> %s: %s%s", i+1, len(op.Steps), s.Name, s.From, s.To, s.Status, result)
		}
	})
}

// opError is the error that an ended operation means for the command, or nil.
func opError(op cluster.Operation, what string) error {
	if op.Status != cluster.OpFailed && op.Status != cluster.OpAborted {
		return nil
	}
	return api.Errorf(api.CodeFailed, "", "%s has %s: %s", what, op.Status, dash(op.Error))
}
