package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// Goals of live migration, for ratios.
const (
	goalProcess   = 0.20 // blackout of one process over plain runc's
	goalEcho      = 1.2  // a TCP client's longest gap over the blackout
	goalGigabyte  = 2.0  // blackout of 1 GiB over that of 16 MiB
	goalSequence  = 0.5  // blackout of 1 GiB over dump, copy and restore one after another
	goalWire      = 1.05 // bytes sent over bytes resident
	goalReturn    = 0.15 // bytes of the way back over those of the way there
	smallMiB      = 16
	largeMiB      = 1024
	dirtyLarge    = "10"   // thousandths of the memory each second
	smallPort     = "9003" // of the stamps of 16 MiB, beside those of 1 GiB
	returnMiB     = 256
	returnFiles   = 2000
	returnFileKiB = 64
	returnAfter   = 10 * time.Second
	hundred       = 100
)

// turns moves ours and the floor alternately.
func (b *bench) turns(ctx context.Context, runs int, ours, floor *moved) error {
	for range runs {
		for _, m := range []*moved{ours, floor} {
			if err := m.once(ctx, b); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
		}
	}
	return nil
}

// watchedLoad creates a container of ours and watches it.
func (b *bench) watchedLoad(ctx context.Context, what string, mib int, port string) (*loaded, *moved, error) {
	l, err := b.createLoaded(ctx, mib)
	if err != nil {
		return nil, nil, err
	}
	m, err := b.watched(ctx, moved{what: what, name: "ours", move: func(ctx context.Context) error { return l.move(ctx, b) }}, l.address, port)
	return l, m, err
}

// oneProcess: a process with 16 MiB and a connection, moved to another host, and plain runc's checkpoint and restore in
// place. The longest gap of a TCP client is compared with the blackout of the same moves.
func oneProcess(ctx context.Context, b *bench, runs int) (_ []result, err error) {
	if err := b.up(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, ours, err := b.watchedLoad(ctx, "one-process", smallMiB, ourPort)
	if err != nil {
		return nil, err
	}
	f, hand, err := b.loadedFloor(ctx, "one-process", smallMiB, false)
	if f != nil {
		defer f.stopAfter(ctx, &err)
	}
	if err != nil {
		return nil, err
	}
	if err := b.turns(ctx, runs, ours, hand); err != nil {
		return nil, err
	}
	process, echo := goalProcess, goalEcho
	return []result{
		compare("one-process", ours.gaps, hand.gaps, &process),
		compare("tcp-echo-gap", ours.echoes, ours.gaps, &echo),
	}, b.destroy(ctx, l.Container)
}

// gigabyte: 1 GiB of which one percent is written each second, against 16 MiB of ours and against dump, copy and restore
// by hand; and what crossed the wire.
func gigabyte(ctx context.Context, b *bench, runs int) (_ []result, err error) {
	if err := b.up(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	small, sm, err := b.watchedLoad(ctx, "gigabyte, 16 MiB", smallMiB, smallPort)
	if err != nil {
		return nil, err
	}
	if err := b.turns(ctx, runs, sm, &moved{move: func(context.Context) error { return nil }, stamps: sm.stamps, echo: sm.echo, open: sm.open, name: "nothing"}); err != nil {
		return nil, err
	}
	if err := b.destroy(ctx, small.Container); err != nil {
		return nil, err
	}
	large, ours, err := b.watchedLoad(ctx, "gigabyte", largeMiB, ourPort)
	if err != nil {
		return nil, err
	}
	f, hand, err := b.loadedFloor(ctx, "gigabyte", largeMiB, true)
	if f != nil {
		defer f.stopAfter(ctx, &err)
	}
	if err != nil {
		return nil, err
	}
	for _, address := range []string{large.address, floorAddress} {
		if err := b.ask(ctx, address, "dirty", dirtyLarge); err != nil {
			return nil, err
		}
	}
	if err := b.turns(ctx, runs, ours, hand); err != nil {
		return nil, err
	}
	gb, seq, wire := goalGigabyte, goalSequence, goalWire
	return []result{
		compare("gigabyte-over-16MiB", ours.gaps, sm.gaps, &gb),
		compare("gigabyte-over-sequence", ours.gaps, hand.gaps, &seq),
		compare("gigabyte-wire", large.bytes(), []float64{largeMiB}, &wire).in("MiB"),
	}, b.destroy(ctx, large.Container)
}

// quickReturn: back after ten seconds, in which one percent of memory and files was written.
func quickReturn(ctx context.Context, b *bench, runs int) ([]result, error) {
	if err := b.up(ctx); err != nil {
		return nil, err
	}
	var there, back []float64
	for range runs {
		l, err := b.createLoaded(ctx, returnMiB)
		if err != nil {
			return nil, err
		}
		if err := b.ask(ctx, l.address, "write", strconv.Itoa(returnFiles), strconv.Itoa(returnFileKiB)); err != nil {
			return nil, err
		}
		if err := l.move(ctx, b); err != nil {
			return nil, err
		}
		for _, words := range [][]string{{"once", "10"}, {"touch", strconv.Itoa(returnFiles / 100)}} {
			if err := b.ask(ctx, l.address, words...); err != nil {
				return nil, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(returnAfter):
		}
		if err := l.move(ctx, b); err != nil {
			return nil, err
		}
		sent := l.bytes()
		there, back = append(there, sent[0]), append(back, sent[1])
		if err := b.destroy(ctx, l.Container); err != nil {
			return nil, err
		}
	}
	goal := goalReturn
	return []result{compare("quick-return-wire", back, there, &goal).in("MiB")}, nil
}

// hundredMoves: a systemd container with an open ssh session, moved back and forth; every move must succeed, and the
// session must be the same one at the end.
func hundredMoves(ctx context.Context, b *bench, runs int) ([]result, error) {
	if err := b.up(ctx); err != nil {
		return nil, err
	}
	if _, err := b.prepare(ctx, b.roles.asked, "debian-12"); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	key, err := b.equipOutside(ctx)
	if err != nil {
		return nil, err
	}
	m, err := b.observeOurs(ctx, key)
	if err != nil {
		return nil, err
	}
	m.what = "hundred"
	session, failed := m.echo, 0.0
	for range runs {
		if err := m.once(ctx, b); err != nil {
			b.say("hundred: %v", err)
			failed++
		}
	}
	if m.echo != session {
		failed++
		b.say("hundred: the ssh session broke")
	}
	return []result{
		absolute("moves-failed", fmt.Sprintf("of %d", runs), []float64{failed}, 0),
		compare("hundred-blackout", m.gaps, nil, nil),
	}, m.drop(ctx)
}
