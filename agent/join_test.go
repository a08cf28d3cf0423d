package agent

import (
	"crypto/tls"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/trust"
)

func TestUnjoined(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	h := l.host("host1")
	s, err := h.Status(t.Context())
	must(t, err)
	if s.Joined || s.Host != "host1" {
		t.Errorf("status of a host without a cluster: %+v", s)
	}
	_, err = h.Containers(t.Context())
	wantCode(t, err, api.CodeConflict)
	_, err = h.Init(t.Context(), api.InitRequest{Pool: "everything"})
	wantCode(t, err, api.CodeUsage)
	s, err = h.Status(t.Context())
	must(t, err)
	if s.Joined {
		t.Error("a refused init has made a cluster")
	}
	if _, err := os.Stat(h.agent.initPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused init has left its file: %v", err)
	}
}

func TestTokens(t *testing.T) {
	l, hosts := newCluster(t, 1)
	first, ctx := hosts[0], t.Context()
	joiner, other := l.host("host2"), l.host("elsewhere")
	_, err := other.Init(ctx, api.InitRequest{})
	must(t, err)
	join := func(token string) error {
		_, err := joiner.Join(ctx, api.JoinRequest{Address: first.cfg.Advertise, Token: token})
		return err
	}
	refused := func(what, token, want string) {
		t.Helper()
		if err := join(token); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s token: got %v, want an error with %q", what, err, want)
		}
	}
	good := first.token(time.Hour)
	refused("no", "nonsense", "no join token")
	refused("a foreign", other.token(time.Hour), "does not belong to the cluster")
	parts := strings.Split(good, ".")
	parts[2] = strings.Repeat("a", len(parts[2]))
	refused("a guessed", strings.Join(parts, "."), "does not know this token")
	refused("an expired", first.token(time.Nanosecond), "expired")
	revoked := first.token(time.Hour)
	must(t, first.RevokeToken(ctx, strings.Split(revoked, ".")[1]))
	refused("a revoked", revoked, "does not know this token")
	if all, err := first.Hosts(ctx); err != nil || len(all) != 1 {
		t.Errorf("refused joins have left %d hosts (%v), want one", len(all), err)
	}

	must(t, join(good))
	third := l.host("host3")
	_, err = third.Join(ctx, api.JoinRequest{Address: joiner.cfg.Advertise, Token: good})
	if err == nil || !strings.Contains(err.Error(), "used by host") {
		t.Errorf("a used token: got %v", err)
	}
	// The member that is asked need not be the leader.
	_, err = third.Join(ctx, api.JoinRequest{Address: joiner.cfg.Advertise, Token: first.token(time.Hour)})
	must(t, err)
}

func TestNameTaken(t *testing.T) {
	l, hosts := newCluster(t, 1)
	twin := l.host("host1x")
	twin.stop()
	twin.cfg.Name = "host1"
	twin.start()
	_, err := twin.Join(t.Context(), api.JoinRequest{Address: hosts[0].cfg.Advertise, Token: hosts[0].token(time.Hour)})
	wantCode(t, err, api.CodeConflict)
}

func TestInterruptedInitIsFinished(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}}
	h := l.host("host1")
	first, id, err := h.agent.newCluster(api.InitRequest{})
	must(t, err)
	h.stop()
	// What a crash leaves right before raft is bootstrapped.
	must(t, writeJSON(h.agentPath("init.json"), first))
	must(t, trust.SaveIdentity(h.agentPath("identity"), id))
	h.start()
	s, err := h.Status(t.Context())
	must(t, err)
	if !s.Joined || s.Leader != "host1" || len(s.Hosts) != 1 {
		t.Errorf("after a restart: %+v", s)
	}
	if _, err := os.Stat(h.agentPath("init.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the init is not over: %v", err)
	}
}

// remote sends a request to a host's port with a TLS configuration.
func remote(t *testing.T, h *testHost, conf *tls.Config, method, path, body string) (int, string) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: conf}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+h.cfg.Advertise+path, strings.NewReader(body))
	must(t, err)
	res, err := tr.RoundTrip(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	return res.StatusCode, readError(res).Error()
}

func TestWhoMayAskFromAfar(t *testing.T) {
	_, hosts := newCluster(t, 2)
	first, second := hosts[0], hosts[1]
	id := second.agent.member.Load().id

	anonymous := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	if code, said := remote(t, first, anonymous, "GET", "/v1/status", ""); code != http.StatusForbidden {
		t.Errorf("without a certificate: %d %s", code, said)
	}
	member, err := trust.ClientTLS(id, "host1", alpnHTTP)
	must(t, err)
	if code, said := remote(t, first, member, "POST", "/v1/init", "{}"); code != http.StatusForbidden {
		t.Errorf("init from afar: %d %s", code, said)
	}
	if code, said := remote(t, first, member, "GET", "/v1/containers", ""); code != http.StatusOK {
		t.Errorf("a member's question: %d %s", code, said)
	}

	// A certificate of the cluster's CA that is not the one on record: of a host that was replaced.
	set := first.agent.State().Settings()
	key, csr, err := trust.NewKeyAndCSR("host2")
	must(t, err)
	cert, _, err := trust.Issue(set.CACert, set.CAKey, csr, "host2", nil)
	must(t, err)
	old, err := trust.ClientTLS(&trust.Identity{
		Name: "host2", CertPEM: cert, KeyPEM: key, CACertPEM: set.CACert, GossipKey: set.GossipKey,
	}, "host1", alpnHTTP)
	must(t, err)
	if code, said := remote(t, first, old, "GET", "/v1/containers", ""); code != http.StatusForbidden {
		t.Errorf("with an old certificate: %d %s", code, said)
	}
	// Routes for hosts are not for users on the socket.
	if err := first.Call(t.Context(), api.RouteRead, nil, nil, "101"); api.CodeOf(err) != api.CodeDenied {
		t.Errorf("a user asks as a host would: %v", err)
	}
}

func TestHostsMaySpeakForThemselvesOnly(t *testing.T) {
	_, hosts := newCluster(t, 2)
	m := hosts[0].agent.member.Load()
	for _, c := range []cluster.Command{
		cluster.ReportContainer{ID: 101, Host: "host1"},
		cluster.RemoveContainer{ID: 101, Host: "host1"},
		cluster.UpdateHost{Name: "host1"},
		cluster.TemplateOn{Host: "host1"},
		cluster.TemplateOff{Host: "host1"},
		cluster.RemoveHost{Name: "host1"},
		cluster.CreateContainer{},
		cluster.SetDesired{},
		cluster.AddToken{},
		cluster.InitCluster{},
		cluster.PutTemplate{Template: cluster.Template{Hosts: []string{"host1", "host2"}}},
	} {
		wantCode(t, m.mayApply("host2", c), api.CodeDenied)
	}
	for _, c := range []cluster.Command{
		cluster.ReportContainer{ID: 101, Host: "host2"},
		cluster.UpdateHost{Name: "host2"},
		cluster.TemplateOn{Host: "host2"},
		cluster.TemplateOff{Host: "host2"},
		cluster.PutTemplate{Template: cluster.Template{Hosts: []string{"host2"}}},
	} {
		must(t, m.mayApply("host2", c))
	}
	// The refusal comes back over the wire as what it was.
	_, err := hosts[1].agent.Apply(t.Context(), cluster.ReportContainer{ID: 999, Host: "host2", State: cluster.Running})
	if !errors.Is(err, cluster.ErrNotFound) {
		t.Errorf("a report of an unknown container: %v, want ErrNotFound", err)
	}
	if _, err := hosts[1].agent.Read(t.Context(), 999); !errors.Is(err, cluster.ErrNotFound) {
		t.Errorf("a read of an unknown container: %v, want ErrNotFound", err)
	}
}
