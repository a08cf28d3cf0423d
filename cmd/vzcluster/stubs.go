package main

import (
	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

// The commands below stand in for those that are written in files of their own; delete each one when its file comes.

func labCommand(*env) *cli.Command {
	return missing("lab", "a cluster of virtual hosts on this machine")
}

func doctorCommand(*env) *cli.Command {
	return missing("doctor", "show what this host lacks, what that costs, and the remedy")
}
func demoCommand(*env) *cli.Command { return missing("demo", "the whole story on this machine") }

func missing(name, usage string) *cli.Command {
	return &cli.Command{Name: name, Usage: usage, Action: func(*cli.Context) error {
		return api.Errorf(api.CodeFailed, "", "%s is not built into this program", name)
	}}
}
