package main

import (
	_ "embed"
	"errors"
	"os/exec"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

// setupScript is the set-up of a host; it says itself what it does.
//
//go:embed setup.sh
var setupScript string

func setupCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "setup", Usage: "install what this host lacks; `setup remove` takes it away again", ArgsUsage: "[install|remove|list]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "keep-packages", Usage: "remove: leave the packages installed"},
			&cli.BoolFlag{Name: "post-copy", Usage: "install: set vm.unprivileged_userfaultfd too, which `vzcluster migrate --mode post-copy` needs and which lets every user delay the kernel"},
		},
		Action: func(c *cli.Context) error {
			if err := countArgs(c, 0, 1); err != nil {
				return err
			}
			switch what := c.Args().First(); what {
			case "", "install", "remove", "list":
				if c.Bool("keep-packages") && what != "remove" {
					return usagef(c, "keep-packages: only `vzcluster setup remove` takes it")
				}
				if c.Bool("post-copy") && what != "" && what != "install" {
					return usagef(c, "post-copy: only `vzcluster setup install` takes it")
				}
			default:
				return usagef(c, "setup takes install, remove or list, not `%s`", what)
			}
			args := []string{"-c", setupScript, "vzcluster-setup"}
			args = append(args, c.Args().Slice()...)
			if c.Bool("post-copy") {
				args = append([]string{"-c", setupScript, "vzcluster-setup", "install"}, "--post-copy")
			}
			if c.Bool("keep-packages") {
				args = append(args, "--keep-packages")
			}
			cmd := exec.CommandContext(c.Context, "sh", args...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = e.stdin, e.stdout, e.stderr
			err := cmd.Run()
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				return exitCode(max(exit.ExitCode(), 1)) // it has said why
			} else if err != nil {
				return api.Errorf(api.CodeFailed, "", "set-up could not be started: %v", err)
			}
			return nil
		},
	}
}
