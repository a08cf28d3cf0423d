package vzctl

import (
	"context"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// patience is how long a start or a stop is waited for.
const patience = 2 * time.Minute

func (t *tool) start(ctx context.Context, ct string, args []string) error {
	var wait, force, skip bool
	if err := noMore(parse(args, []option{flag("wait", &wait), flag("force", &force), flag("skip-fsck", &skip), flag("skip-remount", &skip)})); err != nil {
		return err
	}
	c, err := t.find(ctx, ct)
	if err != nil {
		return err
	}
	return t.startIt(ctx, c, wait)
}

func (t *tool) startIt(ctx context.Context, c api.Container, wait bool) error {
	if running(c) {
		return fail(codeRunning, "Container is already running")
	}
	if c.State == cluster.Suspended {
		return t.resumeIt(ctx, c)
	}
	t.say("Starting container...")
	after, err := t.cl.Action(ctx, id(c), "start", api.ActionRequest{Wait: patience})
	if err != nil {
		code := codeSystem
		if wait && api.CodeOf(err) == api.CodeTimeout {
			code = codeWait
		}
		return classify(err, code)
	}
	t.say("Container is mounted")
	if ips := addressesOf(after); len(ips) > 0 {
		t.say("Adding IP address(es): %s", strings.Join(ips, " "))
	}
	t.say("Setting CPU units: %d", after.Limits.CPUUnits)
	if wait {
		t.say("Container started successfully")
	} else {
		t.say("Container start in progress...")
	}
	return nil
}

func (t *tool) stop(ctx context.Context, ct string, args []string) error {
	var fast, skip bool
	if err := noMore(parse(args, []option{flag("fast", &fast), flag("skip-umount", &skip)})); err != nil {
		return err
	}
	c, err := t.find(ctx, ct)
	if err != nil {
		return err
	}
	if !up(c) {
		t.warn("Unable to stop: container is not running")
		return nil
	}
	return t.stopIt(ctx, c, fast)
}

func (t *tool) stopIt(ctx context.Context, c api.Container, fast bool) error {
	if fast {
		t.say("Killing container ...")
	} else {
		t.say("Stopping container ...")
	}
	_, err := t.cl.Action(ctx, id(c), "stop", api.ActionRequest{Wait: patience, Force: fast})
	switch {
	case api.CodeOf(err) == api.CodeTimeout && err != nil:
		return fail(codeStop, "Unable to stop container: operation timed out")
	case err != nil:
		return classify(err, codeStop)
	}
	t.say("Container was stopped")
	t.say("Container is unmounted")
	return nil
}

func (t *tool) restart(ctx context.Context, ct string, args []string) error {
	var wait, fast, skip bool
	options := []option{flag("wait", &wait), flag("fast", &fast), flag("force", &skip), flag("skip-fsck", &skip), flag("skip-remount", &skip)}
	if err := noMore(parse(args, options)); err != nil {
		return err
	}
	c, err := t.find(ctx, ct)
	if err != nil {
		return err
	}
	t.say("Restarting container")
	if up(c) {
		if err := t.stopIt(ctx, c, fast); err != nil {
			return err
		}
		c.State = cluster.Stopped
	}
	return t.startIt(ctx, c, wait)
}

func (t *tool) destroy(ctx context.Context, ct string, args []string) error {
	if err := noMore(parse(args, nil)); err != nil {
		return err
	}
	c, err := t.find(ctx, ct)
	if err != nil {
		return err
	}
	if up(c) {
		t.say("Container is currently running. Stop it first.")
		return &failure{code: codeRunning}
	}
	t.say("Destroying container private area: %s on %s", id(c), c.Host)
	if _, err := t.cl.Action(ctx, id(c), "destroy", api.ActionRequest{Wait: patience, Now: true}); err != nil {
		return classify(err, codeDestroy)
	}
	t.say("Container private area was destroyed")
	return nil
}

// status answers for any number, also of a container that does not exist.
func (t *tool) status(ctx context.Context, ct string, args []string) error {
	if err := noMore(parse(args, nil)); err != nil {
		return err
	}
	c, err := t.find(ctx, ct)
	if exitOf(err, 0) == codeNoConfig {
		t.say("CTID %s deleted unmounted down", ct)
		return nil
	}
	if err != nil {
		return err
	}
	mounted, state := "unmounted", "down"
	if up(c) {
		mounted, state = "mounted", "running"
	}
	line := "CTID " + id(c) + " exist " + mounted + " " + state
	switch c.State {
	case cluster.Suspended:
		line += " suspended"
	case cluster.Unknown:
		line += " (its host is lost)"
	}
	t.say("%s", line)
	return nil
}

// quota answers the commands of vzquota.
func (t *tool) quota(ctx context.Context, ct string, _ []string) error {
	if _, err := t.find(ctx, ct); err != nil {
		return err
	}
	t.say("Disk quota is not enabled, skipping operation")
	return nil
}

// ploop answers the commands that are about images of ploop.
func (t *tool) ploop(ctx context.Context, ct string, _ []string) error {
	if _, err := t.find(ctx, ct); err != nil {
		return err
	}
	return fail(codePloop, "There are no ploop images here: a container is a layer of files above its template, which needs neither converting nor compacting")
}

// running reports whether a container is said to run, up whether anything of it does.
func running(c api.Container) bool { return c.State == cluster.Running || c.State == cluster.Migrating }

func up(c api.Container) bool {
	return running(c) || c.State == cluster.Starting || c.State == cluster.Stopping
}
