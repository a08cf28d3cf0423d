package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
	"github.com/vzcluster/vzcluster/runtime/image"
)

const (
	demoName     = "demo" // of its lab
	demoRecipe   = "debian-12"
	demoHosts    = 3
	demoCPUs     = 4                // cores that each host offers: shares, more of them than most machines have
	demoRAM      = 1536 << 20       // bytes that each host offers
	demoPatience = 60 * time.Second // for anything that should happen
)

// demoPackages are what the demo's containers run beyond the base of the template.
func demoPackages() []string { return []string{"redis-server", "nginx"} }

// demo is one run of the story. Its steps are in demo_steps.go and demo_moves.go, in the order in which they are told.
type demo struct {
	e      *env
	say    *narrator
	fresh  bool
	keep   bool
	lab    *lab.Lab
	cts    []api.Container // as they were created; the first one is the counter
	count  *counterSession
	shell  *shellSession
	stop   context.CancelFunc // ends both sessions
	result demoResult
}

func demoCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "the whole story on this machine: place, move live, survive, consolidate",
		Description: "Makes a lab of three hosts, runs nine Debian containers in it, moves one under a client's open connections,\n" +
			"kills agents, frees a host, and takes the lab away again. Every step is checked and measured; needs root.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "fresh", Usage: "build the template again even if the cache has it"},
			&cli.BoolFlag{Name: "keep", Usage: "leave the lab up at the end, to look around in it"},
		},
		Action: e.demo,
	}
}

func (e *env) demo(c *cli.Context) error {
	if err := countArgs(c, 0, 0); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGHUP) // the lab goes with the terminal
	defer stop()
	d := &demo{e: e, fresh: c.Bool("fresh"), keep: c.Bool("keep"), say: newNarrator(e.stderr, e.terminal(e.stderr))}
	if err := d.run(ctx); err != nil {
		return err
	}
	fmt.Fprintln(e.stderr)
	return e.show(c, d.result, d.result.view())
}

// step is a chapter of the story. Its function fails with one sentence when what it shows did not happen.
type step struct {
	title string
	do    func(context.Context) error
}

func (d *demo) steps() []step {
	return []step{
		{"Three hosts come up and form a cluster", d.labUp},
		{"A Debian 12 template (systemd, sshd, redis, nginx) is made of packages and sent to the cluster", d.template},
		{"Nine containers are created without naming a host", d.createAll},
		{"A machine outside counts in redis over one TCP connection and holds an ssh session open", d.connect},
		{"The container moves to another host while both go on", d.firstMove},
		{"The agent of the host that it is on now is killed with -9", d.killAgent},
		{"The container moves again", d.secondMove},
		{"Client and server compare their books", d.balance},
		{"The leader is killed and stays down", d.killLeader},
		{"Half of the containers are destroyed", d.destroyHalf},
		{"What is left is consolidated: a host is freed by live migration", d.consolidate},
	}
}

// run tells the story and takes the lab away whatever happens.
func (d *demo) run(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return api.Errorf(api.CodeDenied, "run it with sudo", "the demo needs root")
	}
	if missing := missingPrograms("criu", "runc", "nft", "ip", "ssh", "ssh-keygen"); len(missing) > 0 {
		return api.Errorf(api.CodeFailed, "run `vzcluster setup` first", "this machine lacks %s", strings.Join(missing, ", "))
	}
	one, err := net.Listen("unix", "@vzcluster-demo") // gone with this process
	if err != nil {
		return api.Errorf(api.CodeConflict, "wait for its end", "another demo runs on this machine")
	}
	defer one.Close()
	defer func() {
		if ctx.Err() != nil {
			err = ctx.Err() // whatever it broke
			d.say.line("interrupted")
		}
		err = errors.Join(err, d.labDown(ctx, err))
		d.result.TotalSeconds = d.say.elapsed().Seconds()
	}()
	steps := d.steps()
	for i, s := range steps {
		d.say.step(i+1, len(steps), s.title)
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("step %d of the demo failed: %w", i+1, err)
		}
	}
	return nil
}

// missingPrograms names the programs that neither set-up nor the machine has.
func missingPrograms(names ...string) (missing []string) {
	for _, n := range names {
		_, err := os.Stat(filepath.Join("/var/cache/vzcluster/bin", n))
		if _, err2 := exec.LookPath(n); err != nil && err2 != nil {
			missing = append(missing, n)
		}
	}
	return missing
}

func (d *demo) labUp(ctx context.Context) error {
	if err := lab.Down(ctx, "", demoName); err != nil { // what a killed demo left
		return err
	}
	start := time.Now()
	l, err := lab.Up(ctx, lab.Options{
		Name: demoName, Hosts: demoHosts, CPUs: demoCPUs, RAM: demoRAM, Progress: func(s string) { d.say.line("%s", s) },
	})
	if err != nil {
		return err
	}
	d.lab = l
	st, err := d.status(ctx, l.Hosts()[0])
	if err != nil {
		return err
	}
	d.result.LabSeconds = time.Since(start).Seconds()
	d.say.line("%s are one cluster, all of them vote, %s leads: %.1f s", list(l.Hosts()), st.Leader, d.result.LabSeconds)
	d.say.line("each offers %d cores and %s to containers; they share no files, only a LAN", demoCPUs, size(demoRAM))
	return nil
}

// labDown ends the client sessions and the lab, also after an interruption.
func (d *demo) labDown(ctx context.Context, failed error) error {
	if d.stop != nil {
		d.stop()
	}
	if d.lab == nil {
		return nil
	}
	fmt.Fprintln(d.e.stderr)
	if d.keep {
		d.say.line("the lab stays: eval \"$(vzcluster lab env --name %s)\"; vzcluster lab down --name %s takes it away", demoName, demoName)
		return nil
	}
	d.say.line("taking the lab down")
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := d.lab.Down(clean); err != nil {
		return fmt.Errorf("the lab could not be taken down, `vzcluster lab down --name %s` may: %w", demoName, err)
	}
	d.say.line("the lab is gone, with everything in it")
	if failed != nil && ctx.Err() == nil {
		d.say.line("`vzcluster demo --keep` would leave it for a look")
	}
	return nil
}

// buildTree makes the template's archive, or takes the cached one; age is zero for a new one.
func (d *demo) buildTree(ctx context.Context) (path string, age time.Duration, err error) {
	start := time.Now()
	log := &lineWriter{say: func(s string) { d.say.line("%s", s) }}
	path, err = image.Build(ctx, demoRecipe, image.BuildOptions{Include: demoPackages(), Fresh: d.fresh, Log: log})
	if err != nil {
		return "", 0, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", 0, err
	}
	return path, max(0, start.Sub(info.ModTime())), nil
}

// inOutside runs a command on the machine outside and returns what it printed.
func (d *demo) inOutside(ctx context.Context, args ...string) (string, error) {
	var out, said bytes.Buffer
	code, err := d.lab.Exec(ctx, lab.Outside, args, nil, &out, &said)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "", err
	case code != 0:
		return "", fmt.Errorf("%s on %s failed: %s", args[0], lab.Outside, lastLine(said.String()))
	}
	return out.String(), nil
}

// startOutside runs a command on the machine outside in the background; ended gets its fate, and is closed.
func (d *demo) startOutside(ctx context.Context, stdin io.Reader, stdout io.Writer, args ...string) (ended <-chan error) {
	done := make(chan error, 1)
	go func() {
		defer close(done)
		var said bytes.Buffer
		code, err := d.lab.Exec(ctx, lab.Outside, args, stdin, stdout, &said)
		if err == nil && code != 0 {
			err = fmt.Errorf("it ended with code %d: %s", code, lastLine(said.String()))
		}
		done <- err
	}()
	return done
}
