package vzctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/vzcluster/vzcluster/agent/api"
)

// shell runs bash where there is one, or else sh, with what follows as its arguments.
const shell = `if [ -x /bin/bash ]; then exec /bin/bash "$@"; fi; exec /bin/sh "$@"`

func inShell(args ...string) []string {
	return append([]string{"/bin/sh", "-c", shell, "vzctl"}, args...)
}

// exec runs a command in a shell; any code of it but 0 becomes vzctl's own.
func (t *tool) exec(ctx context.Context, ct string, args []string) error {
	code, err := t.runIn(ctx, ct, args)
	if err == nil && code != 0 {
		err = &failure{code: codeCommand}
	}
	return err
}

// exec2 is exec that passes the code on.
func (t *tool) exec2(ctx context.Context, ct string, args []string) error {
	code, err := t.runIn(ctx, ct, args)
	if err == nil && code != 0 {
		err = &failure{code: code}
	}
	return err
}

func (t *tool) runIn(ctx context.Context, ct string, args []string) (int, error) {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	line := inShell()
	if len(args) > 0 && args[0] != "-" { // - : the commands come from stdin
		for i, a := range args {
			if a == "" {
				args[i] = "''"
			}
		}
		line = inShell("-c", strings.Join(args, " "))
	}
	return t.session(ctx, ct, api.Exec{Args: line})
}

// session runs something in a container that runs.
func (t *tool) session(ctx context.Context, ct string, x api.Exec) (int, error) {
	c, err := t.find(ctx, ct)
	if err != nil {
		return 0, err
	}
	if !running(c) {
		return 0, fail(codeNotRunning, "Container is not running")
	}
	code, err := t.Session(ctx, t.cl, id(c), x)
	return code, classify(err, codeSystem)
}

func (t *tool) enter(ctx context.Context, ct string, args []string) error {
	line := inShell("-l")
	if len(args) > 0 {
		if args[0] != "--exec" || len(args) < 2 {
			return fail(codeSyntax, "Invalid syntax: write vzctl enter %s [--exec command [arg ...]]", ct)
		}
		line = inShell("-c", strings.Join(args[1:], " "))
	}
	c, err := t.find(ctx, ct)
	if err != nil {
		return err
	}
	if !running(c) {
		return fail(codeNotRunning, "Container is not running")
	}
	t.say("entered into CT %d", c.ID)
	code, err := t.Session(ctx, t.cl, id(c), api.Exec{Args: line, TTY: true})
	if err != nil {
		return classify(err, codeSystem)
	}
	t.say("exited from CT %d", c.ID)
	if code != 0 {
		return &failure{code: code}
	}
	return nil
}

// console shows what a container writes to its console.
func (t *tool) console(ctx context.Context, ct string, args []string) error {
	rest, err := parse(args, nil)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return fail(codeValue, "A container has one console here, no tty number %s", rest[0])
	}
	c, err := t.find(ctx, ct)
	if err != nil {
		return err
	}
	fmt.Fprintf(t.Stderr, "Attached to CT %d (ctrl-C to detach)\n", c.ID)
	if err := t.cl.Logs(ctx, id(c), true, t.Stdout); err != nil && ctx.Err() == nil {
		return classify(err, codeSystem)
	}
	fmt.Fprintf(t.Stderr, "\nDetached from CT %d\n", c.ID)
	return nil
}

// runscript runs a script of this machine in a container; one that is stopped is started for it.
func (t *tool) runscript(ctx context.Context, ct string, args []string) error {
	rest, err := parse(args, nil)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return fail(codeSyntax, "Invalid syntax: write vzctl runscript %s <script>", ct)
	}
	script, err := os.Open(rest[0])
	if errors.Is(err, fs.ErrNotExist) {
		return fail(codeNoScript, "Script not found: %s", rest[0])
	}
	if err != nil {
		return fail(codeSystem, "%v", err)
	}
	defer script.Close()
	c, err := t.find(ctx, ct)
	if err != nil {
		return err
	}
	if !running(c) {
		if err := t.startIt(ctx, c, true); err != nil {
			return err
		}
		defer func() { _ = t.stopIt(context.WithoutCancel(ctx), c, false) }()
	}
	t.Stdin = script
	code, err := t.cl.Exec(ctx, id(c), api.Exec{Args: inShell("-s")}, api.Streams{Stdin: script, Stdout: t.Stdout, Stderr: t.Stderr})
	if err != nil {
		return classify(err, codeSystem)
	}
	if code != 0 {
		return &failure{code: code}
	}
	return nil
}
