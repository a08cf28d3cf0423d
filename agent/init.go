package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/trust"
)

// initFile holds what InitCluster will say until it is committed, so that a crash in between loses nothing.
const initFile = "init.json"

// handleInit makes this host the first of a new cluster.
func (a *Agent) handleInit(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.InitRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	a.enter.Lock()
	defer a.enter.Unlock()
	if a.member.Load() != nil {
		return nil, errMember()
	}
	first, id, err := a.newCluster(req)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(first)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(a.initPath(), raw, 0o600); err != nil {
		return nil, fmt.Errorf("the new cluster's settings cannot be kept: %w", err)
	}
	if err := trust.SaveIdentity(a.identityDir(), id); err != nil {
		return nil, err
	}
	m, err := a.startMember(id)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(a.identityDir()), os.Remove(a.initPath()))
	}
	if err := m.finishInit(r.Context(), first); err != nil {
		return nil, err
	}
	m.log.Info("made a cluster", "id", first.Settings.ID)
	return m.status(r), nil
}

func errMember() error {
	return api.Errorf(api.CodeConflict, "'vzcluster status' shows it", "this host belongs to a cluster already")
}

func (a *Agent) initPath() string { return filepath.Join(a.cfg.DataDir, initFile) }

// newCluster makes CA, keys and settings; nothing is written, and what the state would refuse is refused here.
func (a *Agent) newCluster(req api.InitRequest) (cluster.InitCluster, *trust.Identity, error) {
	var first cluster.InitCluster
	pool, err := a.pool(req)
	if err != nil {
		return first, nil, err
	}
	raw := make([]byte, 40)
	_, _ = rand.Read(raw) // never fails
	pool.ID, pool.GossipKey = hex.EncodeToString(raw[:8]), raw[8:]
	if pool.CACert, pool.CAKey, err = trust.NewCA(pool.ID); err != nil {
		return first, nil, err
	}
	key, csr, err := trust.NewKeyAndCSR(a.cfg.Name)
	if err != nil {
		return first, nil, err
	}
	cert, serial, err := trust.Issue(pool.CACert, pool.CAKey, csr, a.cfg.Name, []string{a.cfg.Advertise})
	if err != nil {
		return first, nil, err
	}
	first = cluster.InitCluster{Settings: pool, Host: a.self(serial)}
	if _, _, err := cluster.NewState().Apply(first); err != nil {
		return first, nil, err
	}
	return first, &trust.Identity{
		Name: a.cfg.Name, CertPEM: cert, KeyPEM: key, CACertPEM: pool.CACert, GossipKey: pool.GossipKey,
	}, nil
}

// self is this host as a record.
func (a *Agent) self(serial string) cluster.Host {
	return cluster.Host{
		Name: a.cfg.Name, Address: a.cfg.Advertise, Gossip: a.cfg.Gossip.Advertise, State: cluster.HostActive,
		Voter: true, Capacity: a.cfg.Capacity.Resources(), Labels: a.cfg.Labels, Serial: serial,
		Joined: time.Now().UTC(), Version: a.deps.Version,
	}
}

// pool takes the address pool from the request, and what that leaves open from the configuration.
func (a *Agent) pool(req api.InitRequest) (cluster.Settings, error) {
	n := a.cfg.Network
	if req.Pool != "" {
		n.Pool, n.PoolFirst, n.PoolLast, n.Gateway = req.Pool, "", "", ""
	}
	for to, v := range map[*string]string{&n.PoolFirst: req.PoolFirst, &n.PoolLast: req.PoolLast, &n.Gateway: req.Gateway} {
		if v != "" {
			*to = v
		}
	}
	if err := checkPool(n); err != nil {
		return cluster.Settings{}, api.Errorf(api.CodeUsage, "", "%v", err)
	}
	p := netip.MustParsePrefix(n.Pool).Masked()
	if n.PoolFirst == "" {
		n.PoolFirst = middle(p).Next().String()
	}
	if n.PoolLast == "" {
		n.PoolLast = last(p).String()
	}
	return cluster.Settings{Pool: p.String(), PoolFirst: n.PoolFirst, PoolLast: n.PoolLast, Gateway: n.Gateway}, nil
}

// middle returns where a prefix's upper half begins: the lower one is left to hosts and other machines.
func middle(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	if bit := p.Bits(); bit < len(raw)*8 {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(raw)
	return a
}

// last returns the last address of a prefix that a container can have.
func last(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(raw)
	if p.Bits() < a.BitLen()-1 {
		a = a.Prev() // the broadcast address
	}
	return a
}

// finishInit bootstraps raft and commits the settings (idempotent).
func (m *member) finishInit(ctx context.Context, first cluster.InitCluster) error {
	if err := m.store.Bootstrap(m.name, m.cfg.Advertise); err != nil {
		return fmt.Errorf("the replicated state cannot be begun: %w", err)
	}
	if _, err := m.apply(ctx, first); err != nil {
		return fmt.Errorf("the cluster's settings cannot be laid down: %w", err)
	}
	return os.Remove(m.initPath())
}

// resumeInit finishes an init that a crash interrupted.
func (m *member) resumeInit() error {
	raw, err := os.ReadFile(m.initPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var first cluster.InitCluster
	if err == nil {
		err = json.Unmarshal(raw, &first)
	}
	if err != nil {
		return fmt.Errorf("the interrupted init cannot be finished; remove %s and run it again: %w", m.cfg.DataDir, err)
	}
	return m.finishInit(m.ctx, first)
}
