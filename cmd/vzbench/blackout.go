package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/lab"
	"github.com/vzcluster/vzcluster/cluster"
)

const (
	goalBlackout = 0.4 // times the recipe
	ourPort      = "9001"
	floorPort    = "9002"
	keyFile      = "/run/vzbench-key" // of outside
	pause        = time.Second        // between a move and the next one
	stampPath    = "/usr/local/bin/vzbench-stamp"
	outsideStamp = "/run/vzbench-stamp"
)

// moved is a container that is watched from outside while it is moved.
type moved struct {
	what   string // the case
	name   string
	stamps *series
	echo   *series
	run    insideRunner // nil: there is no systemd inside to wait for
	move   func(ctx context.Context) error
	open   func() *series // another echo
	drop   func(ctx context.Context) error
	gaps   []float64 // ms
	echoes []float64 // ms
}

// blackoutSystemd: the longest silence of a systemd container with an open ssh session at a move, ours between two
// hosts, and the recipe's between two places on one. What the ssh session noticed is shown beside it.
func blackoutSystemd(ctx context.Context, b *bench, runs int) (_ []result, err error) {
	if err := b.up(ctx); err != nil {
		return nil, err
	}
	f, err := b.newFloor(ctx, b.roles.leader, "debian-12", byHand)
	if err != nil {
		return nil, err
	}
	if _, err := b.prepare(ctx, b.roles.asked, "debian-12"); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx) // ends the sessions and the receivers
	defer cancel()
	key, err := b.equipOutside(ctx)
	if err != nil {
		return nil, err
	}
	defer f.stopAfter(ctx, &err)
	if _, err := f.start(ctx); err != nil {
		return nil, err
	}
	hand, err := b.observe(ctx, moved{what: "blackout-systemd", name: "floor", run: f.run, drop: f.stop, move: func(ctx context.Context) error {
		_, err := f.move(ctx)
		return err
	}}, key, floorAddress, floorPort)
	if err != nil {
		return nil, err
	}
	ours, err := b.observeOurs(ctx, key)
	if err != nil {
		return nil, err
	}
	for range runs {
		for _, m := range []*moved{ours, hand} {
			if err := m.once(ctx, b); err != nil {
				return nil, fmt.Errorf("%s: %w", m.name, err)
			}
		}
	}
	if err := errors.Join(ours.drop(ctx), hand.drop(ctx)); err != nil {
		return nil, err
	}
	goal := goalBlackout
	return []result{
		compare("blackout-systemd", ours.gaps, hand.gaps, &goal),
		compare("blackout-systemd-ssh-echo", ours.echoes, hand.echoes, nil),
	}, nil
}

// observeOurs creates our container and observes it.
func (b *bench) observeOurs(ctx context.Context, key []byte) (*moved, error) {
	c, err := b.create(ctx, b.roles.owner, "debian-12")
	if err != nil {
		return nil, err
	}
	here, there := b.roles.owner, b.roles.asked
	address, _, _ := strings.Cut(c.Addresses[0], "/")
	drop := func(ctx context.Context) error { return b.destroy(ctx, c) }
	return b.observe(ctx, moved{what: "blackout-systemd", name: "ours", run: b.runner(c.ID), drop: drop, move: func(ctx context.Context) error {
		r, err := b.migrate(ctx, c.ID, there)
		if err != nil {
			return err
		}
		here, there = there, here
		b.say("the migration itself says: blackout %.0f ms, %.0f ms in all;%s", r.BlackoutMS, r.TotalMS, phases(r.Phases))
		return nil
	}}, key, address, ourPort)
}

func phases(ps []cluster.Phase) string {
	var b strings.Builder
	for _, p := range ps {
		fmt.Fprintf(&b, " %s %.0f", p.Name, p.MS)
	}
	return b.String()
}

// equipOutside gives the machine outside the receiver and a key for ssh, and returns the key's public half.
func (b *bench) equipOutside(ctx context.Context) ([]byte, error) {
	stamp, err := b.buildProgram(ctx, "stamp")
	if err != nil {
		return nil, err
	}
	if err := b.put(ctx, lab.Outside, stamp, outsideStamp); err != nil {
		return nil, err
	}
	return b.exec(ctx, lab.Outside, nil, "sh", "-c",
		`[ -f "$0" ] || ssh-keygen -q -t ed25519 -N "" -f "$0" && cat "$0.pub"`, keyFile)
}

// observe lets a container send stamps to outside, and opens an ssh session to it.
func (b *bench) observe(ctx context.Context, m moved, key []byte, address, port string) (*moved, error) {
	if err := settled(ctx, m.run); err != nil {
		return nil, err
	}
	stamp, err := b.buildProgram(ctx, "stamp")
	if err != nil {
		return nil, err
	}
	program, err := os.Open(stamp)
	if err != nil {
		return nil, fmt.Errorf("open the stamp program: %w", err)
	}
	defer program.Close()
	m.stamps = b.receive(ctx, port)
	_, err = m.run(ctx, program, "sh", "-c", `cat >"$0" && chmod 755 "$0"`, stampPath)
	if err != nil {
		return nil, err
	}
	_, err = m.run(ctx, strings.NewReader(string(key)), "sh", "-c", "umask 077; mkdir -p /root/.ssh && cat >/root/.ssh/authorized_keys")
	if err != nil {
		return nil, err
	}
	// By systemd, so that it is a service like any other: a process started from outside does not survive a move.
	_, err = m.run(ctx, nil, "systemd-run", "--quiet", "--unit=vzbench-stamp", stampPath, "send", b.lab.Address(lab.Outside)+":"+port)
	if err != nil {
		return nil, err
	}
	m.open = func() *series { return b.ssh(ctx, address) }
	m.echo = m.open()
	now := time.Now().UnixNano()
	return &m, errors.Join(m.stamps.waitFor(ctx, "stamps of "+m.name, now), m.echo.waitFor(ctx, "the ssh session to "+m.name, now))
}

// once moves it, and measures its silence. An echo that broke is opened again: its gap is not counted.
func (m *moved) once(ctx context.Context, b *bench) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
	}
	from := time.Now().UnixNano()
	if err := m.move(ctx); err != nil {
		return err
	}
	to := time.Now().UnixNano()
	if err := m.stamps.waitFor(ctx, "stamps after the move", to); err != nil {
		return err
	}
	gap, err := m.stamps.gap(from, to)
	if err != nil {
		return err
	}
	m.gaps = append(m.gaps, ms(gap))
	echo := "broken"
	if err := m.echo.waitFor(ctx, "the echo after the move", to); err == nil {
		gap, err := m.echo.gap(from, to)
		if err != nil {
			return err
		}
		m.echoes = append(m.echoes, ms(gap))
		echo = fmt.Sprintf("%.0f ms", ms(gap))
	} else {
		if err := m.reopen(ctx); err != nil {
			return err
		}
	}
	b.say("%s, %s: %.0f ms of silence, echo %s", m.what, m.name, ms(gap), echo)
	if m.run == nil {
		return nil
	}
	return settled(ctx, m.run)
}

// reopen replaces a connection that broke. What broke it may break the next one too: the floor opens its network late.
func (m *moved) reopen(ctx context.Context) error {
	return waitUntil(ctx, "another echo", 100*time.Millisecond, func() (bool, error) {
		m.echo = m.open()
		return m.echo.waitFor(ctx, "an echo", time.Now().UnixNano()) == nil, ctx.Err()
	})
}

// runner runs commands in one of our containers.
func (b *bench) runner(id int) insideRunner {
	return func(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
		return b.runIn(ctx, id, stdin, args...)
	}
}
