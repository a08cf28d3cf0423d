package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

func execCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "exec", Usage: "run a command in a container", ArgsUsage: "CT [--] CMD...",
		Description: "Exits with the command's code. Input is passed on when it is no terminal, or with -i or -t; so are the signals INT, TERM, HUP, QUIT, " +
			"USR1 and USR2 without a terminal of its own. Flags go before CT. Example: vzcluster exec -u www-data -w /srv web -- make",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give it a terminal"},
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "pass input on from a terminal too"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set `K=V` in its environment, may be repeated"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "run it as `USER`, a name or a number, also with :GROUP; default: root"},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "run it in the folder `DIR`; default: the user's home"},
		},
		Action: e.with(2, -1, e.exec),
	}
}

func (e *env) exec(ctx context.Context, c *cli.Context, cl *api.Client) error {
	x := api.Exec{Args: c.Args().Tail(), Env: c.StringSlice("env"), TTY: c.Bool("tty"), User: c.String("user"), Dir: c.String("workdir")}
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
	if !x.TTY { // else the keys that mean signals go through the terminal
		passed, signals, stop := passSignals(ctx)
		defer stop()
		ctx, s.Signals = passed, signals
	}
	return cl.Exec(ctx, ct, x, s)
}

// lastResort is how many signals that mean the end are passed on before the session is ended.
const lastResort = 3

// passSignals has signals go to a command instead of ending this program.
func passSignals(parent context.Context) (context.Context, <-chan os.Signal, func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	in, out := make(chan os.Signal, 8), make(chan os.Signal, 8)
	signal.Notify(in, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for ends := 0; ends < lastResort; {
			select {
			case s := <-in:
				if s == syscall.SIGINT || s == syscall.SIGTERM {
					ends++
				}
				select {
				case out <- s:
				default: // nobody takes them any more
				}
			case <-ctx.Done():
				return
			}
		}
		cancel()
	}()
	return ctx, out, func() { signal.Stop(in); cancel() }
}

func enterCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "enter", Aliases: []string{"shell"}, Usage: "open a shell in a container", ArgsUsage: "CT",
		Flags:       []cli.Flag{&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "as `USER`; default: root"}},
		Description: "It is bash where there is one, else sh. Example: vzcluster enter web",
		Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			shell := []string{"/bin/sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash -l; fi; exec /bin/sh -l"}
			code, err := e.session(ctx, cl, c.Args().First(), api.Exec{Args: shell, TTY: e.terminal(e.stdin), User: c.String("user")}, true)
			if err == nil && code != 0 {
				err = exitCode(code)
			}
			return err
		}),
	}
}

func runScriptCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "runscript", Usage: "run a shell script of this machine in a container", ArgsUsage: "CT FILE [ARG...]",
		Flags:       []cli.Flag{&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "as `USER`; default: root"}},
		Description: "The script is read here, - is the standard input; /bin/sh runs it there. Example: vzcluster runscript web ./upgrade.sh --quick",
		Action: e.with(2, -1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			var script io.Reader = e.stdin
			if name := c.Args().Get(1); name != "-" {
				f, err := os.Open(name)
				if err != nil {
					return api.Errorf(api.CodeUsage, "", "the script cannot be read: %v", err)
				}
				defer f.Close()
				script = f
			}
			args := append([]string{"/bin/sh", "-s", "--"}, c.Args().Slice()[2:]...)
			ctx, signals, stop := passSignals(ctx)
			defer stop()
			code, err := cl.Exec(ctx, c.Args().First(), api.Exec{Args: args, User: c.String("user")}, api.Streams{
				Stdin: script, Stdout: e.stdout, Stderr: e.stderr, Signals: signals,
			})
			if err == nil && code != 0 {
				err = exitCode(code)
			}
			return err
		}),
	}
}
