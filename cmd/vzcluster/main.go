// Command vzcluster is the whole product in one binary: the agent of a host and the command line that talks to it.
//
// It owns arguments, output and exit codes, and nothing of the cluster: client commands know agent/api only. The one
// rule for callers: data goes to stdout, progress and errors to stderr, and the exit code says what went wrong
// (api.Code.Exit).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cmd/vzcluster/vzctl"
)

const defaultHost = "unix:///run/vzcluster/agent.sock"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := Main(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Main runs one command line, its program name first, and returns the exit code.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	e := &env{
		stdin: stdin, stdout: stdout, stderr: stderr, getenv: os.Getenv, terminal: isTerminal, pause: pause,
		labs: labsUp,
	}
	return e.run(ctx, args)
}

// env is what a command may touch of the outside; tests put their own in.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	terminal       func(stream any) bool
	pause          func(ctx context.Context, d time.Duration) error
	labs           func() []string // that are up on this machine
}

// commands lists every command; the help groups them by category.
func (e *env) commands() []*cli.Command {
	groups := map[string][]*cli.Command{
		"CLUSTER": {initCommand(e), joinCommand(e), statusCommand(e), hostCommand(e), consolidateCommand(e), rebalanceCommand(e), maintainCommand(e), planCommand(e), settingsCommand(e), capacityCommand(e), whatIfCommand(e), tokenCommand(e), operationCommand(e)},
		"CONTAINERS": {
			createCommand(e), runCommand(e), startCommand(e), stopCommand(e), restartCommand(e), destroyCommand(e), lsCommand(e), showCommand(e),
			setCommand(e), suspendCommand(e), resumeCommand(e), snapshotCommand(e), cloneCommand(e), reinstallCommand(e), applyCommand(e), diffCommand(e), renameCommand(e), describeCommand(e), labelCommand(e), trashCommand(e), undeleteCommand(e),
			execCommand(e), enterCommand(e), runScriptCommand(e), cpCommand(e), topCommand(e), pidCommand(e), logsCommand(e), eventsCommand(e), ubcCommand(e), statsCommand(e), placeCommand(e), migrateCommand(e),
		},
		"TEMPLATES": {templateCommand(e)},
		"NETWORKS":  {networkCommand(e), firewallCommand(e)},
		"MACHINE":   {setupCommand(e), agentCommand(e), shutdownCommand(e), doctorCommand(e), labCommand(e), labInitCommand(), demoCommand(e), demoClientCommand(e), simulateCommand(e), versionCommand(e), memoryGuardCommand()},
	}
	var all []*cli.Command
	for _, name := range []string{"CLUSTER", "CONTAINERS", "TEMPLATES", "NETWORKS", "MACHINE"} {
		for _, c := range groups[name] {
			c.Category = name
			all = append(all, c)
		}
	}
	return all
}

func (e *env) app() *cli.App {
	app := &cli.App{
		Name:  "vzcluster",
		Usage: "a cluster of system containers that move while they run",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "host", Aliases: []string{"H"}, Value: defaultHost, EnvVars: []string{"VZCLUSTER_HOST"}, Usage: "talk to the agent at `ENDPOINT`, unix:///path or https://host:port"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "print as `FORMAT`: table, wide, json, yaml or name"},
		},
		Commands:                  e.commands(),
		Reader:                    e.stdin,
		Writer:                    e.stdout,
		ErrWriter:                 e.stderr,
		HideVersion:               true,
		DisableSliceFlagSeparator: true,
		ExitErrHandler:            func(*cli.Context, error) {}, // run decides
		OnUsageError:              badUsage,
		Before:                    checkFormat,
	}
	forEach(app.Commands, func(c *cli.Command) {
		c.OnUsageError, c.HideHelpCommand = badUsage, true // permute knows `help` itself
	})
	return app
}

func forEach(cs []*cli.Command, f func(*cli.Command)) {
	for _, c := range cs {
		f(c)
		forEach(c.Subcommands, f)
	}
}

// badUsage gets what the flag parser of cli finds wrong: values that are no numbers and required flags.
func badUsage(c *cli.Context, err error, _ bool) error {
	bad := regexp.MustCompile(`^invalid (boolean )?value "(.*)" for (?:flag )?-([^:]*):`).FindStringSubmatch(err.Error())
	switch {
	case bad == nil:
		return usagef(c, "%v", err)
	case bad[1] != "":
		return usagef(c, "%s: %s is neither true nor false", bad[3], orNothing(bad[2]))
	}
	return usagef(c, "%s: %s is not a number", bad[3], orNothing(bad[2]))
}

// exitCode ends a command with a code of its own and without a word; it is a cli.ExitCoder.
type exitCode int

func (c exitCode) Error() string { return "" }
func (c exitCode) ExitCode() int { return int(c) }

func (e *env) run(ctx context.Context, args []string) int {
	if name, rest := classic(args); name != "" {
		return vzctl.Run(ctx, name, rest, e.classicEnv())
	}
	app := e.app()
	args, err := permute(app, args)
	if err == nil {
		err = app.RunContext(ctx, args)
	}
	var exit cli.ExitCoder
	code := api.CodeOf(err).Exit()
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case errors.Is(err, context.Canceled):
		return 128 + int(syscall.SIGINT)
	}
	if text := e.labHint(err).Error(); text != "" {
		fmt.Fprintf(e.stderr, "vzcluster: %s\n", text)
	}
	return code
}

// usagef makes a usage error that points to the command's help.
func usagef(c *cli.Context, format string, args ...any) error {
	return api.Errorf(api.CodeUsage, fmt.Sprintf("see `%s --help`", path(c)), format, args...)
}

// path is the command as the user typed it, "vzcluster host drain".
func path(c *cli.Context) string {
	if c.Command == nil || c.Command.HelpName == "" {
		return "vzcluster"
	}
	return c.Command.HelpName
}

// subject is a command's path as a sentence begins with it; errors begin with the program's name anyway.
func subject(path string) string {
	return strings.TrimPrefix(path, "vzcluster ")
}

// client returns a client of the agent that the user chose.
func (e *env) client(c *cli.Context) (*api.Client, error) {
	endpoint := c.String("H") // "host" may be a flag of the command
	conf, err := e.tlsFor(endpoint)
	if err != nil {
		return nil, err
	}
	return api.NewClient(endpoint, conf)
}

// action is a command's action that talks to an agent.
type action func(ctx context.Context, c *cli.Context, cl *api.Client) error

// with checks the number of arguments (most < 0: any number), connects, and acts.
func (e *env) with(least, most int, do action) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := countArgs(c, least, most); err != nil {
			return err
		}
		cl, err := e.client(c)
		if err != nil {
			return err
		}
		defer cl.Close()
		return do(c.Context, c, cl)
	}
}

// countArgs refuses too few and too many arguments.
func countArgs(c *cli.Context, least, most int) error {
	n := c.Args().Len()
	switch {
	case n < least:
		return usagef(c, "%s needs %s", subject(path(c)), c.Command.ArgsUsage)
	case most == 0 && n > 0:
		return usagef(c, "%s takes no arguments, but got `%s`", subject(path(c)), c.Args().First())
	case most >= 0 && n > most:
		return usagef(c, "%s takes %s, `%s` is too much", subject(path(c)), c.Command.ArgsUsage, c.Args().Get(most))
	}
	return nil
}

// progress prints a line for people to stderr.
func (e *env) progress(format string, args ...any) {
	fmt.Fprintf(e.stderr, format+"\n", args...)
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
