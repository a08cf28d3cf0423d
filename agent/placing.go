package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler"
)

// maxPlacements bounds how often a placement is decided anew because another one took the room in between.
const maxPlacements = 5

// entryItems is how many containers of several orders are committed together at most; what is read from the log at once
// holds up everything else.
const entryItems = 1000

// order is one request for containers. All of them are created, in one entry of the log, or none is. Orders that come
// while others are being committed are placed and committed together.
type order struct {
	specs []cluster.Container
	items []cluster.NewContainer // Host is only set where one was asked for
	waits bool                   // what fits nowhere waits for room

	placed []cluster.NewContainer // items with their decision
	taken  []scheduler.Placement  // what that takes of the room, by item; of no host for what waits
	made   []cluster.Created
	err    error
	short  bool // of room
	done   bool
}

// maxAlike bounds among how many specifications one that is the same is looked for.
const maxAlike = 16

// like returns the number of a specification, which the order has already or gets: a request with many containers of a
// few shapes is a small entry of the log.
func (o *order) like(spec cluster.Container) int {
	for i := len(o.specs) - 1; i >= max(0, len(o.specs)-maxAlike); i-- {
		if reflect.DeepEqual(o.specs[i], spec) {
			return i
		}
	}
	o.specs = append(o.specs, spec)
	return len(o.specs) - 1
}

func (o *order) fail(err error) { o.err, o.done = err, true }

// fulfil carries an order out, together with those that others have left meanwhile.
func (m *member) fulfil(o *order) error {
	m.ordering.Lock()
	m.orders = append(m.orders, o)
	m.ordering.Unlock()

	m.placing.Lock()
	defer m.placing.Unlock()
	if !o.done {
		m.ordering.Lock()
		orders := m.orders
		m.orders = nil
		m.ordering.Unlock()
		m.fulfilAll(orders)
	}
	return o.err
}

// fulfilAll decides on a snapshot and commits; where the room was taken in between it decides again.
func (m *member) fulfilAll(orders []*order) {
	ctx, cancel := context.WithTimeout(m.ctx, defaultWait)
	defer cancel()
	var silent []string // gossip learns of a death later than whoever asks
	open := func(o *order) bool { return !o.done }
	for try := 0; slices.ContainsFunc(orders, open); {
		room := m.room(silent...)
		for _, o := range orders {
			if !o.done {
				o.decide(room, func() *scheduler.Preempter { return m.preempter(silent...) })
			}
			if o.short {
				now := time.Now()
				m.refused.Store(&now)
			}
		}
		if quiet := m.quietHosts(ctx, orders); len(quiet) > 0 {
			silent = append(silent, quiet...)
			for _, o := range orders {
				o.release(room)
			}
			continue
		}
		m.commit(ctx, orders, try == maxPlacements)
		for _, o := range orders {
			o.keep(room)
		}
		try++
	}
}

// decide chooses a host for each container of the order. Fresh is a board of its own, to try on whether room can be made.
func (o *order) decide(room *scheduler.Placer, fresh func() *scheduler.Preempter) {
	o.placed, o.taken = slices.Clone(o.items), nil
	for i := range o.placed {
		item := &o.placed[i]
		d := room.Place(request(&o.specs[item.Spec], item.Host))
		item.Host, item.Why, item.Waits = d.Host, d.Why, d.Host == ""
		switch {
		case d.Host != "":
			room.Put(d)
		case !o.waits && o.canMakeRoom(fresh()):
			o.waits = true // for the moves that make its room
		case !o.waits:
			o.release(room)
			o.short = true
			why := d.Why
			if len(o.items) > 1 {
				why = fmt.Sprintf("%d of %d containers have room, and none is created: %s", i, len(o.items), d.Why)
			}
			o.fail(api.Errorf(api.CodeNoFit, "'vzcluster place --why' explains each host, and --wait-for-room has it wait", "%s", why))
			return
		}
		o.taken = append(o.taken, d)
	}
}

// release gives back what an order has taken of the room and does not need.
func (o *order) release(room *scheduler.Placer) {
	for _, t := range slices.Backward(o.taken) {
		if t.Host != "" {
			room.Take(t)
		}
	}
	o.taken = nil
}

// keep has what was created keep its room, and gives back that of what was not.
func (o *order) keep(room *scheduler.Placer) {
	if o.made == nil {
		o.release(room)
		return
	}
	for i, t := range o.taken {
		if t.Host != "" {
			room.Keep(t, o.made[i].Container.ID)
		}
	}
	o.taken = nil
}

// quietHosts returns the chosen hosts whose agents take no connections.
func (m *member) quietHosts(ctx context.Context, orders []*order) []string {
	asked := map[string]bool{}
	var quiet []string
	for _, o := range orders {
		for _, item := range o.placed {
			if o.done || item.Host == "" || asked[item.Host] {
				continue
			}
			asked[item.Host] = true
			if !m.answers(ctx, item.Host) && ctx.Err() == nil {
				quiet = append(quiet, item.Host)
			}
		}
	}
	return quiet
}

// commit commits the orders, several in one entry. What found no room any more is left for the next try, unless it is
// the last one.
func (m *member) commit(ctx context.Context, orders []*order, last bool) {
	left := slices.DeleteFunc(slices.Clone(orders), func(o *order) bool { return o.done })
	for len(left) > 0 {
		n, items := 1, len(left[0].items)
		for n < len(left) && items+len(left[n].items) <= entryItems {
			items += len(left[n].items)
			n++
		}
		m.commitTogether(ctx, left[:n])
		left = left[n:]
	}
	for _, o := range orders {
		if !o.done && last {
			o.fail(api.Errorf(api.CodeNoFit, "try again", "the room that was found is taken by others again and again"))
		}
	}
}

// commitTogether commits orders in one entry; each of them is a part of it.
func (m *member) commitTogether(ctx context.Context, orders []*order) {
	c := cluster.CreateContainers{At: time.Now().UTC()}
	for _, o := range orders {
		for _, item := range o.placed {
			item.Spec += len(c.Specs)
			c.Items = append(c.Items, item)
		}
		c.Specs, c.Parts = append(c.Specs, o.specs...), append(c.Parts, len(o.placed))
	}
	made, err := applyHere[[]cluster.Created](ctx, m, c)
	for _, o := range orders {
		if err != nil {
			o.fail(err)
			continue
		}
		part := made[:len(o.placed)]
		made = made[len(part):]
		switch failed := part[0].Err; {
		case failed == nil:
			o.made, o.done = part, true
		case !errors.Is(failed, cluster.ErrNoFit):
			o.fail(failed)
		}
	}
}

// placeWaiting gives containers that wait a host, or a new reason why they have none.
func (m *member) placeWaiting(ctx context.Context) error {
	waiting := m.store.State().Waiting()
	if len(waiting) == 0 {
		return nil
	}
	m.placing.Lock()
	defer m.placing.Unlock()
	slices.SortStableFunc(waiting, func(a, b *cluster.Container) int { return b.Rules.Priority - a.Rules.Priority })
	making, room := m.newRoomMaking(), m.room()
	for _, c := range waiting {
		d := room.Place(request(c, ""))
		if d.Host == "" {
			var err error
			if d.Why, err = m.preempt(ctx, making, c, d.Why); err != nil {
				return err
			}
		}
		if d.Host == "" && d.Why == c.Detail || d.Host != "" && !m.answers(ctx, d.Host) {
			continue
		}
		_, err := m.store.Apply(ctx, cluster.PlaceContainer{ID: c.ID, Host: d.Host, Why: d.Why, At: time.Now().UTC()})
		switch {
		case errors.Is(err, cluster.ErrNoFit), errors.Is(err, cluster.ErrStale), errors.Is(err, cluster.ErrNotFound):
			continue // decided anew at the next change
		case err != nil:
			return err
		case d.Host != "":
			room = m.room()
		}
	}
	return nil
}

// errWaits is what is answered to what only a container on a host can do.
func errWaits(c *cluster.Container) error {
	return api.Errorf(api.CodeConflict, "see 'vzcluster show "+c.Name+"'", "%s waits for room, it is on no host yet: %s", c.Ref(), c.Detail)
}

func request(c *cluster.Container, pin string) scheduler.Request {
	return scheduler.Request{Need: c.Need(), Rules: c.Rules, Template: c.Digest, Pin: pin}
}
