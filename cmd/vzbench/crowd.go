package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
	"github.com/vzcluster/vzcluster/cluster"
)

// Goals of many connections and many containers, for ratios over CRIU alone.
const (
	connections     = 1000
	goalConnections = 1.1
	drained         = 20
	goalDrain       = 1.25
	goalLast        = 1.1 // blackout of the last over that of the first
	drainWidth      = api.DefaultParallel
	rawPort         = "7100"
)

// held are many connections from outside.
type held struct {
	in  *os.File
	out *bufio.Reader
}

// hold opens connections from outside to an address; they end with the context.
func (b *bench) hold(ctx context.Context, address string, n int) (*held, error) {
	inR, inW, err1 := os.Pipe()
	outR, outW, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	go func() {
		defer inR.Close()
		defer outW.Close()
		_, _ = b.lab.Exec(ctx, lab.Outside, []string{outsideLoad, "hold", address, strconv.Itoa(n)}, inR, outW, os.Stderr)
	}()
	h := &held{inW, bufio.NewReader(outR)}
	whole, err := h.whole()
	if err == nil && whole != n {
		err = fmt.Errorf("only %d of %d connections to %s echo", whole, n, address)
	}
	return h, err
}

// whole counts the connections that still echo.
func (h *held) whole() (int, error) {
	if _, err := io.WriteString(h.in, "\n"); err != nil {
		return 0, err
	}
	line, err := h.out.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("the connections' holder has ended: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(line))
}

// thousand: 1,000 established connections, moved, and a bare process with as many dumped and restored by CRIU alone.
func thousand(ctx context.Context, b *bench, runs int) (_ []result, err error) {
	if err := b.up(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, ours, err := b.watchedLoad(ctx, "connections", smallMiB, ourPort)
	if err != nil {
		return nil, err
	}
	mine, err := b.hold(ctx, l.address+":"+loadPort, connections)
	if err != nil {
		return nil, err
	}
	raw, err := b.rawFloor(ctx, b.roles.leader, []string{hostLoad, "serve", rawPort, strconv.Itoa(smallMiB)}, 1, 1)
	defer func() { err = errors.Join(err, raw.stop(ctx)) }()
	if err != nil {
		return nil, err
	}
	bare, err := b.hold(ctx, b.lab.Address(b.roles.leader)+":"+rawPort, connections)
	if err != nil {
		return nil, err
	}
	var floor []float64
	for range runs {
		if err := ours.once(ctx, b); err != nil {
			return nil, err
		}
		took, err := raw.move(ctx)
		if err != nil {
			return nil, err
		}
		floor = append(floor, took)
		b.say("connections, floor: %.0f ms", took)
	}
	whole, err := mine.whole()
	if err != nil {
		return nil, err
	}
	if n, err := bare.whole(); err != nil || n != connections {
		b.say("connections, floor: %d of %d are whole, %v", n, connections, err)
	}
	goal := goalConnections
	return []result{
		absolute("connections-lost", fmt.Sprintf("of %d", connections), []float64{float64(connections - whole)}, 0),
		compare("connections-blackout", ours.gaps, floor, &goal),
	}, b.destroy(ctx, l.Container)
}

// drain: many containers leave one host, and as many bare processes are dumped and restored by CRIU alone, so many at
// once as we move.
func drain(ctx context.Context, b *bench, runs int) (_ []result, err error) {
	if err := b.up(ctx); err != nil {
		return nil, err
	}
	name, err := b.loadTemplate(ctx, smallMiB)
	if err != nil {
		return nil, err
	}
	for _, h := range b.lab.Hosts() {
		if _, err := b.prepare(ctx, h, name); err != nil {
			return nil, err
		}
	}
	var all []api.Container
	for range drained {
		c, err := b.create(ctx, b.roles.owner, name)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	raw, err := b.rawFloor(ctx, b.roles.leader, []string{hostLoad, "serve", "71%d", strconv.Itoa(smallMiB)}, drained, drainWidth)
	defer func() { err = errors.Join(err, raw.stop(ctx)) }()
	if err != nil {
		return nil, err
	}
	var totals, floor, firsts, lasts []float64
	from := b.roles.owner
	for range runs {
		total, blackouts, err := b.drainOnce(ctx, from)
		if err != nil {
			return nil, err
		}
		took, err := raw.move(ctx)
		if err != nil {
			return nil, err
		}
		totals, floor = append(totals, total), append(floor, took)
		firsts, lasts = append(firsts, blackouts[0]), append(lasts, blackouts[len(blackouts)-1])
		b.say("drain: ours %.0f ms, CRIU alone %.0f ms, blackouts %.0f", total, took, blackouts)
		if err := b.gather(ctx, all, from); err != nil {
			return nil, err
		}
	}
	for _, c := range all {
		if err := b.destroy(ctx, c); err != nil {
			return nil, err
		}
	}
	goal, last := goalDrain, goalLast
	return []result{compare("drain", totals, floor, &goal), compare("drain-last-over-first", lasts, firsts, &last)}, nil
}

// drainOnce empties a host, and returns what it took and the blackouts in the order in which the moves ended.
func (b *bench) drainOnce(ctx context.Context, host string) (total float64, blackouts []float64, err error) {
	begin := time.Now()
	op, err := b.client().Drain(ctx, host, api.PlanRequest{})
	for err == nil && !op.Final() {
		op, err = b.client().Operation(ctx, op.ID, 30*time.Second)
	}
	if err != nil {
		return 0, nil, err
	}
	if op.Status != cluster.OpDone {
		return 0, nil, fmt.Errorf("the drain is %s: %s", op.Status, op.Error)
	}
	total = ms(time.Since(begin))
	ops, err := b.client().Operations(ctx)
	if err != nil {
		return 0, nil, err
	}
	slices.SortFunc(ops, func(a, b cluster.Operation) int { return a.Ended.Compare(b.Ended) })
	for _, o := range ops {
		if o.Parent == op.ID && o.Result != nil {
			blackouts = append(blackouts, o.Result.BlackoutMS)
		}
	}
	if len(blackouts) < drained {
		return 0, nil, fmt.Errorf("only %d of %d containers were moved", len(blackouts), drained)
	}
	return total, blackouts, nil
}

// gather brings the containers back to a host.
func (b *bench) gather(ctx context.Context, all []api.Container, host string) error {
	if _, err := b.client().SetHostState(ctx, host, cluster.HostActive); err != nil {
		return err
	}
	for _, c := range all {
		if _, err := b.migrate(ctx, c.ID, host); err != nil {
			return err
		}
	}
	return nil
}
