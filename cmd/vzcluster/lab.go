package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
)

func labCommand(e *env) *cli.Command {
	name := &cli.StringFlag{Name: "name", Value: lab.DefaultName, Usage: "`NAME` of the lab; several may be up at once"}
	cmd := func(name0, usage, args string, do cli.ActionFunc, flags ...cli.Flag) *cli.Command {
		return &cli.Command{Name: name0, Usage: usage, ArgsUsage: args, Action: do, Flags: append(flags, name)}
	}
	return &cli.Command{
		Name: "lab", Usage: "a cluster of virtual hosts on this machine",
		Description: "Hosts are host1 to hostN; `outside` is a plain machine on their LAN that reaches the containers.",
		Subcommands: []*cli.Command{
			cmd("up", "make a lab and form its cluster", "", e.labUp,
				&cli.IntFlag{Name: "hosts", Aliases: []string{"n"}, Value: 3, Usage: "`N` hosts"},
				&cli.StringFlag{Name: "host-cpus", Value: "0", Usage: "`CORES` that each host offers, 0: its share of the machine"},
				&cli.StringFlag{Name: "host-ram", Value: "0", Usage: "memory `SIZE` that each host offers, 0: its share"},
				&cli.StringFlag{Name: "host-disk", Value: "0", Usage: "disk `SIZE` that each host offers, 0: its share"},
				&cli.StringFlag{Name: "storage", Usage: "storage `DRIVER` of the hosts, or a list with one for each, as overlay,image,btrfs"},
			),
			cmd("down", "remove the lab and everything in it", "", e.labDown),
			cmd("status", "show the machines of the lab", "", e.withLab(0, e.labStatus)),
			e.labVMCommand(),
			{Name: "list", Aliases: []string{"ls"}, Usage: "list the labs that are up", Action: e.labList},
			cmd("exec", "run a command on a machine of the lab; --name goes before HOST", "HOST [--] CMD...", e.withLab(-2, e.labExec)),
			cmd("kill", "kill a host's agent with SIGKILL", "HOST", e.withLab(1, func(ctx context.Context, c *cli.Context, l *lab.Lab) error {
				return l.Kill(ctx, c.Args().First(), c.Bool("stay"))
			}), &cli.BoolFlag{Name: "stay", Usage: "it stays down until `lab start`"}),
			cmd("start", "switch a machine on, or start its agent again", "HOST", e.withLab(1, func(ctx context.Context, c *cli.Context, l *lab.Lab) error {
				return l.Start(ctx, c.Args().First())
			})),
			cmd("poweroff", "cut a machine's power", "HOST", e.withLab(1, func(ctx context.Context, c *cli.Context, l *lab.Lab) error {
				return l.PowerOff(ctx, c.Args().First())
			})),
			cmd("partition", "cut machines off from the rest; they still see each other", "HOST...", e.withLab(-1, func(_ context.Context, c *cli.Context, l *lab.Lab) error {
				return l.Partition(c.Args().Slice()...)
			})),
			cmd("heal", "undo partition", "", e.withLab(0, func(_ context.Context, _ *cli.Context, l *lab.Lab) error { return l.Heal() })),
			cmd("env", "print the shell command that points vzcluster at the lab", "[HOST]", e.labEnv),
			cmd("logs", "print a host's agent log", "HOST", e.withLab(1, e.labLogs),
				&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on as it grows"}),
		},
	}
}

// labInitCommand is what the lab's machines run; it must stay on the main goroutine.
func labInitCommand() *cli.Command {
	return &cli.Command{Name: "lab-init", Hidden: true, Action: func(c *cli.Context) error { return lab.Init(c.Args().Slice()) }}
}

// withLab checks the number of arguments (-n: n or more), finds the lab and acts.
func (e *env) withLab(args int, do func(context.Context, *cli.Context, *lab.Lab) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := countArgs(c, max(args, -args), args); err != nil {
			return err
		}
		name, err := labName(c)
		if err != nil {
			return err
		}
		l, err := lab.Open(name)
		if err == nil {
			err = do(c.Context, c, l)
		}
		return labError(err)
	}
}

func labName(c *cli.Context) (string, error) {
	name := c.String("name")
	if err := lab.CheckName(name); err != nil {
		return "", usagef(c, "name: %v", err)
	}
	return name, nil
}

func labError(err error) error {
	if errors.Is(err, lab.ErrNotUp) || errors.Is(err, lab.ErrNoMachine) || errors.Is(err, lab.ErrNoAgent) {
		return api.Errorf(api.CodeNotFound, "", "%v", err)
	}
	return err
}

func (e *env) labUp(c *cli.Context) error {
	if err := countArgs(c, 0, 0); err != nil {
		return err
	}
	name, err := labName(c)
	if err != nil {
		return err
	}
	o := lab.Options{Name: name, Hosts: c.Int("hosts"), Progress: func(step string) { e.progress("lab: %s", step) }}
	if o.Hosts < 1 || o.Hosts > lab.MaxHosts {
		return usagef(c, "hosts: a lab has between 1 and %d hosts, not %d", lab.MaxHosts, o.Hosts)
	}
	milli, err := flagValue(c, "host-cpus", parseCPUs)
	if err != nil {
		return err
	}
	o.CPUs = float64(milli) / 1000
	if o.RAM, err = flagValue(c, "host-ram", parseAmount); err != nil {
		return err
	}
	if o.Disk, err = flagValue(c, "host-disk", parseAmount); err != nil {
		return err
	}
	if s := c.String("storage"); s != "" {
		o.Storage = strings.Split(s, ",")
	}
	start := time.Now()
	l, err := lab.Up(c.Context, o)
	if err != nil {
		return err
	}
	e.progress("lab: up in %.1f s; to talk to it: %s", time.Since(start).Seconds(), labEval(l.Name()))
	return nil
}

func labEval(name string) string {
	if name != lab.DefaultName {
		return `eval "$(vzcluster lab env --name ` + name + `)"`
	}
	return `eval "$(vzcluster lab env)"`
}

func (e *env) labDown(c *cli.Context) error {
	if err := countArgs(c, 0, 0); err != nil {
		return err
	}
	name, err := labName(c)
	if err != nil {
		return err
	}
	there, err := lab.Exists(lab.DefaultDir, name)
	if err != nil {
		return err
	}
	if !there {
		up := "none is up"
		if names := lab.List(lab.DefaultDir); len(names) > 0 {
			up = "up: " + strings.Join(names, ", ")
		}
		return api.Errorf(api.CodeNotFound, "", "there is no lab %s; %s", name, up)
	}
	return lab.Down(c.Context, lab.DefaultDir, name)
}

func (e *env) labList(c *cli.Context) error {
	if err := countArgs(c, 0, 0); err != nil {
		return err
	}
	type entry struct {
		Name  string   `json:"name"`
		Hosts []string `json:"hosts"`
	}
	all, v := []entry{}, view{head: []string{"NAME", "HOSTS"}}
	for _, name := range lab.List(lab.DefaultDir) {
		l, err := lab.Open(name)
		if err != nil {
			continue // taken down since
		}
		all = append(all, entry{name, l.Hosts()})
		v.rows = append(v.rows, []string{name, strconv.Itoa(len(l.Hosts()))})
		v.names = append(v.names, name)
	}
	return e.show(c, all, v)
}

func labsUp() []string { return lab.List(lab.DefaultDir) }

// labHint adds to an error that no agent answers that a lab is up, which the user may have meant.
func (e *env) labHint(err error) error {
	var a *api.Error
	if !errors.As(err, &a) || !strings.HasPrefix(a.Message, "no agent answers at ") || strings.Contains(a.Message, lab.DefaultDir) {
		return err
	}
	names := e.labs()
	if len(names) == 0 {
		return err
	}
	return api.Errorf(a.Code, a.Hint+"; a lab is up: "+labEval(names[0]), "%s", a.Message)
}

func (e *env) labStatus(_ context.Context, c *cli.Context, l *lab.Lab) error {
	all, err := l.Status()
	if err != nil {
		return err
	}
	v := view{head: []string{"MACHINE", "ADDRESS", "POWER", "AGENT", "LAN", "INIT"}, wide: 1}
	for _, m := range all {
		power, agent, lan := "off", "-", "-"
		if m.On {
			power, lan = "on", "connected"
			if m.Name != lab.Outside {
				agent = "down"
			}
			if m.Partitioned {
				lan = "cut off"
			}
			if m.Agent != 0 {
				agent = "pid " + strconv.Itoa(m.Agent)
			}
		}
		v.rows = append(v.rows, []string{m.Name, m.Address, power, agent, lan, strconv.Itoa(m.Init)})
		v.names = append(v.names, m.Name)
	}
	return e.show(c, all, v)
}

func (e *env) labExec(ctx context.Context, c *cli.Context, l *lab.Lab) error {
	if e.terminal(e.stdin) {
		ctx = context.WithoutCancel(ctx) // ^C is for the command, which shares the terminal
	}
	code, err := l.Exec(ctx, c.Args().First(), c.Args().Tail(), e.stdin, e.stdout, e.stderr)
	if err == nil && code != 0 {
		err = exitCode(code)
	}
	return err
}

func (e *env) labEnv(c *cli.Context) error {
	if err := countArgs(c, 0, 1); err != nil {
		return err
	}
	name, err := labName(c)
	if err != nil {
		return err
	}
	l, err := lab.Open(name)
	if err != nil {
		return labError(err)
	}
	host := c.Args().First()
	if host == "" {
		host = l.Hosts()[0]
	}
	if l.Address(host) == "" || host == lab.Outside {
		return api.Errorf(api.CodeNotFound, "", "%s is no host of the lab, it has %s", host, strings.Join(l.Hosts(), ", "))
	}
	_, err = fmt.Fprintf(e.stdout, "export VZCLUSTER_HOST=%s\n", l.Endpoint(host))
	return err
}

func (e *env) labLogs(ctx context.Context, c *cli.Context, l *lab.Lab) error {
	host := c.Args().First()
	if l.Address(host) == "" {
		return fmt.Errorf("%s: %w; it has %s", host, lab.ErrNoMachine, strings.Join(l.Hosts(), ", "))
	}
	if host == lab.Outside {
		return fmt.Errorf("%s: %w", host, lab.ErrNoAgent)
	}
	f, err := os.Open(l.Log(host))
	if errors.Is(err, os.ErrNotExist) {
		return nil // nothing was written yet
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if _, err := io.Copy(e.stdout, f); err != nil || !c.Bool("follow") {
			return err
		}
		if err := e.pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}
