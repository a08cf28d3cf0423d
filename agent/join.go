package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/trust"
)

// joinTimeout is how long a join may take before it is given up.
const joinTimeout = 30 * time.Second

// defaultTokenTTL is how long a join token lives when nothing is said.
const defaultTokenTTL = time.Hour

// handleJoin makes this host a member of an existing cluster.
func (a *Agent) handleJoin(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.JoinRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	a.enter.Lock()
	defer a.enter.Unlock()
	if a.member.Load() != nil {
		return nil, errMember()
	}
	if err := checkAddress("address", req.Address); err != nil || req.Address == "" {
		return nil, api.Errorf(api.CodeUsage, "give host:port of any member, as 192.0.2.1:7443", "%q is not an address", req.Address)
	}
	if err := a.portsFree(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), joinTimeout)
	defer cancel()
	id, reply, err := a.enrollAt(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := trust.SaveIdentity(a.identityDir(), id); err != nil {
		return nil, err
	}
	m, err := a.startMember(id, reply.Gossip...)
	if err != nil {
		return nil, err
	}
	for {
		changed := m.store.Changed()
		if m.store.State().Host(m.name) != nil {
			m.log.Info("joined a cluster", "by", req.Address)
			return m.status(r), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, api.Errorf(api.CodeTimeout, "check that the members reach "+m.cfg.Advertise,
				"the cluster has admitted this host but has not reached it within %s", joinTimeout)
		}
	}
}

// portsFree looks before the token is used up whether this host will be able to listen.
func (a *Agent) portsFree() error {
	for key, addr := range map[string]string{"listen": a.cfg.Listen, "gossip.bind": a.cfg.Gossip.Bind} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("%s of this host cannot be used: %w", key, err)
		}
		ln.Close()
	}
	return nil
}

// enrollAt proves the token to a member and returns the identity that the cluster issues.
func (a *Agent) enrollAt(ctx context.Context, req api.JoinRequest) (*trust.Identity, *api.EnrollReply, error) {
	token, err := trust.ParseToken(req.Token)
	if err != nil {
		return nil, nil, err
	}
	key, csr, err := trust.NewKeyAndCSR(a.cfg.Name)
	if err != nil {
		return nil, nil, err
	}
	body, err := json.Marshal(api.EnrollRequest{
		Token: req.Token, Name: a.cfg.Name, Address: a.cfg.Advertise, Gossip: a.cfg.Gossip.Advertise, CSR: csr,
		Capacity: a.cfg.Capacity.Resources(), Labels: a.cfg.Labels, Version: a.deps.Version,
	})
	if err != nil {
		return nil, nil, err
	}
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		d := tls.Dialer{Config: trust.PinnedTLS(token.CAHash, alpnHTTP)}
		return d.DialContext(ctx, "tcp", addr)
	}}
	defer transport.CloseIdleConnections()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+req.Address+"/v1/enroll", bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	res, err := transport.RoundTrip(post)
	if err != nil {
		return nil, nil, fmt.Errorf("the member at %s cannot be asked: %w", req.Address, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, nil, readError(res)
	}
	var reply api.EnrollReply
	if err := json.NewDecoder(res.Body).Decode(&reply); err != nil {
		return nil, nil, fmt.Errorf("the member at %s sent an answer that cannot be read: %w", req.Address, err)
	}
	if hash, err := trust.CAHash(reply.CACert); err != nil || hash != token.CAHash {
		return nil, nil, api.Errorf(api.CodeDenied, "check address and token", "the member at %s sent another cluster's CA", req.Address)
	}
	id := &trust.Identity{Name: a.cfg.Name, CertPEM: reply.Cert, KeyPEM: key, CACertPEM: reply.CACert, GossipKey: reply.GossipKey}
	return id, &reply, nil
}

// handleEnroll admits a host that proves a token: it issues the certificate, then commits the host, which uses up the
// token in the same step.
func (m *member) handleEnroll(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.EnrollRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	token, err := trust.ParseToken(req.Token)
	if err != nil {
		return nil, err
	}
	s, now := m.store.State(), time.Now().UTC()
	settings := s.Settings()
	if settings == nil {
		return nil, errNoQuorum()
	}
	if hash, err := trust.CAHash(settings.CACert); err != nil || hash != token.CAHash {
		return nil, api.Errorf(api.CodeDenied, "", "the token was made by another cluster; make one with 'vzcluster token create' here")
	}
	if err := trust.Check(s.Token(token.ID), token.Secret, now); err != nil {
		return nil, err
	}
	cert, serial, err := trust.Issue(settings.CACert, settings.CAKey, req.CSR, req.Name, []string{req.Address})
	if err != nil {
		return nil, err
	}
	if err := m.forgetReplaced(r.Context(), req.Name); err != nil {
		return nil, err
	}
	_, err = applyHere[*cluster.Host](r.Context(), m, cluster.AddHost{
		Host: cluster.Host{
			Name: req.Name, Address: req.Address, Gossip: req.Gossip, State: cluster.HostActive, Capacity: req.Capacity,
			Labels: req.Labels, Serial: serial, Joined: now, Version: req.Version,
		},
		TokenID: token.ID, At: now,
	})
	if err != nil {
		return nil, err
	}
	m.log.Info("admitted a host", "name", req.Name, "address", req.Address)
	reply := api.EnrollReply{Cert: cert, CACert: settings.CACert, GossipKey: settings.GossipKey}
	for _, h := range s.Hosts() {
		reply.Gossip, reply.Hosts = append(reply.Gossip, h.Gossip), append(reply.Hosts, h.Address)
	}
	return reply, nil
}

// forgetReplaced makes room for a host that was installed anew under its old name: the old record must be of a host
// that is down, owns nothing and does not vote. In any other case the name stays taken.
func (m *member) forgetReplaced(ctx context.Context, name string) error {
	s := m.store.State()
	if h := s.Host(name); h == nil || h.Voter || m.alive(name) {
		return nil
	}
	_, err := applyHere[any](ctx, m, cluster.RemoveHost{Name: name})
	if errors.Is(err, cluster.ErrConflict) {
		return nil
	}
	return err
}

// handleTokenCreate makes a join token.
func (m *member) handleTokenCreate(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.TokenRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	if req.TTL == 0 {
		req.TTL = defaultTokenTTL
	}
	settings := m.store.State().Settings()
	if settings == nil {
		return nil, errNoQuorum()
	}
	text, rec, err := trust.NewToken(settings.CACert, req.TTL, time.Now().UTC())
	if err != nil {
		return nil, err
	}
	if _, err := applyHere[*cluster.Token](r.Context(), m, cluster.AddToken{Token: rec}); err != nil {
		return nil, err
	}
	return api.TokenReply{Token: text, ID: rec.ID, Expires: rec.Expires}, nil
}

// handleTokens lists the tokens, without what would let anybody use them.
func (m *member) handleTokens(http.ResponseWriter, *http.Request) (any, error) {
	out := []cluster.Token{}
	for _, t := range m.store.State().Tokens() {
		out = append(out, *t)
	}
	return out, nil
}

func (m *member) handleTokenRevoke(_ http.ResponseWriter, r *http.Request) (any, error) {
	return applyHere[any](r.Context(), m, cluster.RevokeToken{ID: r.PathValue("id")})
}
