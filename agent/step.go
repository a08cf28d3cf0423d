package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// How long a container may take to end when it is asked to, before it is killed.
const (
	stopTimeout    = 30 * time.Second
	destroyTimeout = 10 * time.Second
	confirmTimeout = 10 * time.Second // of a read from the leader
)

// step brings one container one transition further. More means that another step is due at once.
func (r *reconciler) step(ctx context.Context, id int) (more bool, err error) {
	if r.quiet.Load() { // the host goes down
		return false, nil
	}
	s := r.m.store.State()
	c := s.Container(id)
	l, err := r.look(s, id)
	if err != nil {
		return false, err
	}
	mine := c != nil && c.Host == r.m.name
	if mine && l.Unsure && !l.Running { // the replica may be behind; findBooted has it looked at again
		return false, nil
	}
	if mine && l.Running {
		r.watch(id)
	}
	a := decide(r.m.name, c, l)
	if a.Do != doNothing {
		r.m.log.Debug("container", "id", id, "do", a.Do, "state", a.State)
	}
	if mine && l.Fresh && a.Do != doStart && a.Do != doWake && a.Do != doHalt {
		r.settleBoot(id)
	}
	if a.Do != doNothing && a.Do != doReport && a.Do != doAdopt && a.Do != doUpdate && a.Do != doConnect && a.Do != doResolve {
		if err := r.reclaim(ctx, id); err != nil {
			return false, err
		}
	}
	switch a.Do {
	case doAdopt:
		return true, r.note(id, acted{Generation: c.Generation, Epoch: c.Epoch})
	case doStart:
		return r.start(ctx, c, l, a.Detail)
	case doStop:
		return true, r.stop(ctx, s, c)
	case doBury:
		return true, r.bury(ctx, c)
	case doUpdate:
		return true, r.update(c, l.Acted)
	case doConnect:
		return true, r.connect(s, c, l.Acted)
	case doResolve:
		return true, r.resolve(ctx, c, l.Acted)
	case doReport:
		_, err := r.report(ctx, c, a.State, a.Detail)
		return false, err
	case doWake, doHalt:
		if a.Do == doWake {
			return true, r.wake(ctx, c)
		}
		return true, r.halt(ctx, c, a.State, a.Detail)
	case doSuspend:
		return true, r.suspend(ctx, c)
	case doForget:
		return true, r.m.deps.Engine.DropMemory(ctx, id)
	case doTask:
		return true, r.task(ctx, c)
	case doDestroy:
		return false, r.destroy(ctx, c)
	case doDrop:
		return false, r.drop(ctx, id)
	}
	return false, nil
}

func (r *reconciler) look(s *cluster.State, id int) (local, error) {
	status, err := r.m.deps.Engine.Status(id)
	if err != nil {
		return local{}, fmt.Errorf("it is not known whether container %d runs: %w", id, err)
	}
	memory, err := r.m.deps.Engine.Suspension(id)
	if err != nil {
		return local{}, err
	}
	network := ""
	if c := s.Container(id); c != nil && c.Host == r.m.name {
		if network, err = wantedNetwork(s, c); err != nil {
			return local{}, err
		}
	}
	op := s.ActiveMigration(id)
	busy := r.m.migrator != nil && r.m.migrator.Busy(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	return local{
		Running: status.Running, Trace: r.traces[id], Acted: r.acted[id], Network: network, Memory: memory, Fresh: r.fresh(id), Unsure: r.unsure(), Task: s.ActiveTask(id) != nil,
		Moving: busy || op != nil && (op.From == r.m.name || op.To == r.m.name),
	}, nil
}

// report tells the cluster how a container is, and returns its record as it was when the report was committed. That
// this host is the owner no more is no error: the replica will show it.
func (r *reconciler) report(ctx context.Context, c *cluster.Container, s cluster.ContainerState, detail string) (*cluster.Container, error) {
	return r.send(ctx, cluster.ReportContainer{ID: c.ID, Host: r.m.name, Generation: c.Generation, State: s, Detail: detail})
}

func (r *reconciler) send(ctx context.Context, report cluster.ReportContainer) (*cluster.Container, error) {
	result, err := r.m.apply(ctx, report)
	if errors.Is(err, cluster.ErrStale) || errors.Is(err, cluster.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	now, _ := result.(*cluster.Container)
	return now, nil
}

// start starts a container; fault is what has made that necessary, and is counted, or empty. The report before it is a
// compare-and-set: an agent whose replica is behind, and which is not the owner any more, gets no further.
func (r *reconciler) start(ctx context.Context, c *cluster.Container, l local, fault string) (more bool, err error) {
	now, err := r.send(ctx, cluster.ReportContainer{
		ID: c.ID, Host: r.m.name, Generation: c.Generation, State: cluster.Starting, Detail: fault, Restarted: fault != "",
	})
	if err != nil {
		return false, err
	}
	if now == nil || decide(r.m.name, now, l).Do != doStart {
		return r.m.store.State().Container(c.ID) != c, nil // otherwise the change is still on its way here
	}
	r.turn(ctx, c)
	select {
	case r.starts <- struct{}{}:
		defer func() { <-r.starts }()
	case <-ctx.Done():
		return false, nil
	}
	r.mu.Lock()
	delete(r.kills, c.ID) // of an earlier run
	r.mu.Unlock()
	done := acted{Generation: now.Generation, Epoch: now.Epoch, Limits: now.Limits, Guarantee: now.Rules.Guarantee, DNS: ownResolver(now)}
	if l.Memory != "" { // it goes on with the files that it had
		done.DNS = unknownDNS
	}
	began := time.Now()
	if done.Network, err = r.makeReal(ctx, now); err != nil {
		if ctx.Err() != nil {
			return false, nil
		}
		r.m.log.Error("a container could not be started", "container", c.ID, "error", err)
		done.Failed = err.Error()
	}
	if err := r.note(c.ID, done); err != nil {
		return false, err
	}
	if done.Failed != "" {
		_, err = r.report(ctx, now, cluster.Failed, done.Failed)
		return false, err
	}
	r.watch(c.ID)
	r.m.log.Info("started a container", "container", c.ID, "took", time.Since(began).Round(time.Millisecond))
	_, err = r.report(ctx, now, cluster.Running, now.Detail)
	return false, err
}

// makeReal fetches what is missing, starts, and returns the fingerprint of the NICs.
func (r *reconciler) makeReal(ctx context.Context, c *cluster.Container) (network string, err error) {
	if err := r.m.ensureTemplate(ctx, c.Digest); err != nil {
		return "", err
	}
	spec, err := r.m.spec(c)
	if err != nil {
		return "", err
	}
	return fingerprint(spec.NICs), r.m.deps.Engine.Start(ctx, spec) // of a suspended one: it goes on
}

func (r *reconciler) stop(ctx context.Context, s *cluster.State, c *cluster.Container) error {
	if _, err := r.report(ctx, c, cluster.Stopping, ""); err != nil {
		return err
	}
	systemd := false
	if t := s.TemplateByDigest(c.Digest); t != nil {
		systemd = t.Systemd
	}
	timeout := stopTimeout
	if c.GraceMS > 0 {
		timeout = time.Duration(c.GraceMS) * time.Millisecond
	}
	if c.Desired == cluster.WantDestroyed {
		timeout = destroyTimeout
	}
	asked, done, forced := r.beginStop(ctx, c.ID)
	defer done()
	if !forced {
		err := r.m.deps.Engine.Stop(asked, c.ID, systemd, timeout)
		if err == nil || asked.Err() == nil || ctx.Err() != nil {
			return err
		}
	}
	return r.m.deps.Engine.Stop(ctx, c.ID, systemd, 0)
}

// beginStop returns the context for asking a container to end, which a kill cuts short; forced: a kill came before.
func (r *reconciler) beginStop(ctx context.Context, id int) (asked context.Context, done func(), forced bool) {
	asked, cancel := context.WithCancel(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.kills[id]
	r.kills[id] = kill{cut: cancel}
	return asked, func() {
		cancel()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.kills, id)
	}, k.wanted
}

// kill makes the stop that is under way, or else the next one, not wait for the container any longer. The engine is
// not called from here: its calls for one container must not overlap.
func (r *reconciler) kill(id int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.kills[id]
	k.wanted = true
	r.kills[id] = k
	if k.cut != nil {
		k.cut()
	}
}

// takeKill says whether a kill came before, and forgets it.
func (r *reconciler) takeKill(id int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted := r.kills[id].wanted
	delete(r.kills, id)
	return wanted
}

// kill is what is known of the forced end of a container.
type kill struct {
	wanted bool
	cut    context.CancelFunc // ends the asking of a stop under way; nil without one
}

// update brings changed limits to the kernel. A refusal is noted, for whoever waits for the change.
func (r *reconciler) update(c *cluster.Container, a acted) error {
	a.Limits, a.Guarantee, a.Refused = c.Limits, c.Rules.Guarantee, ""
	if err := r.m.deps.Engine.Update(c.ID, limitsOf(c)); err != nil {
		a.Refused = refusalOf(c, err)
		r.m.log.Warn("the kernel refused a container's new limits", "container", c.ID, "error", err)
	}
	return r.note(c.ID, a)
}

// refusalOf says to a user why the kernel refuses limits; its own words are for the log.
func refusalOf(c *cluster.Container, err error) string {
	if errors.Is(err, unix.EBUSY) { // of the files that limit memory
		return fmt.Sprintf("%s uses more than %s now", c.Name, cluster.Bytes(c.Limits.RAM))
	}
	if why := runtime.Unable(""); errors.As(err, &why) {
		return string(why)
	}
	return "the kernel refuses the limits: " + err.Error()
}

func (r *reconciler) destroy(ctx context.Context, c *cluster.Container) error {
	if err := r.m.deps.Engine.Destroy(ctx, c.ID); err != nil {
		return err
	}
	if err := r.forget(c.ID); err != nil {
		return err
	}
	r.m.useTemplate(c.Digest) // until now
	_, err := r.m.apply(ctx, cluster.RemoveContainer{ID: c.ID, Host: r.m.name, Generation: c.Generation})
	if errors.Is(err, cluster.ErrNotFound) || errors.Is(err, cluster.ErrStale) {
		return nil
	}
	return err
}

// drop deletes a copy that belongs to another host or to nobody. The replica here may be behind, so the leader is
// asked first.
func (r *reconciler) drop(ctx context.Context, id int) error {
	rctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	c, err := r.m.read(rctx, id)
	switch {
	case errors.Is(err, cluster.ErrNotFound):
	case err != nil:
		return fmt.Errorf("container %d looks like another host's, but no leader confirms it: %w", id, err)
	case c.Host == r.m.name || c.Operation != "":
		return nil // the replica will show it
	}
	r.m.log.Info("deleting the copy of a container that is not this host's", "container", id)
	if err := r.m.deps.Engine.Destroy(ctx, id); err != nil {
		return err
	}
	return r.forget(id)
}

func limitsOf(c *cluster.Container) runtime.Limits {
	l := c.Limits
	mask := l.CPUMask
	if mask == cluster.AllCPUs {
		mask = ""
	}
	return runtime.Limits{
		RAM: l.RAM, Swap: l.Swap, Guarantee: c.Rules.Guarantee, SoftRAM: l.SoftRAM,
		MilliCPU: l.MilliCPU, CPUUnits: l.CPUUnits, CPUCount: l.VisibleCPUs(), CPUMask: mask, NUMANodes: l.NUMANodes,
		PIDs: l.PIDs, IOWeight: l.IOWeight, ReadRate: l.ReadRate, WriteRate: l.WriteRate, ReadIOPS: l.ReadIOPS, WriteIOPS: l.WriteIOPS,
		Net: runtime.Rates{In: int64(l.NetIn) / 8, Out: int64(l.NetOut) / 8}, Disk: runtime.Space{Bytes: l.Disk, Files: l.Files},
	}
}

// Spec returns what this host must know to make a container real, from the replicated state alone.
func (a *Agent) Spec(c *cluster.Container) (runtime.Spec, error) {
	m := a.member.Load()
	if m == nil {
		return runtime.Spec{}, errNoCluster()
	}
	return m.spec(c)
}

func (m *member) spec(c *cluster.Container) (runtime.Spec, error) {
	s := m.store.State()
	t := s.TemplateByDigest(c.Digest)
	if t == nil {
		return runtime.Spec{}, fmt.Errorf("the template %s of container %d is not known: %w", c.Template, c.ID, cluster.ErrNotFound)
	}
	spec := runtime.Spec{
		ID: c.ID, Generation: c.Generation, Name: c.Name, Hostname: c.Hostname, Template: c.Digest, Init: t.Init, Systemd: t.Systemd,
		UIDBase: c.UIDBase, Limits: limitsOf(c), DNS: m.nameServers(),
	}
	if m.deps.Resolver != nil {
		spec.Search = []string{DNSDomain}
	}
	if len(c.NameServers) > 0 {
		spec.DNS = c.NameServers
	}
	if len(c.SearchDomains) > 0 {
		spec.Search = c.SearchDomains
	}
	spec.Folders = foldersOf(c)
	var err error
	nics, err := nicsOf(s, c)
	spec.NICs = shaped(nics, spec.Limits.Net)
	return spec, err
}

// foldersOf are the folders of hosts that a container has.
func foldersOf(c *cluster.Container) (out []runtime.Folder) {
	for _, f := range c.Mounts {
		out = append(out, runtime.Folder{Source: f.Source, Path: f.Path, ReadOnly: f.ReadOnly, Shared: f.Shared})
	}
	return out
}

// maxNameServers is how many a resolver looks at.
const maxNameServers = 3

// nameServers returns this host's and other hosts' resolvers, so that names resolve also after a move and while this
// host is down; without a resolver those of the configuration.
func (m *member) nameServers() []string {
	if m.deps.Resolver == nil {
		return m.cfg.Network.DNS
	}
	var out []string
	if p, err := netip.ParsePrefix(m.cfg.Network.Address); err == nil {
		out = append(out, p.Addr().String())
	} else if host, _, err := net.SplitHostPort(m.cfg.Advertise); err == nil {
		out = append(out, host)
	}
	for _, h := range m.store.State().Hosts() {
		host, _, err := net.SplitHostPort(h.Address)
		if err == nil && h.Name != m.name && len(out) < maxNameServers {
			out = append(out, host)
		}
	}
	return out
}
