package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime/image"
)

// labName is the name of the benchmarks' lab; it is theirs alone.
const labName = "bench"

// Where things are inside a lab host.
const (
	hostData = "/var/lib/vzcluster"
	hostSelf = "/run/vzbench" // this program
)

// bench is what cases share: the lab, made when the first case needs it, with templates and programs in it.
type bench struct {
	options options
	dir     string // for programs built for the run
	lab     *lab.Lab
	clients map[string]*api.Client
	roles   roles
	ready   map[string]prepared // by host and template
	nextID  int
}

// roles are what the hosts of the lab are used for.
type roles struct {
	leader string // of the cluster
	owner  string // gets the containers that are measured
	asked  string // gets the requests
}

// prepared is a template that is on a host, with the OCI specification that our agent writes for it there.
type prepared struct {
	tree   string // the unpacked template, inside the host
	uid    uint32
	config []byte
}

func newBench(o options) (*bench, error) {
	binary, err := filepath.Abs(o.binary)
	if err == nil {
		_, err = os.Stat(binary)
	}
	if err != nil {
		return nil, fmt.Errorf("build vzcluster first (`make build`): %w", err)
	}
	o.binary = binary
	dir, err := os.MkdirTemp("", "vzbench-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the programs of the run: %w", err)
	}
	return &bench{options: o, dir: dir, clients: map[string]*api.Client{}, ready: map[string]prepared{}, nextID: 5000}, nil
}

// say tells people what goes on.
func (b *bench) say(format string, args ...any) { fmt.Fprintf(os.Stderr, "# "+format+"\n", args...) }

// close takes the lab down, also after an interrupt.
func (b *bench) close() error {
	for _, c := range b.clients {
		c.Close()
	}
	err := os.RemoveAll(b.dir)
	if b.lab != nil {
		b.say("taking the lab down")
		err = errors.Join(err, down(labName))
	}
	return err
}

func down(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return lab.Down(ctx, "", name)
}

// up makes the lab and the cluster, once. What an earlier run that was killed has left is taken away first.
func (b *bench) up(ctx context.Context) error {
	if b.lab != nil {
		return nil
	}
	if err := down(labName); err != nil {
		return err
	}
	l, err := lab.Up(ctx, lab.Options{Name: labName, Hosts: 3, Binary: b.options.binary})
	if err != nil {
		return err
	}
	b.lab = l
	for _, h := range l.Hosts() {
		if b.clients[h], err = l.Client(h); err != nil {
			return err
		}
		if err := b.install(ctx, h); err != nil {
			return err
		}
	}
	st, err := b.clients[l.Hosts()[0]].Status(ctx)
	if err != nil {
		return err
	}
	b.roles.leader = st.Leader
	for _, h := range l.Hosts() {
		switch {
		case h == st.Leader:
		case b.roles.owner == "":
			b.roles.owner = h
		default:
			b.roles.asked = h
		}
	}
	b.say("the lab is up: %s leads, %s has the containers, %s is asked", b.roles.leader, b.roles.owner, b.roles.asked)
	return nil
}

// client is that of the host that is asked.
func (b *bench) client() *api.Client { return b.clients[b.roles.asked] }

// install puts this program into a host, to carry out the floors there.
func (b *bench) install(ctx context.Context, host string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	return b.put(ctx, host, self, hostSelf)
}

// put copies a program into a machine of the lab.
func (b *bench) put(ctx context.Context, host, from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy a program to %s: %w", host, err)
	}
	defer f.Close()
	_, err = b.exec(ctx, host, f, "sh", "-c", `cat >"$0.new" && chmod 755 "$0.new" && mv "$0.new" "$0"`, to)
	return err
}

// exec runs a command on a machine of the lab and returns what it printed.
func (b *bench) exec(ctx context.Context, host string, stdin io.Reader, args ...string) ([]byte, error) {
	var out, errs bytes.Buffer
	code, err := b.lab.Exec(ctx, host, args, stdin, &out, &errs)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, strings.TrimSpace(errs.String()))
	}
	if err != nil {
		return out.Bytes(), fmt.Errorf("%s on %s: %w", filepath.Base(args[0]), host, err)
	}
	return out.Bytes(), nil
}

// template makes sure that the cluster has a template.
func (b *bench) template(ctx context.Context, name string) (cluster.Template, error) {
	if t, err := b.client().Template(ctx, name); err == nil {
		return t, nil
	}
	file, err := image.Build(ctx, name, image.BuildOptions{Log: os.Stderr})
	if err != nil {
		return cluster.Template{}, err
	}
	f, err := os.Open(file)
	if err != nil {
		return cluster.Template{}, fmt.Errorf("read the template %s: %w", name, err)
	}
	defer f.Close()
	return b.client().PutTemplate(ctx, name, url.Values{"systemd": {"auto"}, "source": {"vzbench"}}, f)
}

// prepare brings a template to a host by running a container of it once, which is not measured.
func (b *bench) prepare(ctx context.Context, host, template string) (prepared, error) {
	key := host + " " + template
	if p, ok := b.ready[key]; ok {
		return p, nil
	}
	t, err := b.template(ctx, template)
	if err != nil {
		return prepared{}, err
	}
	c, err := b.create(ctx, host, template)
	if err != nil {
		return prepared{}, err
	}
	config, err := b.exec(ctx, host, nil, "cat", fmt.Sprintf("%s/containers/%d/bundle/config.json", hostData, c.ID))
	if err != nil {
		return prepared{}, err
	}
	hex, _ := strings.CutPrefix(t.Digest, "sha256:")
	p := prepared{tree: hostData + "/templates/" + hex + "/rootfs", uid: c.UIDBase, config: config}
	b.ready[key] = p
	return p, b.destroy(ctx, c)
}

// buildProgram builds the program of a folder beside this one, without the C library of the machine.
func (b *bench) buildProgram(ctx context.Context, name string) (string, error) {
	out := filepath.Join(b.dir, name)
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		goTool = "/usr/local/go/bin/go" // where sudo's PATH does not look
	}
	cmd := exec.CommandContext(ctx, goTool, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out,
		"github.com/vzcluster/vzcluster/cmd/vzbench/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program %s: %w: %s", name, err, text)
	}
	return out, nil
}
