package agent

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/gossip"
	"github.com/vzcluster/vzcluster/cluster/raftstore"
	"github.com/vzcluster/vzcluster/cluster/trust"
)

// member is what an agent has more once its host belongs to a cluster.
type member struct {
	*Agent
	name     string
	id       *trust.Identity
	store    *raftstore.Store
	gossip   *gossip.Gossip
	peers    *peers
	timing   Timing
	migrator Migrator // nil: this host cannot migrate
	rec      *reconciler
	limits   *limitWatch
	survey   *surveyor
	quiet    *log.Logger // of the proxies

	firstSeeds []string // gossip addresses that the cluster named when this host joined

	noRoomFor map[int]time.Time // by CTID, guarded by placing: when no moves were found last that make room for it

	ruling   atomic.Bool  // the leader, and past its first barrier
	placing  sync.Mutex   // held from a placement's decision to its commit: the next one sees what it took
	kept     keptRoom     // guarded by placing
	orders   []*order     // that wait for placing
	ordering sync.Mutex   // guards orders
	images   sync.RWMutex // read-held while a template is on its way into store and state, or to another host; held to remove others
	fetch    singleflight.Group
	woken    sync.Map                  // host -> time.Time: when it was woken last
	turns    sync.Map                  // key -> true: hooks of maintenances that this host has run
	missed   sync.Map                  // host -> time.Time: since when the moves of plans miss it
	beside   sync.WaitGroup            // of what the leader does beside its loop
	refused  atomic.Pointer[time.Time] // when a container found no room last
	plans    sync.Map                  // operation id -> struct{}: plans that this leader carries out
}

// startMember opens everything that belongs to a cluster; what it started ends with the agent. After an error nothing
// of it is left.
func (a *Agent) startMember(id *trust.Identity, seeds ...string) (_ *member, err error) {
	m := &member{
		firstSeeds: seeds, noRoomFor: map[int]time.Time{},
		Agent: a, name: a.cfg.Name, id: id, timing: a.deps.Timing,
		quiet: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	m.peers = newPeers(id, m.addressOf)
	var opened []func()
	defer func() {
		if err != nil {
			for _, f := range slices.Backward(opened) {
				f()
			}
		}
	}()
	ln, err := net.Listen("tcp", a.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("the agent's port cannot be opened, see listen in the configuration: %w", err)
	}
	opened = append(opened, func() { ln.Close() })
	split, err := newSplitter(ln, id, a.log)
	if err != nil {
		return nil, err
	}
	layer := &raftLayer{chanListener: split.out[alpnRaft], m: m, usable: make(chan struct{})}
	conf := a.deps.Raft
	conf.Dir, conf.Name, conf.Address = filepath.Join(a.cfg.DataDir, "raft"), m.name, a.cfg.Advertise
	conf.Layer, conf.Log = layer, a.log
	m.store, err = raftstore.Open(conf)
	if err != nil {
		return nil, fmt.Errorf("the replicated state cannot be opened: %w", err)
	}
	close(layer.usable)
	opened = append(opened, func() { m.store.Close() })
	m.gossip, err = gossip.Start(gossip.Config{
		Name: m.name, Bind: a.cfg.Gossip.Bind, Advertise: a.cfg.Gossip.Advertise, Key: id.GossipKey,
		Seeds: m.seeds, Meta: gossip.Meta{API: a.cfg.Advertise, Version: a.deps.Version}, Log: a.log,
	})
	if err != nil {
		return nil, fmt.Errorf("gossip cannot be started, see gossip.bind in the configuration: %w", err)
	}
	opened = append(opened, func() { m.gossip.Close() })
	if m.rec, err = newReconciler(m); err != nil {
		return nil, err
	}
	if a.deps.Migrator != nil {
		m.migrator = a.deps.Migrator(a)
	}
	m.survey, m.limits = newSurveyor(m), newLimitWatch(m)
	a.member.Store(m)
	m.start(split)
	return m, nil
}

// start lets everything of an opened member run.
func (m *member) start(split *splitter) {
	m.spawn("listener", split.run)
	m.serveHTTP(split.out[alpnHTTP])
	m.spawn("close", func(ctx context.Context) error {
		var err error
		select {
		case <-ctx.Done():
		case <-m.store.Failed():
			err = m.store.Err()
		}
		_ = m.gossip.Close() // the others find out by themselves
		return errors.Join(err, m.store.Close())
	})
	m.spawn("leader", m.watchLeadership)
	m.spawn("reconcile", m.rec.run)
	m.spawn("self", m.describeSelf)
	m.spawn("limits", m.limits.run)
	m.spawn("reach", m.keepReach)
	m.spawn("membership", m.watchMembership)
	if m.migrator != nil {
		m.spawn("migrations", m.migrator.Run)
		m.spawn("survey", m.survey.run)
	}
	m.spawn("migration connections", func(ctx context.Context) error { return m.serveMigrations(split.out[alpnMigrate]) })
	if m.deps.Resolver != nil {
		m.spawn("dns", func(ctx context.Context) error {
			if err := m.deps.Resolver(ctx, m.lookup); err != nil {
				m.log.Error("containers' names are not resolved", "error", err)
			}
			return nil
		})
	}
}

// serveMigrations hands connections of other hosts to the Migrator.
func (m *member) serveMigrations(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		name, serial, ok := peerConn(conn)
		if !ok || m.migrator == nil || !m.mayAsk(name, serial) {
			m.log.Warn("refused a migration connection", "from", conn.RemoteAddr(), "certificate", name)
			conn.Close()
			continue
		}
		go m.migrator.Handle(conn, name)
	}
}

// mayAsk reports whether a certificate is that of a host of the cluster. A replica that is still empty, on a host that
// has just joined, knows nobody and takes everyone whom the cluster's CA has certified.
func (m *member) mayAsk(name, serial string) bool {
	s := m.store.State()
	if h := s.Host(name); h != nil {
		return h.Serial == serial
	}
	return s.Settings() == nil
}

// maySpeakRaft reports whether a certificate is that of a host of the cluster. While this host follows no leader its
// replica may be behind, so a name that it does not know is accepted, or a host that was away while another joined
// could never be told so by the new one.
func (m *member) maySpeakRaft(name, serial string) bool {
	if h := m.store.State().Host(name); h != nil {
		return h.Serial == serial
	}
	leader, _ := m.store.Leader()
	return leader == "" || leader == name
}

// describeSelf tells the cluster what has changed of this host since it was last described.
func (m *member) describeSelf(ctx context.Context) error {
	for {
		changed := m.store.Changed()
		if h := m.store.State().Host(m.name); h != nil {
			if m.described(h) {
				return nil
			}
			_, err := m.apply(ctx, cluster.UpdateHost{
				Name: m.name, Address: m.cfg.Advertise, Gossip: m.cfg.Gossip.Advertise, Version: m.deps.Version,
				Capacity: m.cfg.Capacity.Resources(), Labels: labels(m.cfg.Labels), Boot: m.rec.booted,
			})
			if err != nil && ctx.Err() == nil {
				m.log.Error("this host's description was refused", "error", err)
			}
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (m *member) described(h *cluster.Host) bool {
	return h.Address == m.cfg.Advertise && h.Gossip == m.cfg.Gossip.Advertise && h.Version == m.deps.Version &&
		h.Capacity == m.cfg.Capacity.Resources() && (m.rec.booted == "" || h.Boot == m.rec.booted) && maps.Equal(h.Labels, h.LabelsWith(m.cfg.Labels))
}

// labels makes an empty map of nil, which UpdateHost would take for "unchanged".
func labels(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// seeds are the gossip addresses of the other hosts.
func (m *member) seeds() []string {
	var out []string
	for _, h := range m.store.State().Hosts() {
		if h.Name != m.name && h.Gossip != "" {
			out = append(out, h.Gossip)
		}
	}
	return append(out, m.firstSeeds...)
}

// addressOf returns the API address of a host, also while the replica is behind.
func (m *member) addressOf(host string) string {
	if h := m.store.State().Host(host); h != nil {
		return h.Address
	}
	if leader, addr := m.store.Leader(); leader == host {
		return addr
	}
	for _, r := range m.store.Members() {
		if r.Name == host {
			return r.Address
		}
	}
	return ""
}

// hostAt returns the name of the host with an address, "" when none is known.
func (m *member) hostAt(address string) string {
	for _, h := range m.store.State().Hosts() {
		if h.Address == address {
			return h.Name
		}
	}
	return ""
}

// alive reports whether gossip sees a host; this host sees itself.
func (m *member) alive(host string) bool { return host == m.name || m.gossip.Alive(host) }

// leader returns the leader's name, "" when none is known, and whether this host is it and may decide.
func (m *member) leader() (name string, mine bool) {
	if m.ruling.Load() && m.store.IsLeader() {
		return m.name, true
	}
	name, _ = m.store.Leader()
	return name, false
}

// lookup answers the names of containers and hosts.
func (m *member) lookup(name string) []string {
	s := m.store.State()
	if c := s.Find(name); c != nil {
		return bare(c.Addresses)
	}
	for _, c := range s.Containers() {
		if c.Hostname == name {
			return bare(c.Addresses)
		}
	}
	if h := s.Host(name); h != nil {
		if host, _, err := net.SplitHostPort(h.Address); err == nil {
			return []string{host}
		}
	}
	return nil
}

// bare takes the prefix lengths off.
func bare(cidrs []string) []string {
	out := make([]string, 0, len(cidrs))
	for _, c := range cidrs {
		if p, err := netip.ParsePrefix(c); err == nil {
			out = append(out, p.Addr().String())
		}
	}
	return out
}
