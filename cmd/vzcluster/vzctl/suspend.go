package vzctl

import (
	"context"
	"errors"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// cpt are the options of suspend and resume, most of them for steps that vzctl let one do by itself.
func (t *tool) cpt(args []string) error {
	step := func(name string, value bool) option {
		return option{name: name, value: value, set: func(string) error {
			return errors.New("a memory is written and taken up as a whole, and kept by the container's host")
		}}
	}
	return noMore(parse(args, []option{
		step("dumpfile", true), step("suspend", false), step("dump", false), step("undump", false), step("kill", false), step("resume", false),
		step("context", true), step("flags", true), step("cpu", true), step("keep_pages", false), step("unfreeze", false),
	}))
}

// suspend writes what runs in a container to its host's disk.
func (t *tool) suspend(ctx context.Context, ct string, args []string) error {
	if err := t.cpt(args); err != nil {
		return err
	}
	c, err := t.find(ctx, ct)
	if err != nil {
		return err
	}
	if !running(c) {
		return fail(codeNotRunning, "Container is not running")
	}
	t.say("Setting up checkpoint...")
	if _, err := t.cl.Action(ctx, id(c), "suspend", api.ActionRequest{Wait: patience}); err != nil {
		return classify(err, codeSuspend)
	}
	t.say("Checkpointing completed successfully")
	t.say("Container is unmounted")
	return nil
}

// resume lets a suspended container go on.
func (t *tool) resume(ctx context.Context, ct string, args []string) error {
	if err := t.cpt(args); err != nil {
		return err
	}
	c, err := t.find(ctx, ct)
	switch {
	case err != nil:
		return err
	case running(c):
		return fail(codeRunning, "Container is already running")
	case c.State != cluster.Suspended:
		return fail(codeResume, "Container is not suspended")
	}
	return t.resumeIt(ctx, c)
}

func (t *tool) resumeIt(ctx context.Context, c api.Container) error {
	t.say("Restoring container ...")
	after, err := t.cl.Action(ctx, id(c), "resume", api.ActionRequest{Wait: patience})
	if err != nil {
		return classify(err, codeResume)
	}
	t.say("Container is mounted")
	if after.Restarted > c.Restarted {
		t.warn("Warning: its memory was lost to a fault, it was started from its disk")
	}
	t.say("Restoring completed successfully")
	return nil
}
