package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent"
	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/runtime/doctor"
)

func doctorCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "show what this host lacks, what that costs, and the remedy",
		Description: "It looks at this machine and needs no agent. With -H or VZCLUSTER_HOST the agent there looks at its own.\n" +
			"The exit code is 1 if something is missing that containers or live migration need; warnings do not count.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: defaultConfig, Usage: "look at what `FILE` configures; the default one may be absent"},
		},
		Action: func(c *cli.Context) error {
			if err := countArgs(c, 0, 0); err != nil {
				return err
			}
			found, err := e.diagnose(c)
			if err != nil {
				return err
			}
			if err := e.show(c, found, doctorView(found)); err != nil {
				return err
			}
			for _, f := range found {
				if !f.OK && !f.Warning {
					return exitCode(api.CodeFailed.Exit())
				}
			}
			return nil
		},
	}
}

// diagnose asks the agent that the user named, or else this machine.
func (e *env) diagnose(c *cli.Context) ([]api.Finding, error) {
	if c.IsSet("host") {
		cl, err := e.client(c)
		if err != nil {
			return nil, err
		}
		defer cl.Close()
		return cl.Doctor(c.Context)
	}
	cfg, err := agentConfig(c)
	if err != nil {
		file := api.Finding{
			Name: "configuration", Found: err.Error(), Costs: "the agent: it does not start; below, the defaults are assumed",
			Remedy: "mend " + c.String("config"),
		}
		cfg, _ = agent.DefaultConfig().Resolve()
		return append([]api.Finding{file}, hostDoctor(cfg, c.String("config"))(c.Context)...), nil
	}
	return hostDoctor(cfg, c.String("config"))(c.Context), nil
}

// hostDoctor returns what looks at this host for an agent with a (resolved) configuration: agent.Deps.Doctor.
func hostDoctor(cfg agent.Config, file string) func(context.Context) []api.Finding {
	c := doctor.Config{
		File: file, DataDir: cfg.DataDir, Storage: cfg.Storage.Driver, Runc: cfg.Runtime.Runc, CRIU: cfg.Runtime.CRIU, LXCFS: cfg.Runtime.LXCFS,
		Bridge: cfg.Network.Bridge, Uplink: cfg.Network.Uplink, NAT: cfg.Network.NAT, Group: cfg.Group,
	}
	return func(ctx context.Context) []api.Finding {
		found := []api.Finding{}
		for _, f := range doctor.Evaluate(c, doctor.Probe(ctx, c)) {
			found = append(found, api.Finding(f))
		}
		return found
	}
}

// doctorView shows a line for each finding, and below what is not right what it costs and how to mend it.
func doctorView(found []api.Finding) view {
	v := view{}
	width, missing, warnings := 0, 0, 0
	for _, f := range found {
		width = max(width, len(f.Name))
	}
	var b strings.Builder
	for _, f := range found {
		v.names = append(v.names, f.Name)
		state := "ok"
		switch {
		case f.OK:
		case f.Warning:
			state = "warning"
			warnings++
		default:
			state = "MISSING"
			missing++
		}
		fmt.Fprintf(&b, "%-7s  %-*s  %s\n", state, width, f.Name, f.Found)
		if !f.OK {
			fmt.Fprintf(&b, "%*s  costs: %s\n%*s  mend:  %s\n", width+9, "", f.Costs, width+9, "", f.Remedy)
		}
	}
	fmt.Fprintf(&b, "\n%d missing, %d warnings, %d looked at\n", missing, warnings, len(found))
	v.text = b.String()
	return v
}
