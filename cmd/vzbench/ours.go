package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// memory is what containers get, in bytes.
var memory = map[string]int64{"busybox": 64 << 20, "debian-12": 512 << 20}

// id returns a CTID that no container of this run has had.
func (b *bench) id() int {
	b.nextID++
	return b.nextID
}

func (b *bench) request(host, template string) api.CreateRequest {
	return api.CreateRequest{ID: b.id(), Template: template, Host: host, Limits: cluster.Limits{RAM: memory[template]}}
}

// create creates and starts a container on a host and returns when it runs.
func (b *bench) create(ctx context.Context, host, template string) (api.Container, error) {
	return b.createAs(ctx, b.request(host, template))
}

func (b *bench) createAs(ctx context.Context, r api.CreateRequest) (api.Container, error) {
	if _, err := b.client().Create(ctx, r); err != nil {
		return api.Container{}, err
	}
	c, err := b.client().Action(ctx, strconv.Itoa(r.ID), "start", api.ActionRequest{Wait: patience})
	if err == nil && c.State != cluster.Running {
		err = fmt.Errorf("container %d is %s after its start: %s", c.ID, c.State, c.Detail)
	}
	return c, err
}

func (b *bench) destroy(ctx context.Context, c api.Container) error {
	_, err := b.client().Action(ctx, strconv.Itoa(c.ID), "destroy", api.ActionRequest{Force: true, Now: true})
	return err
}

// runIn runs a command in one of our containers and returns what it printed.
func (b *bench) runIn(ctx context.Context, id int, stdin io.Reader, args ...string) ([]byte, error) {
	var out, errs bytes.Buffer
	code, err := b.client().Exec(ctx, strconv.Itoa(id), api.Exec{Args: args}, api.Streams{Stdin: stdin, Stdout: &out, Stderr: &errs})
	return out.Bytes(), outcome(args, code, err, errs.String())
}

// outcome makes an error of a command's exit code.
func outcome(args []string, code int, err error, stderr string) error {
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, strings.TrimSpace(stderr))
	}
	if err != nil {
		return fmt.Errorf("%s in the container: %w", args[0], err)
	}
	return nil
}

// migrate moves a container of ours and returns when the operation is final.
func (b *bench) migrate(ctx context.Context, id int, to string) (*cluster.MoveResult, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	op, err := b.client().Migrate(ctx, strconv.Itoa(id), api.MigrateRequest{To: to, Mode: "live"})
	for err == nil && !op.Final() {
		op, err = b.client().Operation(ctx, op.ID, 10*time.Second)
	}
	switch {
	case err != nil:
		return nil, err
	case op.Status != cluster.OpDone:
		return nil, fmt.Errorf("the migration of %d to %s is %s: %s", id, to, op.Status, op.Error)
	case op.Result == nil:
		return nil, errors.New("the migration tells nothing of what it measured")
	case op.Result.Restarted:
		return nil, fmt.Errorf("container %d was started again instead of moved", id)
	}
	return op.Result, nil
}

// insideRunner runs commands in a container, ours or the floor's.
type insideRunner func(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error)

// settled waits until systemd inside has started everything.
func settled(ctx context.Context, run insideRunner) error {
	state := ""
	err := waitUntil(ctx, "systemd inside", 100*time.Millisecond, func() (bool, error) {
		out, err := run(ctx, nil, "systemctl", "is-system-running")
		state = strings.TrimSpace(string(out))
		return err == nil && state == "running", ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("%w (it says %q)", err, state)
	}
	return nil
}
