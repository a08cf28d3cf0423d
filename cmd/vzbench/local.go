package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
	"github.com/vzcluster/vzcluster/runtime/storage"
)

// Goals of what one host does by itself: ratios over plain runc, or milliseconds.
const (
	goalLocalStart = 1.5
	goalDelete     = 1.5
	goalLocalBoot  = 2000.0 // ms
	goalInstant    = 150.0  // ms
	goalSet        = 20.0   // ms
	goalWork       = 1.02
	instantMiB     = 1024 // what the container that is cloned holds
)

// alone is a bench with a lab of one host, which is everything: it leads, is asked, and has the containers. What it returns
// takes the lab away again, and joins its error with the caller's.
func (b *bench) alone(ctx context.Context, o lab.Options) (*bench, func(*error), error) {
	name := labName + "-one"
	if err := down(name); err != nil {
		return nil, nil, err
	}
	o.Name, o.Hosts, o.Binary = name, 1, b.options.binary
	l, err := lab.Up(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	one := &bench{options: b.options, dir: b.dir, lab: l, clients: map[string]*api.Client{}, ready: map[string]prepared{}, nextID: 5000}
	h := l.Hosts()[0]
	one.roles = roles{leader: h, owner: h, asked: h}
	away := func(err *error) {
		for _, c := range one.clients {
			c.Close()
		}
		*err = errors.Join(*err, down(name))
	}
	if one.clients[h], err = l.Client(h); err == nil {
		err = one.install(ctx, h)
	}
	if err != nil {
		away(&err)
		return nil, nil, err
	}
	return one, away, nil
}

// localStart: create and start of a container on the host that is asked, as `vzcluster run` does it, and `runc run` of the
// same specification with its root prepared before; then the end of both: destroy, and `runc delete --force`.
func localStart(ctx context.Context, b *bench, runs int) (_ []result, err error) {
	one, away, err := b.alone(ctx, lab.Options{})
	if err != nil {
		return nil, err
	}
	defer away(&err)
	f, err := one.newFloor(ctx, one.roles.owner, "busybox", ownMounts)
	if err != nil {
		return nil, err
	}
	defer f.stopAfter(ctx, &err)
	var starts, runs0, ends, deletes []float64
	for range runs {
		r := one.request(one.roles.owner, "busybox")
		r.Start = true
		begin := time.Now()
		c, err := one.client().Create(ctx, r)
		if err != nil {
			return nil, err
		}
		started := time.Now()
		if err := one.destroy(ctx, c); err != nil {
			return nil, err
		}
		starts, ends = append(starts, ms(started.Sub(begin))), append(ends, ms(time.Since(started)))
		d, err := f.start(ctx)
		if err != nil {
			return nil, err
		}
		gone, err := f.do(ctx, "delete")
		if err := errors.Join(err, f.stop(ctx)); err != nil {
			return nil, err
		}
		runs0, deletes = append(runs0, d.ms()), append(deletes, gone.ms())
		b.say("local-start: ours %.0f and %.0f ms, floor %.0f and %.0f ms", last(starts), last(ends), last(runs0), last(deletes))
	}
	start, end := goalLocalStart, goalDelete
	return []result{compare("local-start", starts, runs0, &start), compare("local-destroy", ends, deletes, &end)}, nil
}

// ms is how long an order took.
func (d done) ms() float64 { return float64(d.Ended-d.Began) / 1e6 }

func last(s []float64) float64 { return s[len(s)-1] }

// localBoot: from the request until systemd has started everything, and the same root under plain runc.
func localBoot(ctx context.Context, b *bench, runs int) (_ []result, err error) {
	one, away, err := b.alone(ctx, lab.Options{})
	if err != nil {
		return nil, err
	}
	defer away(&err)
	ours, floors, err := boots(ctx, one, runs)
	if err != nil {
		return nil, err
	}
	return []result{compare("local-boot", ours, floors, nil), absolute("local-boot-time", "ms", ours, goalLocalBoot)}, nil
}

// instant: a snapshot and a clone of a running container that holds a GiB, on btrfs, and a snapshot of its subvolume by hand.
func instant(ctx context.Context, b *bench, runs int) (_ []result, err error) {
	one, away, err := b.alone(ctx, lab.Options{Storage: []string{storage.Btrfs}})
	if err != nil {
		return nil, err
	}
	defer away(&err)
	if _, err := one.prepare(ctx, one.roles.owner, "busybox"); err != nil {
		return nil, err
	}
	c, err := one.create(ctx, one.roles.owner, "busybox")
	if err != nil {
		return nil, err
	}
	fill := fmt.Sprintf("dd if=/dev/urandom of=/root/big bs=1M count=%d 2>/dev/null; sync", instantMiB)
	if _, err := one.runIn(ctx, c.ID, nil, "sh", "-c", fill); err != nil {
		return nil, err
	}
	var snaps, clones, floors []float64
	for n := range runs {
		name, ref := "s"+strconv.Itoa(n), strconv.Itoa(c.ID)
		begin := time.Now()
		if _, err := one.client().Snapshot(ctx, ref, api.SnapshotRequest{Name: name}); err != nil {
			return nil, err
		}
		snaps = append(snaps, ms(time.Since(begin)))
		begin = time.Now()
		two, err := one.client().Clone(ctx, ref, api.CloneRequest{ID: one.id()})
		if err != nil {
			return nil, err
		}
		clones = append(clones, ms(time.Since(begin)))
		d, err := one.inside(ctx, one.roles.owner, order{Do: "subvolume", Log: fmt.Sprintf("%s/containers/%d/layer", hostData, c.ID)})
		if err != nil {
			return nil, err
		}
		floors = append(floors, d.ms())
		if err := one.destroy(ctx, two); err != nil {
			return nil, err
		}
		b.say("instant: snapshot %.0f, clone %.0f, by hand %.0f ms", last(snaps), last(clones), last(floors))
	}
	return []result{
		absolute("instant-snapshot", "ms", snaps, goalInstant), absolute("instant-clone", "ms", clones, goalInstant),
		compare("instant-snapshot-by-hand", snaps, floors, nil),
	}, nil
}

// set: a new limit of a running container, until the kernel has it.
func set(ctx context.Context, b *bench, runs int) (_ []result, err error) {
	one, away, err := b.alone(ctx, lab.Options{})
	if err != nil {
		return nil, err
	}
	defer away(&err)
	if _, err := one.prepare(ctx, one.roles.owner, "busybox"); err != nil {
		return nil, err
	}
	c, err := one.create(ctx, one.roles.owner, "busybox")
	if err != nil {
		return nil, err
	}
	var took []float64
	for n := range runs {
		ram := int64(64+n%2) << 20
		begin := time.Now()
		if _, err := one.client().Set(ctx, strconv.Itoa(c.ID), api.SetRequest{RAM: &ram}); err != nil {
			return nil, err
		}
		took = append(took, ms(time.Since(begin)))
	}
	return []result{absolute("set", "ms", took, goalSet)}, nil
}

// insideSpin is this program inside a container.
const insideSpin = "/vzbench"

// work: the same work inside a container of ours and outside of it, and system calls in a container of ours and in one of
// plain runc with the same filter.
func work(ctx context.Context, b *bench, runs int) (_ []result, err error) {
	one, away, err := b.alone(ctx, lab.Options{})
	if err != nil {
		return nil, err
	}
	defer away(&err)
	f, err := one.newFloor(ctx, one.roles.owner, "busybox", ownMounts)
	if err != nil {
		return nil, err
	}
	defer f.stopAfter(ctx, &err)
	r := one.request(one.roles.owner, "busybox")
	c, err := one.createAs(ctx, r)
	if err != nil {
		return nil, err
	}
	if _, err := f.start(ctx); err != nil {
		return nil, err
	}
	for _, run := range []insideRunner{one.runner(c.ID), f.run} {
		if err := copyIn(ctx, run); err != nil {
			return nil, err
		}
	}
	outside := func(ctx context.Context, o order) (done, error) { return one.inside(ctx, one.roles.owner, o) }
	cpu, floor, err := alternate(ctx, runs, order{Do: "hash", Count: hashes}, spinner(one.runner(c.ID)), outside)
	if err != nil {
		return nil, err
	}
	calls, plainCalls, err := alternate(ctx, runs, order{Do: "calls", Count: systemCalls}, spinner(one.runner(c.ID)), spinner(f.run))
	if err != nil {
		return nil, err
	}
	goal := goalWork
	return []result{compare("cpu-bound", cpu, floor, &goal), compare("syscall-bound", calls, plainCalls, &goal)}, nil
}

// copyIn brings this program into a container.
func copyIn(ctx context.Context, run insideRunner) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	defer self.Close()
	_, err = run(ctx, self, "sh", "-c", `cat >"$0" && chmod 755 "$0"`, insideSpin)
	return err
}

// spinner has this program carry out orders inside a container.
func spinner(run insideRunner) func(context.Context, order) (done, error) {
	return func(ctx context.Context, o order) (d done, err error) {
		in, err := json.Marshal(o)
		if err != nil {
			return d, fmt.Errorf("write an order: %w", err)
		}
		out, err := run(ctx, bytes.NewReader(in), insideSpin, insideArg)
		if err == nil {
			err = json.Unmarshal(out, &d)
		}
		if err == nil && d.Error != "" {
			err = errors.New(d.Error)
		}
		return d, err
	}
}

// alternate does the same in both places, in turns.
func alternate(ctx context.Context, runs int, o order, ours, floor func(context.Context, order) (done, error)) (a, b []float64, err error) {
	for range runs {
		d, err := ours(ctx, o)
		if err != nil {
			return nil, nil, err
		}
		e, err := floor(ctx, o)
		if err != nil {
			return nil, nil, err
		}
		a, b = append(a, d.ms()), append(b, e.ms())
	}
	return a, b, nil
}

// How much work is done at a time: a quarter of a second or so of each.
const (
	hashes      = 1 << 10
	systemCalls = 1 << 20
)

// hash is work for a CPU alone.
func hash(_ context.Context, o order) error {
	block := make([]byte, 64<<10)
	for range o.Count {
		sum := sha256.Sum256(block)
		copy(block, sum[:])
	}
	return nil
}

// calls is work for the kernel's entry alone.
func calls(_ context.Context, o order) error {
	for range o.Count {
		unix.Getppid()
	}
	return nil
}

// deleteFloor is the timed end of a floor's container.
func deleteFloor(ctx context.Context, o order) error {
	return plainRunc(ctx, o.Place, "delete", "--force", floorName)
}

// copySubvolume makes a snapshot of a subvolume by hand. It is deleted with the lab.
func copySubvolume(_ context.Context, o order) error {
	out, err := exec.Command("btrfs", "subvolume", "snapshot", o.Log, fmt.Sprintf("%s-%d", o.Log, time.Now().UnixNano())).CombinedOutput()
	if err != nil {
		return fmt.Errorf("snapshot by hand: %w: %s", err, out)
	}
	return nil
}
