package vzctl

import (
	"context"
	"net"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// Exit codes of vzmigrate, with the numbers that its manual gives them.
const (
	migrateUsage    = 1
	migrateStopped  = 2 // a stopped container cannot be moved live
	migrateConnect  = 4 // there is no such destination
	migrateCopy     = 6
	migrateStop     = 8 // it cannot be checkpointed
	migrateExists   = 9 // it is there already
	migrateNotExist = 10
	migrateLocked   = 20
)

// moving is what vzmigrate was asked for.
type moving struct {
	live, check, times, verbose bool
	to, ct                      string
	notes                       []string
}

// readMoving reads the arguments: options, the destination, the container.
func readMoving(args []string) (moving, error) {
	var m moving
	none := func(name, why string, value bool) option {
		return option{name: name, value: value, set: func(string) error {
			m.notes = append(m.notes, "Warning: --"+name+" is ignored: "+why)
			return nil
		}}
	}
	const ours = "hosts of a cluster have a connection of their own, neither ssh nor rsync"
	remove := option{name: "remove-area", short: 'r', value: true, set: func(v string) error {
		if v != "yes" {
			return fail(migrateUsage, "a container is moved, no copy of it stays behind: only yes can be said")
		}
		return nil
	}}
	compact := none("compact", "there are no images to compact", false)
	compact.short = 'c'
	snapshot := none("snapshot", "what cannot be moved stays where it is and runs", false)
	snapshot.short = 's'
	times, verbose := flag("times", &m.times), flag("v", &m.verbose)
	times.short = 't'
	// --nodeps may be written with a value, as in --nodeps=cpu.
	var words []string
	for _, a := range args {
		if a == "-f" || a == "--nodeps" || strings.HasPrefix(a, "--nodeps=") {
			m.notes = append(m.notes, "Warning: --nodeps is ignored: what is in the way of a move is never skipped")
			continue
		}
		words = append(words, a)
	}
	rest, err := parse(words, []option{
		remove, compact, snapshot, times, verbose, flag("live", &m.live), flag("online", &m.live), flag("check-only", &m.check), flag("dry-run", &m.check),
		none("ssh", ours, true), none("ssh-mux", ours, false), none("rsync", ours, true), none("keep-dst", "what a failed move has copied is kept and used by the next one anyway", false),
	})
	if err != nil {
		return m, fail(migrateUsage, "%v", err)
	}
	if len(rest) != 2 {
		return m, fail(migrateUsage, "Usage: vzmigrate [--live] [--check-only] [-t] [-v] destination CTID")
	}
	m.to, m.ct = rest[0], rest[1]
	return m, nil
}

func (t *tool) vzmigrate(ctx context.Context, args []string) error {
	m, err := readMoving(args)
	if err != nil {
		return err
	}
	t.warnAll(m.notes)
	cl, err := t.client()
	if err != nil {
		return err
	}
	c, err := cl.Container(ctx, m.ct)
	if err != nil {
		if api.CodeOf(err) == api.CodeNotFound {
			return fail(migrateNotExist, "CT #%s doesn't exist", m.ct)
		}
		return fail(migrateConnect, "%v", err)
	}
	to, err := t.destination(ctx, m.to)
	if err != nil {
		return err
	}
	r := api.MigrateRequest{To: to, Mode: cluster.ModeLive}
	switch {
	case c.Host == to:
		return fail(migrateExists, "CT #%d already exists on destination node", c.ID)
	case m.live && !running(c):
		return fail(migrateStopped, "Can't perform live migration of a stopped container")
	case !m.live && running(c):
		r.Mode = cluster.ModeNearLive
	case !running(c):
		r.Mode = cluster.ModeOffline
	}
	if m.check {
		return t.checkMove(ctx, c, r)
	}
	return t.move(ctx, c, r, m)
}

// destination finds the host that a name or an address means.
func (t *tool) destination(ctx context.Context, to string) (string, error) {
	hosts, err := t.cl.Hosts(ctx)
	if err != nil {
		return "", fail(migrateConnect, "%v", err)
	}
	if _, host, ok := strings.Cut(to, "@"); ok {
		to = host // root@host, as for ssh
	}
	var names []string
	for _, h := range hosts {
		address, _, _ := net.SplitHostPort(h.Address)
		if h.Name == to || address == to {
			return h.Name, nil
		}
		names = append(names, h.Name)
	}
	return "", fail(migrateConnect, "%s is not a host of this cluster; there are %s", to, strings.Join(names, ", "))
}

func (t *tool) checkMove(ctx context.Context, c api.Container, r api.MigrateRequest) error {
	v, err := t.cl.Check(ctx, id(c), r)
	if err != nil {
		return migrateRefused(err)
	}
	if v.OK {
		t.say("CT %d can be moved to %s", c.ID, r.To)
		return nil
	}
	for _, b := range v.Blockers {
		t.warn("%s", strings.TrimSpace(b.Process+" "+b.What+"; "+b.Remedy))
	}
	return fail(migrateStop, "Can't continue live migration")
}

func (t *tool) move(ctx context.Context, c api.Container, r api.MigrateRequest, m moving) error {
	kind := "migration"
	if m.live {
		kind = "live migration"
	}
	t.say("Starting %s of CT %d to %s", kind, c.ID, r.To)
	op, err := t.cl.Migrate(ctx, id(c), r)
	for err == nil && !op.Final() {
		op, err = t.cl.Operation(ctx, op.ID, time.Minute)
	}
	switch {
	case err != nil:
		return migrateRefused(err)
	case op.Status != cluster.OpDone && op.Refused:
		return fail(migrateStop, "Can't migrate CT %d, it stays on %s: %s", c.ID, op.From, op.Error)
	case op.Status != cluster.OpDone:
		return fail(migrateCopy, "Can't migrate CT %d, it stays on %s: %s", c.ID, op.From, op.Error)
	}
	if op.Result != nil && (m.times || m.verbose) {
		for _, p := range op.Result.Phases {
			t.say("%25s %7.2f", p.Name+" time:", p.MS/1000)
		}
		t.say("%25s %7.2f", "Total suspended time:", op.Result.BlackoutMS/1000)
	}
	if op.Restarted {
		t.warn("Warning: CT %d lost its memory to a fault and was started again from its disk", c.ID)
	}
	t.say("Successfully completed")
	return nil
}

func migrateRefused(err error) error {
	code := migrateCopy
	switch api.CodeOf(err) {
	case api.CodeLocked:
		code = migrateLocked
	case api.CodeUsage:
		code = migrateUsage
	case api.CodeRefused:
		code = migrateStop
	}
	return fail(code, "%v", err)
}
