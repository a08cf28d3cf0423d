package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func migrateCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "migrate", Usage: "move a container to another host while it runs", ArgsUsage: "CT [HOST]",
		Description: "Without HOST the leader chooses. Every failure before the hand-over leaves the container running where it was.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "mode", Value: "live", Usage: "live; post-copy (live, and most of the memory follows when it runs there: until then the loss of either host loses it); near-live (copy it while it runs, stop it, start it there); offline (stop it, copy it, start it); auto (live, or near-live where something is in the way)"},
			&cli.BoolFlag{Name: "offline", Usage: "the same as --mode offline"},
			&cli.StringFlag{Name: "max-downtime", Usage: "for example `300ms`: refuse the move when more is predicted, and give it up when that is over before the hand-over"},
			&cli.BoolFlag{Name: "force", Usage: "end the sessions of exec that are in the way, with exit code 129 (137 if they must be killed)"},
			&cli.BoolFlag{Name: "check-only", Usage: "say whether it can be moved live, and what blocks it; change nothing"},
		},
		Action: e.with(1, 2, e.migrate),
	}
}

func (e *env) migrate(ctx context.Context, c *cli.Context, cl *api.Client) error {
	ct := c.Args().First()
	r, err := migrateRequest(c)
	if err != nil {
		return err
	}
	if c.Bool("check-only") {
		v, err := cl.Check(ctx, ct, r)
		if err != nil {
			return err
		}
		return e.verdict(c, ct, v)
	}
	op, err := cl.Migrate(ctx, ct, r)
	if err != nil {
		return err
	}
	op, err = e.followMove(ctx, c, cl, ct, op)
	if err != nil {
		return err
	}
	return e.moved(c, ct, op)
}

// migrateRequest reads the flags; what the agent would refuse is not asked for.
func migrateRequest(c *cli.Context) (api.MigrateRequest, error) {
	r := api.MigrateRequest{To: c.Args().Get(1), Mode: c.String("mode"), Force: c.Bool("force")}
	if !slices.Contains(api.Modes(), r.Mode) {
		return r, usagef(c, "mode: %s is not a mode, write one of %s", orNothing(r.Mode), strings.Join(api.Modes(), ", "))
	}
	if c.Bool("offline") {
		if c.IsSet("mode") && r.Mode != cluster.ModeOffline {
			return r, usagef(c, "offline: --mode says %s", r.Mode)
		}
		r.Mode = cluster.ModeOffline
	}
	if c.IsSet("max-downtime") {
		d, err := flagValue(c, "max-downtime", parseDowntime)
		if err != nil {
			return r, err
		}
		r.MaxDowntimeMS = d.Milliseconds()
	}
	return r, nil
}

// moved prints what a migration measured, or fails with its reason.
func (e *env) moved(c *cli.Context, ct string, op cluster.Operation) error {
	if op.Status == cluster.OpAborted && op.Refused {
		return api.Errorf(api.CodeRefused, "", "%s is still on %s and runs: %s", ct, op.From, dash(op.Error))
	}
	if op.Status == cluster.OpAborted {
		hint := ""
		if strings.Contains(op.Error, "criu: ") {
			hint = "`vzcluster operation log " + op.ID + "` prints all that CRIU wrote"
		}
		return api.Errorf(api.CodeFailed, hint, "the migration of %s was undone, it is still on %s: %s", ct, op.From, dash(op.Error))
	}
	if err := opError(op, "the migration of "+ct); err != nil {
		return err
	}
	if op.Result == nil {
		return api.Errorf(api.CodeFailed, "", "%s is on %s, but nothing was measured", ct, op.To)
	}
	r := *op.Result
	if r.Phases == nil {
		r.Phases = []cluster.Phase{} // [] in JSON, not null
	}
	if r.Restarted {
		e.progress("%s lost its memory to a fault and was started again from its disk on %s", ct, r.To)
	}
	v := resultView(r)
	if c.String("output") == "wide" {
		v.text = v.table() + "\n" + phaseView(r).table()
	} else {
		v.text = movedText(ct, r)
	}
	return e.show(c, r, v)
}

// movedText is a migration in one line.
func movedText(ct string, r cluster.MoveResult) string {
	if !hadBlackout(r) {
		return fmt.Sprintf("%s is on %s now (it is stopped)\n", ct, r.To)
	}
	over := ""
	if r.MaxDowntimeMS > 0 && r.BlackoutMS > float64(r.MaxDowntimeMS) {
		over = fmt.Sprintf(" (at most %s were wanted; the hand-over had come first)", ms(float64(r.MaxDowntimeMS)))
	}
	return fmt.Sprintf("%s: %s -> %s, longest silence %s%s, %s in all, %s sent\n", ct, r.From, r.To, ms(r.BlackoutMS), over, long(r.TotalMS), cluster.Bytes(r.Bytes))
}

// verdict prints a preflight; a container that can't be moved is a refusal.
func (e *env) verdict(c *cli.Context, ct string, v api.Verdict) error {
	out := view{head: []string{"PROCESS", "UNIT", "BLOCKER", "REMEDY"}, names: []string{v.To}}
	for _, b := range v.Blockers {
		out.rows = append(out.rows, []string{dash(b.Process), dash(b.Unit), b.What, dash(b.Remedy)})
		if c.String("output") != "wide" {
			out.text += blockerText(b)
		}
	}
	if v.OK {
		to := ""
		if v.To != "" {
			to = " to " + v.To
		}
		out.text = fmt.Sprintf("%s can be moved live%s\n", ct, to)
	}
	for _, n := range v.Notes {
		if c.String("output") != "wide" {
			out.text += "note: " + n + "\n"
		}
	}
	if v.Blockers == nil {
		v.Blockers = []api.Blocker{}
	}
	if err := e.show(c, v, out); err != nil {
		return err
	}
	if !v.OK {
		return api.Errorf(api.CodeRefused, "", "%s cannot be moved live: %s", ct, number(len(v.Blockers), "blocker"))
	}
	return nil
}

// blockerText is a blocker and its remedy in one line.
func blockerText(b api.Blocker) string {
	text := b.What
	if b.Process != "" {
		who := "process " + b.Process
		if b.Unit != "" {
			who += " (" + b.Unit + ")"
		}
		text = who + ": " + strings.TrimPrefix(strings.TrimPrefix(text, "it "), "was ")
	}
	if b.Remedy != "" {
		text += "; " + b.Remedy
	}
	return text + "\n"
}
