package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/lab/vm"
)

// labVMCommand is the second kind of lab. It stays in the foreground, since its machines end with the process.
func (e *env) labVMCommand() *cli.Command {
	return &cli.Command{
		Name: "vm", Usage: "a lab of QEMU machines, each with its own kernel, until ^C",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "hosts", Aliases: []string{"n"}, Value: 2, Usage: "`N` machines"},
			&cli.StringFlag{Name: "host-ram", Value: "1536M", Usage: "memory `SIZE` of each machine"},
		},
		Action: e.labVM,
	}
}

func (e *env) labVM(c *cli.Context) error {
	if err := countArgs(c, 0, 0); err != nil {
		return err
	}
	o := vm.Options{Hosts: c.Int("hosts"), Tell: func(step string) { e.progress("lab: %s", step) }}
	if o.Hosts < 1 || o.Hosts > vm.MaxHosts {
		return usagef(c, "hosts: such a lab has between 1 and %d hosts, not %d", vm.MaxHosts, o.Hosts)
	}
	var err error
	if o.Memory, err = flagValue(c, "host-ram", parseAmount); err != nil {
		return err
	}
	if o.Binary, err = os.Executable(); err != nil {
		return fmt.Errorf("cannot find this program: %w", err)
	}
	if o.Binary, err = filepath.EvalSymlinks(o.Binary); err != nil {
		return fmt.Errorf("cannot find this program: %w", err)
	}
	start := time.Now()
	l, err := vm.Up(c.Context, o)
	if err != nil {
		return err
	}
	e.progress("lab: up in %.0f s; to talk to it, in another shell:", time.Since(start).Seconds())
	for _, m := range l.Machines() {
		if _, err := fmt.Fprintf(e.stdout, "export VZCLUSTER_HOST=unix://%s   # %s; a shell on it: %s\n", m.Socket(), m.Name, m.Shell()); err != nil {
			return err
		}
	}
	<-c.Context.Done()
	return l.Down()
}
