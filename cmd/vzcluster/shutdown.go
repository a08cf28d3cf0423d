package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

func shutdownCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "shutdown", Usage: "suspend or stop what runs on this host, because the host is going down",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "stop", Usage: "stop it"}, &cli.BoolFlag{Name: "suspend", Usage: "suspend it; what cannot be suspended is stopped"}},
		Description: "Without a flag it does what the key shutdown of the configuration says. Those with the lowest boot order go first. They go on when the host is " +
			"back, or when its agent is started again. A unit for systemd is in docs/configuration.md. Example: vzcluster shutdown --stop",
		Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			var r api.ShutdownRequest
			switch {
			case c.Bool("stop") && c.Bool("suspend"):
				return usagef(c, "it cannot be stopped and suspended")
			case c.Bool("stop"):
				r.How = "stop"
			case c.Bool("suspend"):
				r.How = "suspend"
			}
			done, err := cl.Shutdown(ctx, r)
			if err != nil {
				return err
			}
			return e.show(c, done, view{text: number(done.Containers, "container") + " at rest\n"})
		}),
	}
}
