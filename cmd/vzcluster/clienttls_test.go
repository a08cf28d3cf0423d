package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/cluster/trust"
)

// member makes the identity of a host of a cluster that has the given CA.
func member(t *testing.T, ca, caKey []byte, name string) *trust.Identity {
	t.Helper()
	key, csr, err := trust.NewKeyAndCSR(name)
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := trust.Issue(ca, caKey, csr, name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &trust.Identity{Name: name, CertPEM: cert, KeyPEM: key, CACertPEM: ca, GossipKey: make([]byte, 32)}
}

func TestHTTPSWithAnIdentity(t *testing.T) {
	ca, caKey, err := trust.NewCA("cluster1")
	if err != nil {
		t.Fatal(err)
	}
	var caller string
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, _, _ = trust.PeerOf(*r.TLS)
		_, _ = io.WriteString(w, "[]")
	}))
	if s.TLS, err = trust.ServerTLS(member(t, ca, caKey, "host1"), "http/1.1"); err != nil {
		t.Fatal(err)
	}
	s.StartTLS()
	defer s.Close()
	dir := t.TempDir()
	if err := trust.SaveIdentity(dir, member(t, ca, caKey, "host2")); err != nil {
		t.Fatal(err)
	}
	f := newFake(t, nil)
	with := func(dir string) func(*env) {
		return func(e *env) {
			e.getenv = func(k string) string { return map[string]string{"VZCLUSTER_IDENTITY": dir}[k] }
		}
	}
	if r := f.runWith(with(dir), "", "ls", "-H", s.URL, "-o", "json"); r.code != 0 || r.stdout != "[]\n" || caller != "host2" {
		t.Errorf("a member: %+v, seen as %q", r, caller)
	}

	otherCA, otherKey, err := trust.NewCA("cluster2")
	if err != nil {
		t.Fatal(err)
	}
	foreign := t.TempDir()
	if err := trust.SaveIdentity(foreign, member(t, otherCA, otherKey, "host2")); err != nil {
		t.Fatal(err)
	}
	if r := f.runWith(with(foreign), "", "ls", "-H", s.URL); r.code != 1 || !strings.Contains(r.stderr, "no member of this cluster") {
		t.Errorf("a foreign identity: %+v", r)
	}
	if err := os.WriteFile(filepath.Join(foreign, "identity.pem"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := f.runWith(with(foreign), "", "ls", "-H", s.URL); r.code != 1 || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("a broken identity: %+v", r)
	}
}
