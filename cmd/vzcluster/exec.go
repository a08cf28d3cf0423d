package main

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

func execCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "exec", Usage: "run a command in a container", ArgsUsage: "CT [--] CMD...",
		Description: "Exits with the command's code. Input is passed on when it is no terminal, or with -i or -t. Flags go before CT.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give it a terminal"},
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "pass input on from a terminal too"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set `K=V` in its environment, may be repeated"},
		},
		Action: e.with(2, -1, e.exec),
	}
}

func (e *env) exec(ctx context.Context, c *cli.Context, cl *api.Client) error {
	x := api.Exec{Args: c.Args().Tail(), Env: c.StringSlice("env"), TTY: c.Bool("tty")}
	for _, kv := range x.Env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" {
			return usagef(c, "env: %s is not a variable, write for example LANG=C", orNothing(kv))
		}
	}
	code, err := e.session(ctx, cl, c.Args().First(), x, c.Bool("interactive"))
	if err == nil && code != 0 {
		err = exitCode(code)
	}
	return err
}

// session runs a command in a container with the user's streams, and the user's terminal if it is to have one.
func (e *env) session(ctx context.Context, cl *api.Client, ct string, x api.Exec, interactive bool) (int, error) {
	s := api.Streams{Stdout: e.stdout, Stderr: e.stderr}
	terminal := e.terminal(e.stdin)
	if x.TTY || interactive || !terminal {
		s.Stdin = e.stdin
	}
	if x.TTY {
		if name := e.getenv("TERM"); name != "" {
			x.Env = append([]string{"TERM=" + name}, x.Env...)
		}
		if terminal {
			t, err := rawTerminal(e.stdin)
			if err != nil {
				return 0, api.Errorf(api.CodeFailed, "", "this terminal cannot be used: %v", err)
			}
			defer t.close()
			x.Rows, x.Cols, s.Resize = t.size.Rows, t.size.Cols, t.resized
		}
	}
	return cl.Exec(ctx, ct, x, s)
}
