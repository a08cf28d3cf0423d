package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Goals of the starts.
const (
	goalCreate   = 3.0    // times plain runc
	goalBoot     = 1.3    // times plain runc
	goalBootTime = 2500.0 // ms
)

// createStart: create and start of a container through API, raft and placement on another host, until it runs, and
// `runc run` of the same specification with its root prepared before.
func createStart(ctx context.Context, b *bench, runs int) (_ []result, err error) {
	if err := b.up(ctx); err != nil {
		return nil, err
	}
	f, err := b.newFloor(ctx, b.roles.owner, "busybox", ownMounts)
	if err != nil {
		return nil, err
	}
	defer f.stopAfter(ctx, &err)
	var ours, floors []float64
	for range runs {
		begin := time.Now()
		c, err := b.create(ctx, b.roles.owner, "busybox")
		took := time.Since(begin)
		if err != nil {
			return nil, err
		}
		if err := b.destroy(ctx, c); err != nil {
			return nil, err
		}
		d, err := f.start(ctx)
		if err := errors.Join(err, f.stop(ctx)); err != nil {
			return nil, err
		}
		ours, floors = append(ours, ms(took)), append(floors, ms(time.Duration(d.Ended-d.Began)))
		b.say("create-start: ours %.0f ms, floor %.0f ms", ours[len(ours)-1], floors[len(floors)-1])
	}
	goal := goalCreate
	return []result{compare("create-start", ours, floors, &goal)}, nil
}

// booted is what systemd writes into the boot log when every unit of the boot has been started.
const booted = "Startup finished"

// systemdBoot: from the request until systemd has started everything, and the same root started by plain runc.
func systemdBoot(ctx context.Context, b *bench, runs int) ([]result, error) {
	if err := b.up(ctx); err != nil {
		return nil, err
	}
	ours, floors, err := boots(ctx, b, runs)
	if err != nil {
		return nil, err
	}
	goal := goalBoot
	return []result{
		compare("systemd-boot", ours, floors, &goal),
		absolute("systemd-boot-time", "ms", ours, goalBootTime),
	}, nil
}

// boots boots ours and the floor in turns.
func boots(ctx context.Context, b *bench, runs int) (ours, floors []float64, err error) {
	f, err := b.newFloor(ctx, b.roles.owner, "debian-12", ownMounts)
	if err != nil {
		return nil, nil, err
	}
	defer f.stopAfter(ctx, &err)
	for range runs {
		took, err := b.bootOurs(ctx)
		if err != nil {
			return nil, nil, err
		}
		byHand, err := f.boot(ctx)
		if err != nil {
			return nil, nil, err
		}
		ours, floors = append(ours, ms(took)), append(floors, ms(byHand))
		b.say("boot: ours %.0f ms, floor %.0f ms", ms(took), ms(byHand))
	}
	return ours, floors, nil
}

// bootOurs creates a container, times its boot and destroys it.
func (b *bench) bootOurs(ctx context.Context) (time.Duration, error) {
	r := b.request(b.roles.owner, "debian-12")
	wait := b.watch(ctx, b.roles.owner, fmt.Sprintf("%s/containers/%d/layer/upper/dev/kmsg", hostData, r.ID))
	begin := time.Now()
	c, err := b.createAs(ctx, r)
	if err != nil {
		return 0, err
	}
	at, err := wait()
	if err == nil {
		err = settled(ctx, b.runner(c.ID))
	}
	if err := errors.Join(err, b.destroy(ctx, c)); err != nil {
		return 0, err
	}
	return time.Duration(at - begin.UnixNano()), nil
}

// boot does the same by hand.
func (f *floor) boot(ctx context.Context) (time.Duration, error) {
	if _, err := f.do(ctx, "prepare"); err != nil {
		return 0, err
	}
	wait := f.b.watch(ctx, f.host, floorLog(f.order.Place))
	d, err := f.do(ctx, "start")
	if err != nil {
		return 0, err
	}
	at, err := wait()
	if err == nil {
		err = settled(ctx, f.run)
	}
	if err := errors.Join(err, f.stop(ctx)); err != nil {
		return 0, err
	}
	return time.Duration(at - d.Began), nil
}

// watch begins to look for the end of the boot in a log on a host; what it returns waits for it and tells when it came.
// It ends by itself when nothing comes.
func (b *bench) watch(ctx context.Context, host, log string) func() (int64, error) {
	type outcome struct {
		at  int64
		err error
	}
	found := make(chan outcome, 1)
	go func() {
		d, err := b.inside(ctx, host, order{Do: "watch", Log: log, Text: booted})
		found <- outcome{d.Ended, err}
	}()
	return func() (int64, error) {
		o := <-found
		return o.at, o.err
	}
}
