// Package gossip knows which agents seem to be alive, with hashicorp/memberlist.
//
// It owns hints and nothing else: ownership, placement and membership are decided by the replicated state alone. The
// one rule for callers: act on what gossip says only where being wrong costs time, never data.
package gossip

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/vzcluster/vzcluster/cluster"
)

// Timing, chosen so that a dead host on a LAN is known within three seconds.
const (
	probeInterval = 500 * time.Millisecond
	probeTimeout  = 300 * time.Millisecond
	suspicion     = 2 // probe intervals until a suspect counts as dead
	rejoinFast    = time.Second
	rejoinSlow    = 10 * time.Second
	reclaimAfter  = 10 * time.Second // until a dead host may come back under another address
	leaveTimeout  = time.Second
	updateTimeout = 2 * time.Second
)

// Meta is what a host says about itself.
type Meta struct {
	API     string            `json:"a,omitempty"` // host:port of API, raft and migration
	Version string            `json:"v,omitempty"`
	Free    cluster.Resources `json:"f,omitzero"` // measured, a hint beside what is reserved
}

func (m Meta) encode() ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode the gossip of this host: %w", err)
	}
	if len(b) > memberlist.MetaMaxSize {
		return nil, cluster.Refuse(cluster.ErrInvalid, "the gossip of this host takes %d bytes, at most %d are possible; use shorter addresses",
			len(b), memberlist.MetaMaxSize)
	}
	return b, nil
}

// Config says who this host is and where it finds others.
type Config struct {
	Name      string
	Bind      string // IP:port to listen on, UDP and TCP; port 0 takes a free one
	Advertise string // IP:port that the others see, empty: Bind
	Key       []byte // 16, 24 or 32 bytes that all hosts share
	Seeds     func() []string
	Meta      Meta
	Log       *slog.Logger
}

// Member is a host that gossip has heard of.
type Member struct {
	Name    string
	Address string // host:port of gossip
	Alive   bool
	Meta    Meta
}

// Gossip is this host's part in the gossip. Its methods may be called by any number of goroutines.
type Gossip struct {
	cfg    Config
	list   *memberlist.Memberlist
	cancel context.CancelFunc
	joiner sync.WaitGroup

	stopOnce sync.Once
	stopErr  error

	mu      sync.Mutex
	meta    []byte
	members map[string]Member
	changed chan struct{} // closed and replaced at every change
}

// Start listens, and keeps joining the hosts that Seeds names for as long as they are missing. Close it.
func Start(cfg Config) (*Gossip, error) {
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)).With("part", "gossip")
	meta, err := cfg.Meta.encode()
	if err != nil {
		return nil, err
	}
	g := &Gossip{cfg: cfg, meta: meta, members: map[string]Member{}, changed: make(chan struct{})}
	mc, err := g.config()
	if err != nil {
		return nil, err
	}
	if g.list, err = memberlist.Create(mc); err != nil {
		return nil, fmt.Errorf("listen for gossip on %s: %w", cfg.Bind, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	g.joiner.Go(func() { g.keepJoining(ctx) })
	return g, nil
}

func (g *Gossip) config() (*memberlist.Config, error) {
	c := memberlist.DefaultLANConfig()
	c.Name = g.cfg.Name
	var err error
	if c.BindAddr, c.BindPort, err = splitAddress(g.cfg.Bind); err != nil {
		return nil, err
	}
	c.AdvertisePort = c.BindPort
	if g.cfg.Advertise != "" {
		if c.AdvertiseAddr, c.AdvertisePort, err = splitAddress(g.cfg.Advertise); err != nil {
			return nil, err
		}
	}
	if !slices.Contains([]int{16, 24, 32}, len(g.cfg.Key)) {
		return nil, cluster.Refuse(cluster.ErrInvalid, "the gossip key has %d bytes; it must have 16, 24 or 32", len(g.cfg.Key))
	}
	c.SecretKey = g.cfg.Key
	c.ProbeInterval, c.ProbeTimeout = probeInterval, probeTimeout
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = suspicion, 2
	c.AwarenessMaxMultiplier = 3
	c.PushPullInterval = 15 * time.Second
	c.TCPTimeout = 3 * time.Second
	c.DeadNodeReclaimTime = reclaimAfter
	c.Delegate, c.Events = &delegate{g}, &events{g}
	c.LogOutput = &logWriter{g.cfg.Log}
	return c, nil
}

func splitAddress(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	if err != nil || (host != "" && net.ParseIP(host) == nil) || port < 0 || port > 65535 {
		return "", 0, cluster.Refuse(cluster.ErrInvalid, "%q is no address for gossip; write IP:port", address)
	}
	return cmp.Or(host, "0.0.0.0"), port, nil
}

// keepJoining joins the seeds that are not alive here, often until the first other host is found, then now and then:
// otherwise a network that was split for long would stay split.
func (g *Gossip) keepJoining(ctx context.Context) {
	for {
		if missing := g.missing(); len(missing) > 0 {
			if _, err := g.list.Join(missing); err != nil {
				g.cfg.Log.Debug("some hosts could not be joined", "hosts", missing, "err", err)
			}
		}
		wait := rejoinSlow
		if g.list.NumMembers() < 2 {
			wait = rejoinFast
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// missing returns the seeds that no living member has as its address.
func (g *Gossip) missing() []string {
	if g.cfg.Seeds == nil {
		return nil
	}
	seeds := slices.Clone(g.cfg.Seeds())
	for _, m := range g.Members() {
		if m.Alive {
			seeds = slices.DeleteFunc(seeds, func(s string) bool { return s == m.Address })
		}
	}
	return slices.DeleteFunc(seeds, func(s string) bool { return s == "" || s == g.cfg.Advertise })
}

// Address is the host:port that the others see.
func (g *Gossip) Address() string { return g.list.LocalNode().Address() }

// Members returns all hosts that gossip has heard of since Start, this one included, by name.
func (g *Gossip) Members() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	members := make([]Member, 0, len(g.members))
	for _, m := range g.members {
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return members
}

// Alive reports whether a host seems to be alive.
func (g *Gossip) Alive(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.members[name].Alive
}

// Changed returns a channel that is closed at the next change of Members. To miss nothing, take the channel first.
func (g *Gossip) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// SetMeta changes what this host says about itself. It returns when that is on its way, or after two seconds with an
// error: then it spreads later.
func (g *Gossip) SetMeta(meta Meta) error {
	b, err := meta.encode()
	if err != nil {
		return err
	}
	g.mu.Lock()
	same := string(b) == string(g.meta)
	g.meta = b
	g.mu.Unlock()
	if same {
		return nil
	}
	if err := g.list.UpdateNode(updateTimeout); err != nil {
		return fmt.Errorf("spread the gossip of this host: %w", err)
	}
	return nil
}

// Close says good-bye to the others, so that they need not find out, and stops. It may be called again.
func (g *Gossip) Close() error { return g.stop(true) }

func (g *Gossip) stop(leave bool) error {
	g.stopOnce.Do(func() {
		g.cancel()
		g.joiner.Wait()
		if leave && g.list.NumMembers() > 1 {
			if err := g.list.Leave(leaveTimeout); err != nil {
				g.cfg.Log.Debug("the others may not have heard that this host leaves", "err", err)
			}
		}
		g.stopErr = g.list.Shutdown()
	})
	return g.stopErr
}

// note records what memberlist says about a host.
func (g *Gossip) note(n *memberlist.Node, alive bool) {
	m := Member{Name: n.Name, Address: n.Address(), Alive: alive}
	if err := json.Unmarshal(n.Meta, &m.Meta); err != nil && len(n.Meta) > 0 {
		g.cfg.Log.Warn("a host's gossip cannot be read", "host", n.Name, "err", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.members[m.Name] == m {
		return
	}
	g.members[m.Name] = m
	close(g.changed)
	g.changed = make(chan struct{})
}
