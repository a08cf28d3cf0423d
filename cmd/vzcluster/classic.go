package main

import (
	"cmp"
	"context"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cmd/vzcluster/vzctl"
)

// classic returns the tool of OpenVZ that a command line is for, and its arguments: the program is called by the tool's
// name, or with it as its first word.
func classic(args []string) (tool string, rest []string) {
	if tool = vzctl.Tool(args[0]); tool != "" {
		return tool, args[1:]
	}
	if len(args) > 1 && vzctl.Tool(args[1]) == args[1] {
		return args[1], args[2:]
	}
	return "", nil
}

func (e *env) classicEnv() vzctl.Env {
	return vzctl.Env{
		Stdin: e.stdin, Stdout: e.stdout, Stderr: e.stderr, Version: version().Version, Hash: hashPassword,
		Connect: func() (*api.Client, error) {
			endpoint := cmp.Or(e.getenv("VZCLUSTER_HOST"), defaultHost)
			conf, err := e.tlsFor(endpoint)
			if err != nil {
				return nil, err
			}
			return api.NewClient(endpoint, conf)
		},
		Session: func(ctx context.Context, cl *api.Client, ct string, x api.Exec) (int, error) {
			return e.session(ctx, cl, ct, x, false)
		},
	}
}
