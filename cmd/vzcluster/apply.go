package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// wish is a container as a file describes it. What is left out is not touched.
type wish struct {
	Name        string            `yaml:"name"`
	Template    string            `yaml:"template"`
	Host        string            `yaml:"host"` // where it is created; it is not moved there later
	State       string            `yaml:"state"`
	RAM         string            `yaml:"ram"`
	Swap        string            `yaml:"swap"`
	CPUs        string            `yaml:"cpus"`
	Disk        string            `yaml:"disk"`
	Hostname    string            `yaml:"hostname"`
	IP          string            `yaml:"ip"`
	Description *string           `yaml:"description"`
	OnBoot      string            `yaml:"onboot"`
	BootOrder   *int              `yaml:"bootorder"`
	Labels      map[string]string `yaml:"labels"`
}

// change is one thing that makes the cluster what a file says.
type change struct {
	Container string `json:"container"`
	What      string `json:"what"`
	do        func(ctx context.Context, cl *api.Client) error
}

const applyHelp = `The file is YAML, one container in each document:

   name: web
   template: debian-12
   state: running        # or stopped; left out: as it is
   ram: 1G
   cpus: 0.5
   labels: {tier: front}

Others: swap, disk, host, hostname, ip, description, onboot, bootorder. What is left out is not touched; containers that the file does not name neither.
Unknown keys are refused before anything is changed. Example: vzcluster `

func applyCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "apply", Usage: "make containers what a file says", Flags: []cli.Flag{fileFlag(), timeoutFlag()},
		Description: applyHelp + "apply -f web.yaml",
		Action:      e.with(0, 0, e.apply),
	}
}

func diffCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "diff", Usage: "show what apply would change; exits with 1 if anything", Flags: []cli.Flag{fileFlag(), timeoutFlag()},
		Description: applyHelp + "diff -f web.yaml",
		Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			cs, err := e.changes(ctx, c, cl)
			if err != nil {
				return err
			}
			if err := e.show(c, cs, changeView(cs)); err != nil || len(cs) == 0 {
				return err
			}
			return exitCode(1)
		}),
	}
}

func fileFlag() cli.Flag {
	return &cli.StringFlag{Name: "file", Aliases: []string{"f"}, Required: true, Usage: "read `FILE`; - is the standard input"}
}

func changeView(cs []change) view {
	v := view{head: []string{"CONTAINER", "CHANGE"}}
	for _, c := range cs {
		v.names = append(v.names, c.Container)
		v.rows = append(v.rows, []string{c.Container, c.What})
	}
	return v
}

// apply carries the changes out, one after the other, and stops at the first that fails.
func (e *env) apply(ctx context.Context, c *cli.Context, cl *api.Client) error {
	cs, err := e.changes(ctx, c, cl)
	if err != nil {
		return err
	}
	for _, ch := range cs {
		if err := ch.do(ctx, cl); err != nil {
			return err
		}
		e.progress("%s: %s", ch.Container, ch.What)
	}
	return e.show(c, cs, changeView(cs))
}

// changes compares a file with what there is.
func (e *env) changes(ctx context.Context, c *cli.Context, cl *api.Client) ([]change, error) {
	wait, err := flagValue(c, "timeout", parseDuration)
	if err != nil {
		return nil, err
	}
	wishes, err := e.readWishes(c)
	if err != nil {
		return nil, err
	}
	now, err := cl.Containers(ctx)
	if err != nil {
		return nil, err
	}
	var out []change
	for _, w := range wishes {
		var old *api.Container
		for i := range now {
			if now[i].Name == w.Name {
				old = &now[i]
			}
		}
		some, err := w.changes(old, api.ActionRequest{Wait: wait})
		if err != nil {
			return nil, usagef(c, "%s: %v", w.Name, err)
		}
		out = append(out, some...)
	}
	return out, nil
}

func (e *env) readWishes(c *cli.Context) ([]wish, error) {
	in := e.stdin
	if name := c.String("file"); name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usagef(c, "the file cannot be read: %v", err)
		}
		defer f.Close()
		in = f
	}
	var out []wish
	d := yaml.NewDecoder(in, yaml.DisallowUnknownField())
	seen := map[string]bool{}
	for {
		var w wish
		err := d.Decode(&w)
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			said, _, _ := strings.Cut(err.Error(), "\n")
			return nil, usagef(c, "%s: %s", c.String("file"), said)
		case w.Name == "" || seen[w.Name]:
			return nil, usagef(c, "%s: document %d has no name, or that of another one", c.String("file"), len(out)+1)
		}
		seen[w.Name] = true
		out = append(out, w)
	}
}

// limits reads the sizes over what there is.
func (w wish) limits(old cluster.Limits) (cluster.Limits, error) {
	for _, f := range []struct {
		key, text string
		to        *int64
		parse     func(string) (int64, error)
	}{
		{"ram", w.RAM, &old.RAM, parseAmount},
		{"swap", w.Swap, &old.Swap, parseAmount},
		{"disk", w.Disk, &old.Disk, parseAmount},
		{"cpus", w.CPUs, &old.MilliCPU, parseCPUs},
	} {
		if f.text == "" {
			continue
		}
		n, err := f.parse(f.text)
		if err != nil {
			return old, fmt.Errorf("%s: %w", f.key, err)
		}
		*f.to = n
	}
	return old, nil
}

// changes of one container, in the order in which they are made.
func (w wish) changes(old *api.Container, r api.ActionRequest) ([]change, error) {
	if w.State != "" && w.State != "running" && w.State != "stopped" {
		return nil, fmt.Errorf("state: %s is neither running nor stopped", w.State)
	}
	add := func(out []change, what string, do func(ctx context.Context, cl *api.Client) error) []change {
		return append(out, change{w.Name, what, do})
	}
	var out []change
	if old == nil {
		made, err := w.create()
		if err != nil {
			return nil, err
		}
		out = add(out, "create from "+w.Template, func(ctx context.Context, cl *api.Client) error {
			_, err := cl.Create(ctx, made)
			return err
		})
		old = &api.Container{Container: cluster.Container{Name: w.Name, Limits: made.Limits, Hostname: made.Hostname, Labels: made.Labels, Desired: cluster.WantStopped, Template: w.Template}}
	}
	set, said, err := w.set(old)
	if err != nil {
		return nil, err
	}
	if len(said) > 0 {
		out = add(out, strings.Join(said, ", "), func(ctx context.Context, cl *api.Client) error {
			_, err := cl.Set(ctx, w.Name, set)
			return err
		})
	}
	if verb := w.verb(old); verb != "" {
		out = add(out, verb, func(ctx context.Context, cl *api.Client) error {
			_, err := cl.Action(ctx, w.Name, verb, r)
			return err
		})
	}
	return out, nil
}

// create is the request for a container that is not there.
func (w wish) create() (api.CreateRequest, error) {
	if w.Template == "" {
		return api.CreateRequest{}, errors.New("template: a container that is not there yet needs one")
	}
	limits, err := w.limits(cluster.Limits{RAM: 512 << 20, MilliCPU: 1000, CPUUnits: 1024, Disk: 2 << 30})
	if err != nil {
		return api.CreateRequest{}, err
	}
	ip := w.IP
	if ip == "" {
		ip = "auto"
	}
	if ip, err = parseIP(ip); err != nil {
		return api.CreateRequest{}, fmt.Errorf("ip: %w", err)
	}
	return api.CreateRequest{Name: w.Name, Template: w.Template, Host: w.Host, Hostname: w.Hostname, IP: ip, Limits: limits, Labels: w.Labels}, nil
}

// set is what differs, and says so.
func (w wish) set(old *api.Container) (r api.SetRequest, said []string, err error) {
	if w.Template != "" && w.Template != old.Template {
		return r, nil, fmt.Errorf("template: it was made from %s; `vzcluster reinstall` exchanges that", old.Template)
	}
	limits, err := w.limits(old.Limits)
	if err != nil {
		return r, nil, err
	}
	size := func(key string, from, to int64, field **int64, print func(int64) string) {
		if from != to {
			*field = &to
			said = append(said, fmt.Sprintf("%s: %s to %s", key, print(from), print(to)))
		}
	}
	size("ram", old.Limits.RAM, limits.RAM, &r.RAM, cluster.Bytes)
	size("swap", old.Limits.Swap, limits.Swap, &r.Swap, cluster.Bytes)
	size("cpus", old.Limits.MilliCPU, limits.MilliCPU, &r.MilliCPU, cluster.Cores)
	size("disk", old.Limits.Disk, limits.Disk, &r.Disk, cluster.Bytes)
	if w.Hostname != "" && w.Hostname != old.Hostname {
		r.Hostname = &w.Hostname
		said = append(said, "hostname: "+w.Hostname)
	}
	if w.Description != nil && *w.Description != old.Text {
		r.Text = w.Description
		said = append(said, "description: "+orNothing(*w.Description))
	}
	if boot := cluster.OnBoot(strings.TrimPrefix(w.OnBoot, "as-before")); w.OnBoot != "" && boot != old.OnBoot {
		r.OnBoot = &boot
		said = append(said, "onboot: "+w.OnBoot)
	}
	if w.BootOrder != nil && *w.BootOrder != old.BootOrder {
		r.BootOrder = w.BootOrder
		said = append(said, fmt.Sprintf("bootorder: %d", *w.BootOrder))
	}
	for k, v := range w.Labels {
		if old.Labels[k] != v {
			if r.Labels == nil {
				r.Labels = map[string]string{}
			}
			r.Labels[k] = v
		}
	}
	if len(r.Labels) > 0 {
		said = append(said, "labels: "+labels(r.Labels))
	}
	return r, said, nil
}

// verb brings it into the state that is wished; "" if it is.
func (w wish) verb(old *api.Container) string {
	switch {
	case w.State == "running" && old.Desired != cluster.WantRunning:
		return "start"
	case w.State == "stopped" && old.Desired != cluster.WantStopped:
		return "stop"
	}
	return ""
}
