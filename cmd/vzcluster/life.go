package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

func timeoutFlag() cli.Flag {
	return &cli.StringFlag{Name: "timeout", Value: "60s", Usage: "wait for the outcome for at most `TIME`"}
}

func forceFlag() cli.Flag {
	return &cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "kill at once instead of shutting down"}
}

func graceFlag() cli.Flag {
	return &cli.StringFlag{Name: "grace", Value: "30s", Usage: "kill what has not ended by itself after `TIME`"}
}

// manyFlags choose the containers of a command that takes several.
func manyFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "selector", Aliases: []string{"l"}, Usage: "all with the label `K=V`, or with the label K; repeated: that have all of them"},
		&cli.BoolFlag{Name: "all", Usage: "all containers"},
	}
}

// chosen returns the names of the containers that a command is to act on.
func chosen(ctx context.Context, c *cli.Context, cl *api.Client) ([]string, error) {
	names, labels := c.Args().Slice(), c.StringSlice("selector")
	switch {
	case len(names) > 0 && (len(labels) > 0 || c.Bool("all")):
		return nil, usagef(c, "name containers or select them, not both")
	case len(names) == 0 && len(labels) == 0 && !c.Bool("all"):
		return nil, usagef(c, "%s needs CT..., or --selector, or --all", subject(path(c)))
	case len(names) == 1:
		return names, nil
	}
	cs, err := cl.Containers(ctx)
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		_, err = pick(cs, names)
		return names, err
	}
	for _, ct := range cs {
		if selected(ct, labels) {
			names = append(names, ct.Name)
		}
	}
	if len(names) == 0 {
		return nil, api.Errorf(api.CodeNotFound, "`vzcluster ls` lists what there is", "no container is selected")
	}
	return names, nil
}

func selected(ct api.Container, labels []string) bool {
	for _, l := range labels {
		k, v, valued := strings.Cut(l, "=")
		if got, ok := ct.Labels[k]; !ok || valued && got != v {
			return false
		}
	}
	return true
}

func startCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "start", Usage: "start containers; one that is suspended goes on", ArgsUsage: "CT...", Flags: append(manyFlags(), waitFlag(), timeoutFlag()),
		Description: "With --wait it returns when the boot has ended: systemd is running or degraded; with another init, when that runs. " +
			"Example: vzcluster start -l tier=web --wait",
		Action: e.with(0, -1, e.start),
	}
}

func waitFlag() cli.Flag {
	return &cli.BoolFlag{Name: "wait", Aliases: []string{"w"}, Usage: "wait for the end of the boot too"}
}

func (e *env) start(ctx context.Context, c *cli.Context, cl *api.Client) error {
	if err := e.actOn(ctx, c, cl, "start"); err != nil || !c.Bool("wait") {
		return err
	}
	wait, err := flagValue(c, "timeout", parseDuration)
	if err != nil {
		return err
	}
	names, err := chosen(ctx, c, cl)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := e.waitBooted(ctx, cl, name, wait); err != nil {
			return err
		}
	}
	return nil
}

// waitBooted returns when the boot of a container that runs has ended.
func (e *env) waitBooted(ctx context.Context, cl *api.Client, name string, wait time.Duration) error {
	ct, err := cl.Container(ctx, name)
	if err != nil {
		return err
	}
	t, err := cl.Template(ctx, ct.Template)
	if err != nil || !t.Systemd {
		return err // another init runs already
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		var said strings.Builder
		_, err := cl.Exec(waiting, name, api.Exec{Args: []string{"systemctl", "is-system-running"}}, api.Streams{Stdout: &said, Stderr: io.Discard})
		switch state := strings.TrimSpace(said.String()); {
		case err == nil && state == "running":
			return nil
		case err == nil && state == "degraded":
			e.progress("%s has booted, but some of its services failed; `vzcluster exec %s systemctl --failed` names them", name, name)
			return nil
		case waiting.Err() != nil && ctx.Err() == nil:
			return api.Errorf(api.CodeTimeout, "`vzcluster logs "+name+"` shows how far it is", "%s is still %s after %s", name, dash(state), wait)
		}
		if err := e.pause(waiting, 200*time.Millisecond); err != nil && ctx.Err() != nil {
			return err
		}
	}
}

func stopCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "stop", Usage: "shut containers down", ArgsUsage: "CT...", Flags: append(manyFlags(), forceFlag(), graceFlag(), timeoutFlag()),
		Description: "Init is asked to end first. Example: vzcluster stop web db --grace 2m. A suspended container is only stopped with --force, " +
			"which throws its memory away.",
		Action: e.with(0, -1, e.act("stop")),
	}
}

func restartCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "restart", Usage: "shut containers down and start them again", ArgsUsage: "CT...", Flags: append(manyFlags(), graceFlag(), timeoutFlag()),
		Action: e.with(0, -1, e.act("restart")),
	}
}

func suspendCommand(e *env) *cli.Command {
	force := &cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "end the sessions of exec that are in the way"}
	return &cli.Command{
		Name: "suspend", Aliases: []string{"chkpnt"}, Usage: "write what runs in containers to disk and end it; start goes on there", ArgsUsage: "CT...",
		Flags:       append(manyFlags(), force, timeoutFlag()),
		Description: "Example: vzcluster suspend web. The memory survives a reboot of the host. What cannot be suspended runs on, and the reason is said.",
		Action:      e.with(0, -1, e.act("suspend")),
	}
}

func resumeCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "resume", Usage: "let suspended containers go on; the same as start", ArgsUsage: "CT...", Flags: append(manyFlags(), timeoutFlag()),
		Description: "Example: vzcluster resume web",
		Action:      e.with(0, -1, e.act("resume")),
	}
}

func destroyCommand(e *env) *cli.Command {
	yes := &cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"}
	return &cli.Command{
		Name: "destroy", Aliases: []string{"rm"}, Usage: "destroy containers with everything in them", ArgsUsage: "CT...",
		Flags: append(manyFlags(), yes, forceFlag(), timeoutFlag(), &cli.BoolFlag{Name: "now", Usage: "for good: not into the trash"}),
		Description: "They go to the trash and can be brought back for a day (trash.hours in the configuration): vzcluster trash ls, vzcluster trash restore web. " +
			"Example: vzcluster destroy -y --now web",
		Action: e.with(0, -1, e.destroy),
	}
}

// act does one thing to every container that is named and prints what they have become.
func (e *env) act(what string) action {
	return func(ctx context.Context, c *cli.Context, cl *api.Client) error {
		return e.actOn(ctx, c, cl, what)
	}
}

func (e *env) destroy(ctx context.Context, c *cli.Context, cl *api.Client) error {
	if !c.Bool("yes") {
		if !e.terminal(e.stdin) {
			return usagef(c, "destroy asks before it destroys, but this is no terminal; say -y if you mean it")
		}
		names, err := chosen(ctx, c, cl)
		if err != nil {
			return err
		}
		for _, name := range names {
			ct, err := cl.Container(ctx, name)
			if err != nil {
				return err
			}
			if err := e.ask("destroy %s (%d), which is %s on %s, with everything in it?", ct.Name, ct.ID, ct.State, ct.Host); err != nil {
				return err
			}
		}
	}
	return e.actOn(ctx, c, cl, "destroy")
}

// actOn acts on one container after the other, also when it fails for some: those are reported as they come, and the
// first failure decides the exit code. A name that does not exist ends it before anything is done.
func (e *env) actOn(ctx context.Context, c *cli.Context, cl *api.Client, what string) error {
	wait, err := flagValue(c, "timeout", parseDuration)
	if err != nil {
		return err
	}
	wait = max(wait, time.Nanosecond) // 0 would be the agent's default
	r := api.ActionRequest{Wait: wait, Force: c.Bool("force"), Now: c.Bool("now")}
	if c.IsSet("grace") {
		if r.Grace, err = flagValue(c, "grace", parseDuration); err != nil {
			return err
		}
		r.Grace = max(r.Grace, time.Millisecond) // 0 would be the default
	}
	names, err := chosen(ctx, c, cl)
	if err != nil {
		return err
	}
	var done []api.Container
	var failed error
	for _, name := range names {
		ct, err := cl.Action(ctx, name, what, r)
		switch {
		case err == nil:
			done = append(done, ct)
		case len(names) == 1 || ctx.Err() != nil:
			return err
		default:
			e.progress("vzcluster: %s: %v", name, err)
			if failed == nil {
				failed = exitCode(api.CodeOf(err).Exit())
			}
		}
	}
	if len(done) == 0 {
		return failed
	}
	e.notes(done...)
	v := containerView(done)
	if what == "destroy" {
		v.text = destroyed(done)
	}
	var value any = done
	if c.Args().Len() == 1 { // several that were selected are a list, even if they are one
		value = done[0]
	}
	if err := e.show(c, value, v); err != nil {
		return err
	}
	return failed
}

// pick returns the containers with some names or CTIDs, in the order of the list.
func pick(cs []api.Container, names []string) ([]api.Container, error) {
	known := map[string]bool{}
	var picked []api.Container
	for _, c := range cs {
		id := strconv.Itoa(c.ID)
		known[id], known[c.Name] = true, true
		if slices.Contains(names, id) || slices.Contains(names, c.Name) {
			picked = append(picked, c)
		}
	}
	missing := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return known[n] })
	if len(missing) > 0 {
		return nil, api.Errorf(api.CodeNotFound, "`vzcluster ls` lists what there is", "there is no container %s", strings.Join(missing, ", "))
	}
	return picked, nil
}

func destroyed(cs []api.Container) string {
	text := ""
	for _, c := range cs {
		text += "destroyed " + c.Name
		if c.InTrash() {
			text += fmt.Sprintf(" (%d); it is in the trash", c.ID)
		}
		text += "\n"
	}
	return text
}
