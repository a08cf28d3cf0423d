package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler"
)

// maxPlacements bounds how often a placement is decided anew because another one took the room in between.
const maxPlacements = 5

// entryItems is how many containers one entry of the log creates at most: the log bounds an entry's size, and what is
// read from it at once holds up everything else.
const entryItems = 250

// order is one request for containers. All of them are created or none is, unless they may wait for room. Orders that
// come while others are being committed are placed and committed together.
type order struct {
	specs []cluster.Container
	items []cluster.NewContainer // Host is only set where one was asked for
	waits bool                   // what fits nowhere waits for room

	placed []cluster.NewContainer // items with their decision
	made   []*cluster.Container   // nil: not yet
	err    error
	short  bool // of room
	done   bool
}

func (o *order) fail(err error) { o.err, o.done = err, true }

// fulfil carries an order out, together with those that others have left meanwhile.
func (m *member) fulfil(o *order) error {
	o.made = make([]*cluster.Container, len(o.items))
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
				o.decide(room)
			}
			if o.short {
				now := time.Now()
				m.refused.Store(&now)
			}
		}
		if quiet := m.quietHosts(ctx, orders); len(quiet) > 0 {
			silent = append(silent, quiet...)
			continue
		}
		m.rehearse(orders)
		m.commit(ctx, orders, try == maxPlacements)
		try++
	}
}

// decide chooses a host for whatever of the order is not made yet.
func (o *order) decide(room *scheduler.Placer) {
	o.placed = slices.Clone(o.items)
	var taken []scheduler.Placement
	fitting := 0
	for i := range o.placed {
		item := &o.placed[i]
		if o.made[i] != nil {
			fitting++
			continue
		}
		d := room.Place(request(&o.specs[item.Spec], item.Host))
		item.Host, item.Why, item.Waits = d.Host, d.Why, d.Host == ""
		switch {
		case d.Host != "":
			fitting++
			room.Put(d)
			taken = append(taken, d)
		case !o.waits:
			for _, t := range slices.Backward(taken) {
				room.Take(t)
			}
			o.short = true
			why := d.Why
			if len(o.items) > 1 {
				why = fmt.Sprintf("%d of %d containers have room, and none is created: %s", fitting, len(o.items), d.Why)
			}
			o.fail(api.Errorf(api.CodeNoFit, "'vzcluster place --why' explains each host, and --wait-for-room has it wait", "%s", why))
			return
		}
	}
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

// rehearse applies what is to be committed to the state as it is here, so that an order of which one container is refused
// for whatever else than room fails before any of them is made.
func (m *member) rehearse(orders []*order) {
	s := m.store.State()
	for _, o := range orders {
		if o.done {
			continue
		}
		command, _ := o.command(0, len(o.placed), time.Time{})
		next, result, err := s.Apply(command)
		if err != nil {
			o.fail(err)
			continue
		}
		created, _ := result.([]cluster.Created)
		bad := slices.IndexFunc(created, func(c cluster.Created) bool { return c.Err != nil && !errors.Is(c.Err, cluster.ErrNoFit) })
		if bad >= 0 {
			o.fail(created[bad].Err)
			continue
		}
		s = next
	}
}

// command is the creation of some of the order's containers that are not made yet, with their indexes.
func (o *order) command(from, to int, at time.Time) (c cluster.CreateContainers, which []int) {
	c = cluster.CreateContainers{Specs: o.specs, At: at}
	for i := from; i < to; i++ {
		if o.made[i] == nil {
			c.Items, which = append(c.Items, o.placed[i]), append(which, i)
		}
	}
	return c, which
}

// commit commits the orders, several in one entry. What found no room any more is left for the next try, unless it is
// the last one.
func (m *member) commit(ctx context.Context, orders []*order, last bool) {
	at := time.Now().UTC()
	var entry entry
	flush := func() {
		entry.commit(ctx, m)
		entry = newEntry(at)
	}
	entry = newEntry(at)
	for _, o := range orders {
		if o.done {
			continue
		}
		for from := 0; from < len(o.placed); from += entryItems {
			command, which := o.command(from, min(from+entryItems, len(o.placed)), at)
			if len(entry.command.Items)+len(which) > entryItems {
				flush()
			}
			entry.add(o, command, which)
		}
	}
	flush()
	for _, o := range orders {
		switch {
		case o.done:
		case !slices.Contains(o.made, nil):
			o.done = true
		case last:
			o.fail(api.Errorf(api.CodeNoFit, "try again", "the room that was found is taken by others again and again"))
		}
	}
}

// entry is one command to be committed, and to whom each of its containers belongs.
type entry struct {
	command cluster.CreateContainers
	owners  []func(cluster.Created)
	failed  []func(error)
}

func newEntry(at time.Time) entry { return entry{command: cluster.CreateContainers{At: at}} }

func (e *entry) add(o *order, c cluster.CreateContainers, which []int) {
	specs := len(e.command.Specs)
	e.command.Specs = append(e.command.Specs, c.Specs...)
	e.failed = append(e.failed, o.fail)
	for k, item := range c.Items {
		item.Spec += specs
		e.command.Items = append(e.command.Items, item)
		e.owners = append(e.owners, func(made cluster.Created) {
			switch {
			case made.Err == nil:
				o.made[which[k]] = made.Container
			case !errors.Is(made.Err, cluster.ErrNoFit):
				o.fail(made.Err)
			}
		})
	}
}

func (e *entry) commit(ctx context.Context, m *member) {
	if len(e.command.Items) == 0 {
		return
	}
	made, err := applyHere[[]cluster.Created](ctx, m, e.command)
	if err != nil {
		for _, fail := range e.failed {
			fail(err)
		}
		return
	}
	for i, c := range made {
		e.owners[i](c)
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
	room := m.room()
	for _, c := range waiting {
		d := room.Place(request(c, ""))
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
			room.Put(d)
		}
	}
	return nil
}

// errWaits is what is answered to what only a container on a host can do.
func errWaits(c *cluster.Container) error {
	return api.Errorf(api.CodeConflict, "see 'vzcluster show "+c.Name+"'", "%s waits for room, it is on no host yet: %s", c.Ref(), c.Detail)
}

// room is what the hosts have left, for several containers to be placed.
func (m *member) room(silent ...string) *scheduler.Placer {
	snap := m.snapshot("")
	for i, h := range snap.Hosts {
		snap.Hosts[i].Alive = h.Alive && !slices.Contains(silent, h.Name)
	}
	return scheduler.NewPlacer(snap)
}

func request(c *cluster.Container, pin string) scheduler.Request {
	return scheduler.Request{Need: c.Need(), Rules: c.Rules, Template: c.Digest, Pin: pin}
}
