package main

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// demoContainers is how many there are, the one with the counter included.
const demoContainers = 9

// at calls f with a client of a host's agent.
func (d *demo) at(host string, f func(*api.Client) error) error {
	cl, err := d.lab.Client(host)
	if err != nil {
		return err
	}
	defer cl.Close()
	return f(cl)
}

func (d *demo) status(ctx context.Context, host string) (st api.Status, err error) {
	err = d.at(host, func(cl *api.Client) (err error) {
		st, err = cl.Status(ctx)
		return err
	})
	return st, err
}

// until asks every 50 ms until the answer is yes; what completes "the demo waited in vain: ".
func (d *demo) until(ctx context.Context, what string, ask func(context.Context) (bool, error)) error {
	waiting, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	for {
		yes, err := ask(waiting)
		if yes && err == nil {
			return nil
		}
		if d.e.pause(waiting, 50*time.Millisecond) == nil {
			continue
		}
		if ctx.Err() == nil && err != nil {
			return fmt.Errorf("after %s still not: %s: %w", demoPatience, what, err)
		}
		return fmt.Errorf("after %s still not: %s", demoPatience, what)
	}
}

// in runs a shell script in a container and returns its output without the last newline.
func (d *demo) in(ctx context.Context, ct, script string, stdin string) (string, error) {
	var out, said bytes.Buffer
	err := d.at(d.lab.Hosts()[0], func(cl *api.Client) error {
		code, err := cl.Exec(ctx, ct, api.Exec{Args: []string{"sh", "-ec", script}}, api.Streams{
			Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &said,
		})
		if err == nil && code != 0 {
			err = fmt.Errorf("it ended with code %d: %s", code, lastLine(said.String()))
		}
		if err != nil {
			return fmt.Errorf("exec in %s failed: %w", ct, err)
		}
		return nil
	})
	return strings.TrimRight(out.String(), "\n"), err
}

func (d *demo) template(ctx context.Context) error {
	start := time.Now()
	path, age, err := d.buildTree(ctx)
	if err != nil {
		return err
	}
	r := &d.result.Template
	r.BuildS, r.AgeSeconds = time.Since(start).Seconds(), age.Seconds()
	archive, err := os.Open(path)
	if err != nil {
		return err
	}
	defer archive.Close()
	host := d.lab.Hosts()[0]
	d.say.line("sending it to %s", host)
	start = time.Now()
	var t cluster.Template
	err = d.at(host, func(cl *api.Client) (err error) {
		t, err = cl.PutTemplate(ctx, demoRecipe, url.Values{"systemd": {"auto"}, "source": {"built from " + demoRecipe}}, archive)
		return err
	})
	if err != nil {
		return err
	}
	r.Bytes, r.SendSeconds = t.Size, time.Since(start).Seconds()
	if !t.Systemd {
		return fmt.Errorf("the template %s has no systemd", t.Name)
	}
	d.say.line("%s: %s, %s, unpacked and prepared for migration in %.1f s; `template show` lists the %d changes",
		t.Name, cluster.Bytes(t.Size), t.Digest[:min(19, len(t.Digest))], r.SendSeconds, len(t.Prepared))
	return nil
}

func demoNames() []string {
	names := []string{"counter"}
	for i := 1; i < demoContainers; i++ {
		names = append(names, fmt.Sprintf("web%d", i))
	}
	return names
}

// demoRequest asks for a small container, started, wherever the leader wants.
func demoRequest(name string) api.CreateRequest {
	return api.CreateRequest{
		Name: name, Template: demoRecipe, Start: true,
		Limits: cluster.Limits{RAM: 256 << 20, MilliCPU: 1000, CPUUnits: 1024, Disk: 512 << 20},
	}
}

func (d *demo) createAll(ctx context.Context) error {
	start, names, hosts := time.Now(), demoNames(), d.lab.Hosts()
	d.cts = make([]api.Container, len(names))
	times := make([]time.Duration, len(names))
	var g errgroup.Group
	for i, name := range names {
		g.Go(func() (err error) {
			d.cts[i], err = d.create(ctx, hosts[i%len(hosts)], name) // any agent takes it
			times[i] = time.Since(start)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r := &d.result.Create
	r.Containers, r.RunningS, r.MedianS = len(names), time.Since(start).Seconds(), median(times)
	v := view{head: []string{"CONTAINER", "HOST", "ADDRESS", "RUNS AFTER", "WHY THERE"}}
	for i, ct := range d.cts {
		v.rows = append(v.rows, []string{ct.Name, ct.Host, address(ct), fmt.Sprintf("%.1f s", times[i].Seconds()), dash(ct.Placement)})
	}
	d.say.line("all %d run; the hosts without the template have fetched it from a peer first", len(names))
	d.say.block(v.table())
	if err := d.allServe(ctx); err != nil {
		return err
	}
	r.ServingS = time.Since(start).Seconds()
	d.say.line("systemd has started nginx in all of them: each serves a page to the machine outside")
	return nil
}

// create creates a container through a host's agent and waits until it runs.
func (d *demo) create(ctx context.Context, host, name string) (ct api.Container, err error) {
	err = d.at(host, func(cl *api.Client) error {
		if ct, err = cl.Create(ctx, demoRequest(name)); err != nil {
			return fmt.Errorf("%s cannot be created: %w", name, err)
		}
		if ct, err = d.e.waitRunning(ctx, cl, ct, demoPatience); err == nil {
			d.say.line("%-8s runs on %s", name, ct.Host)
		}
		return err
	})
	return ct, err
}

// address is a container's first address without its prefix length.
func address(ct api.Container) string {
	if len(ct.Addresses) == 0 {
		return ""
	}
	addr, _, _ := strings.Cut(ct.Addresses[0], "/")
	return addr
}

// allServe has the machine outside fetch a page from each container.
func (d *demo) allServe(ctx context.Context) error {
	args := []string{"vzcluster", "demo-client", "http"}
	for _, ct := range d.cts {
		args = append(args, address(ct))
	}
	_, err := d.inOutside(ctx, args...)
	return err
}

func (d *demo) connect(ctx context.Context) error {
	const key = "/run/demo-key" // of the machine outside
	if _, err := d.inOutside(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f", key); err != nil {
		return err
	}
	public, err := d.inOutside(ctx, "cat", key+".pub")
	if err != nil {
		return err
	}
	ct := d.cts[0]
	const prepare = `umask 077; mkdir -p /root/.ssh; cat >/root/.ssh/authorized_keys
		for unit in redis-server ssh; do until systemctl -q is-active $unit; do sleep 0.1; done; done
		until redis-cli ping >/dev/null 2>&1; do sleep 0.1; done
		redis-cli config set protected-mode no; redis-cli config set bind '* -::*'`
	if _, err := d.in(ctx, ct.Name, prepare, public); err != nil {
		return err
	}
	sessions, stop := context.WithCancel(ctx)
	d.stop = stop
	if d.count, err = d.startCounter(sessions, address(ct)); err != nil {
		return err
	}
	d.shell = d.startShell(sessions, key, address(ct))
	r, err := d.count.progressed(ctx, d.e, 0, 1000)
	if err != nil {
		return err
	}
	lines, err := d.shell.progressed(ctx, d.e, 0, 10)
	if err != nil {
		return err
	}
	d.say.line("%s -> %s:6379 (%s on %s): INCR, wait for the reply, it must be one more; %d so far", r.Client, address(ct), ct.Name, ct.Host, r.Acked)
	d.say.line("ssh root@%s prints a numbered line every 20 ms; %d so far", address(ct), lines)
	return nil
}

// balance ends both sessions and looks whether anything was lost or doubled.
func (d *demo) balance(ctx context.Context) error {
	r, err := d.count.stop()
	if err != nil {
		return err
	}
	d.result.Count = r
	d.say.line("increments: %d sent, %d acknowledged, a fresh connection reads %d: %d lost, %d doubled", r.Sent, r.Acked, r.Counter, r.Lost, r.Doubled)
	if r.Lost != 0 || r.Doubled != 0 || r.Counter != r.Acked || r.Sent != r.Acked {
		return fmt.Errorf("redis has %d where %d increments were acknowledged", r.Counter, r.Acked)
	}
	if _, err := d.in(ctx, d.cts[0].Name, ": >"+shellEnd, ""); err != nil {
		return err
	}
	select {
	case err = <-d.shell.ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	lines, ended, wrong := d.shell.lines.state()
	d.result.SSHLines, d.result.SSHGapMS = lines, float64(d.shell.lines.longest().Microseconds())/1000
	switch {
	case wrong != nil:
		return fmt.Errorf("the ssh session lost something: %w", wrong)
	case err != nil || !ended:
		return fmt.Errorf("the ssh session did not reach its end: %w", err)
	}
	d.say.line("ssh: %d lines and the end, all of them there and in order", lines)
	return nil
}

// firstProcesses returns when PID 1 of each of the containers on a host was started, in clock ticks of the machine: it
// changes when a container is started again.
func (d *demo) firstProcesses(ctx context.Context, host string) (map[string]int, error) {
	st, err := d.status(ctx, host)
	if err != nil {
		return nil, err
	}
	born := map[string]int{}
	for _, ct := range st.Containers {
		if ct.Host != host {
			continue
		}
		text, err := d.in(ctx, ct.Name, "cut -d' ' -f22 /proc/1/stat", "")
		if err != nil {
			return nil, err
		}
		if born[ct.Name], err = strconv.Atoi(text); err != nil {
			return nil, fmt.Errorf("the start of %s's PID 1 cannot be read: %w", ct.Name, err)
		}
	}
	return born, nil
}
