// Package vzctl answers as the tools of OpenVZ: vzctl, vzlist and vzmigrate, with their verbs, options, words and exit
// codes, for people and scripts that know them. The program is one of these tools when it is called by its name.
//
// It owns the translation only, and nothing of a container: what it does it asks an agent for. The one rule for
// callers: what a tool of OpenVZ can say and this cluster cannot do gets a sentence, never silence.
package vzctl

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcluster/vzcluster/agent/api"
)

// Env is what a tool may touch of the outside.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Version        string
	Connect        func() (*api.Client, error)
	// Hash makes of a password what crypt(5) describes.
	Hash func(password string) (string, error)
	// Session runs a command in a container with the caller's streams, and its terminal if wanted; it returns the exit code.
	Session func(ctx context.Context, cl *api.Client, ct string, x api.Exec) (int, error)
}

// Tool returns which of the tools a program name stands for, or "".
func Tool(program string) string {
	name := filepath.Base(program)
	if slices.Contains([]string{"vzctl", "vzlist", "vzmigrate"}, name) {
		return name
	}
	return ""
}

// Run runs one of the tools and returns its exit code.
func Run(ctx context.Context, name string, args []string, env Env) int {
	t := &tool{Env: env, name: name}
	run := map[string]func(context.Context, []string) error{"vzctl": t.vzctl, "vzlist": t.vzlist, "vzmigrate": t.vzmigrate}[name]
	err := run(ctx, args)
	if t.cl != nil {
		t.cl.Close()
	}
	if err == nil {
		return 0
	}
	if err.Error() != "" && !t.quiet {
		fmt.Fprintln(t.Stderr, err)
	}
	return exitOf(err, codeSystem)
}

// tool is one run of a tool.
type tool struct {
	Env
	name    string
	quiet   bool
	verbose int
	cl      *api.Client
}

// say prints a line of what goes on, as vzctl does, to stdout.
func (t *tool) say(format string, args ...any) {
	if !t.quiet {
		fmt.Fprintf(t.Stdout, format+"\n", args...)
	}
}

// warn prints a line to stderr.
func (t *tool) warn(format string, args ...any) {
	if !t.quiet {
		fmt.Fprintf(t.Stderr, format+"\n", args...)
	}
}

func (t *tool) warnAll(lines []string) {
	for _, l := range lines {
		t.warn("%s", l)
	}
}

// client connects to the agent, once.
func (t *tool) client() (*api.Client, error) {
	if t.cl == nil {
		cl, err := t.Connect()
		if err != nil {
			return nil, fail(codeSystem, "%v", err)
		}
		t.cl = cl
	}
	return t.cl, nil
}

// verb is a command of vzctl that is about one container, given as the user wrote it.
type verb func(ctx context.Context, ct string, args []string) error

func (t *tool) verb(name string) verb {
	return map[string]verb{
		"create": t.create, "set": t.set, "destroy": t.destroy, "delete": t.destroy, "status": t.status,
		"suspend": t.suspend, "chkpnt": t.suspend, "resume": t.resume, "restore": t.resume,
		"snapshot": t.snapshot, "snapshot-switch": t.snapshotSwitch, "snapshot-delete": t.snapshotDelete, "snapshot-list": t.snapshotList,
		"start": t.start, "stop": t.stop, "restart": t.restart,
		"exec": t.exec, "exec2": t.exec2, "exec3": t.exec2, "enter": t.enter, "console": t.console, "runscript": t.runscript,
		"quotaon": t.quota, "quotaoff": t.quota, "quotainit": t.quota, "convert": t.ploop, "compact": t.ploop,
	}[name]
}

func (t *tool) vzctl(ctx context.Context, args []string) error {
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		switch args[0] {
		case "--verbose":
			t.verbose++
		case "--quiet":
			t.quiet = true
		case "--skiplock": // a lock is an operation under way, which nothing skips
		case "--version":
			t.say("vzctl version %s (vzcluster)", t.Version)
			return nil
		case "--help":
			fmt.Fprint(t.Stdout, usage)
			return nil
		default:
			return fail(codeSyntax, "Bad command: %s", args[0])
		}
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprint(t.Stderr, usage)
		return &failure{code: codeSyntax}
	}
	do := t.verb(args[0])
	switch {
	case do == nil:
		return fail(codeSyntax, "Bad command: %s", args[0])
	case len(args) < 2:
		return fail(codeValue, "CT ID missing")
	case args[1] == "0":
		return fail(codeValue, "Only containers have settings here, the host (CT0) has none")
	}
	if n, err := strconv.Atoi(args[1]); err == nil && n < 0 {
		return fail(codeValue, "Bad CT ID %s", args[1])
	}
	return do(ctx, args[1], args[2:])
}

// find returns a container by CTID or name.
func (t *tool) find(ctx context.Context, ct string) (api.Container, error) {
	cl, err := t.client()
	if err != nil {
		return api.Container{}, err
	}
	c, err := cl.Container(ctx, ct)
	if err == nil {
		return c, nil
	}
	if api.CodeOf(err) == api.CodeNotFound {
		if _, bad := strconv.Atoi(ct); bad != nil {
			return c, fail(codeValue, "Bad CT ID %s", ct)
		}
		return c, fail(codeNoConfig, "Container config file does not exist")
	}
	return c, classify(err, codeSystem)
}

const usage = `vzctl of vzcluster: the commands of OpenVZ, answered by a cluster.

vzctl [--quiet | --verbose] <command> <ctid | name> [options]

vzctl create <ctid> [--ostemplate <name>] [--config <name>] [--hostname <name>]
   [--name <name>] [--ipadd <addr>] [--ram <size>] [--swap <size>] ...
vzctl start <ctid> [--wait] [--force]
vzctl stop <ctid> [--fast]
vzctl restart <ctid> [--wait] [--fast]
vzctl suspend | resume | destroy | status <ctid>
vzctl snapshot <ctid> [--id <uuid>] [--name <name>] [--description <text>]
   [--skip-suspend]
vzctl snapshot-switch <ctid> --id <uuid> [--must-resume]
vzctl snapshot-delete <ctid> --id <uuid>
vzctl snapshot-list <ctid> [-H] [-o field[,field...]] [--id <uuid>]
vzctl exec | exec2 <ctid> <command> [arg ...]
vzctl enter <ctid> [--exec <command> [arg ...]]
vzctl console <ctid>
vzctl runscript <ctid> <script>
vzctl set <ctid> [--save] [--ram <size>] [--swap <size>] [--cpuunits <N>]
   [--cpulimit <percent>] [--cpus <N>] [--diskspace <size>]
   [--cpumask <cpus>] [--nodemask <nodes>] [--numproc <N>] [--ioprio <0-7>]
   [--iolimit <MB/s>] [--iopslimit <N>]
   [--hostname <name>] [--name <name>] [--description <text>]
   [--userpasswd <user>:<password>] [--onboot yes|no] [--bootorder <N>]
   [--ipadd <addr>] [--ipdel <addr>|all] [--netif_add <name>[,,,,<network>]]
   [--netif_del <name>] [--nameserver <addr>|inherit] [--searchdomain <name>]
   [--applyconfig <name>]

Sizes have a suffix: B K M G T, or P for pages of 4 KiB. Options of OpenVZ that
mean nothing here are accepted with a warning that says why.
`
