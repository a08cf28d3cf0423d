package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"
)

// floor is a container that is made and moved by hand, with plain runc, inside one lab host.
type floor struct {
	b     *bench
	host  string
	order order // what every order of it has in common
}

// newFloor returns the floor of a template on a host; nothing is there yet.
func (b *bench) newFloor(ctx context.Context, host, template string, mounts style) (*floor, error) {
	p, err := b.prepare(ctx, host, template)
	if err != nil {
		return nil, err
	}
	return &floor{b: b, host: host, order: order{
		Place: "A", Tree: p.tree, UID: p.uid, Config: p.config, Mounts: mounts,
		NIC: nic{Port: "vzfloor0", Bridge: "vzbr0", MAC: "02:00:00:00:00:77", Address: floorAddress + "/16"},
	}}, nil
}

// floorAddress is in the LAN, beyond what the cluster gives out.
const floorAddress = "10.77.251.7"

// do carries out an order inside the host.
func (f *floor) do(ctx context.Context, verb string) (done, error) {
	o := f.order
	o.Do = verb
	return f.b.inside(ctx, f.host, o)
}

// inside lets this program carry out an order on a host.
func (b *bench) inside(ctx context.Context, host string, o order) (done, error) {
	in, err := json.Marshal(o)
	if err != nil {
		return done{}, fmt.Errorf("write an order: %w", err)
	}
	out, err := b.exec(ctx, host, bytes.NewReader(in), hostSelf, insideArg)
	if err != nil {
		return done{}, err
	}
	var d done
	if err := json.Unmarshal(out, &d); err != nil {
		return done{}, fmt.Errorf("read what came of %s on %s: %w", o.Do, host, err)
	}
	if d.Error != "" {
		return d, fmt.Errorf("the floor's %s on %s: %s", o.Do, host, d.Error)
	}
	return d, nil
}

// start prepares a fresh root, which is not timed, and runs the container.
func (f *floor) start(ctx context.Context) (done, error) {
	if _, err := f.do(ctx, "prepare"); err != nil {
		return done{}, err
	}
	return f.do(ctx, "start")
}

// move moves the container to the other place of its host.
func (f *floor) move(ctx context.Context) (done, error) {
	d, err := f.do(ctx, "move")
	if err == nil {
		f.order.Place = map[string]string{"A": "B", "B": "A"}[f.order.Place]
	}
	return d, err
}

// stop takes it away, whatever its state.
func (f *floor) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	_, err := f.do(ctx, "stop")
	return err
}

// stopAfter is stop for a defer: its error joins that of the function.
func (f *floor) stopAfter(ctx context.Context, err *error) { *err = errors.Join(*err, f.stop(ctx)) }

// run runs a command in the container and returns what it printed.
func (f *floor) run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	var out, errs bytes.Buffer
	command := append([]string{"runc", "--root", filepath.Join(floorState, f.order.Place), "exec", floorName}, args...)
	code, err := f.b.lab.Exec(ctx, f.host, command, stdin, &out, &errs)
	return out.Bytes(), outcome(args, code, err, errs.String())
}
