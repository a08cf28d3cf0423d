package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// testCA is a cluster's authority.
type testCA struct{ cert, key []byte }

func newTestCA(t *testing.T, id string) testCA {
	t.Helper()
	cert, key, err := NewCA(id)
	if err != nil {
		t.Fatal(err)
	}
	return testCA{cert, key}
}

func (ca testCA) identity(t *testing.T, name string) *Identity {
	t.Helper()
	key, csr, err := NewKeyAndCSR(name)
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := Issue(ca.cert, ca.key, csr, name, []string{"127.0.0.1:7443"})
	if err != nil {
		t.Fatal(err)
	}
	return &Identity{Name: name, CertPEM: cert, KeyPEM: key, CACertPEM: ca.cert, GossipKey: []byte("0123456789abcdef")}
}

func TestIssue(t *testing.T) {
	ca := newTestCA(t, "c1")
	_, csr, err := NewKeyAndCSR("h1")
	if err != nil {
		t.Fatal(err)
	}
	certPEM, serial, err := Issue(ca.cert, ca.key, csr, "h1", []string{"10.0.0.1:7443", "h1.example:1", "fd00::1", ""})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	if got := cert.URIs[0].String(); got != "vzcluster://c1/host/h1" {
		t.Errorf("the certificate is for %s", got)
	}
	if got := fmt.Sprint(cert.DNSNames, cert.IPAddresses); got != "[h1 h1.example] [10.0.0.1 fd00::1]" {
		t.Errorf("it names %s", got)
	}
	if cert.IsCA || slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny) {
		t.Error("a host could issue certificates or use its own for anything")
	}
	if got, err := Serial(certPEM); got != serial || err != nil || len(serial) != 32 {
		t.Errorf("serial %q, in the certificate %q (%v)", serial, got, err)
	}
	_, second, err := Issue(ca.cert, ca.key, csr, "h1", nil)
	if err != nil || second == serial {
		t.Errorf("two certificates have the serial %s (%v)", serial, err)
	}
}

func TestIssueRefuses(t *testing.T) {
	ca := newTestCA(t, "c1")
	_, csr, err := NewKeyAndCSR("h1")
	if err != nil {
		t.Fatal(err)
	}
	broken := slices.Clone(csr)
	broken[len(broken)/2] ^= 1
	for name, call := range map[string]func() error{
		"another host's request": func() error { _, _, err := Issue(ca.cert, ca.key, csr, "h2", nil); return err },
		"a bad name":             func() error { _, _, err := Issue(ca.cert, ca.key, csr, "h1/../h2", nil); return err },
		"no request":             func() error { _, _, err := Issue(ca.cert, ca.key, []byte("x"), "h1", nil); return err },
		"a certificate":          func() error { _, _, err := Issue(ca.cert, ca.key, ca.cert, "h1", nil); return err },
		"a changed request":      func() error { _, _, err := Issue(ca.cert, ca.key, broken, "h1", nil); return err },
		"no CA":                  func() error { _, _, err := Issue(nil, ca.key, csr, "h1", nil); return err },
		"no CA key":              func() error { _, _, err := Issue(ca.cert, ca.cert, csr, "h1", nil); return err },
		"a bad cluster id":       func() error { _, _, err := NewCA("C 1"); return err },
		"no cluster id":          func() error { _, _, err := NewCA(""); return err },
		"a bad host name":        func() error { _, _, err := NewKeyAndCSR("a b"); return err },
	} {
		if call() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestToken(t *testing.T) {
	ca := newTestCA(t, "c1")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	text, rec, err := NewToken(ca.cert, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := ParseToken(" " + text + "\n")
	if err != nil {
		t.Fatal(err)
	}
	hash, err := CAHash(ca.cert)
	if err != nil || tok.ID != rec.ID || tok.CAHash != hash {
		t.Errorf("parsed %+v, the record is %+v, the CA's hash %s (%v)", tok, rec, hash, err)
	}
	if strings.Contains(fmt.Sprint(rec), tok.Secret) {
		t.Error("the record holds the secret")
	}
	if !rec.Created.Equal(now) || !rec.Expires.Equal(now.Add(time.Hour)) {
		t.Errorf("the record is %+v", rec)
	}
	other, _, err := NewToken(ca.cert, time.Hour, now)
	if err != nil || other == text {
		t.Errorf("two tokens are the same (%v)", err)
	}

	used := rec
	used.UsedBy = "h2"
	for name, tc := range map[string]struct {
		rec    *cluster.Token
		secret string
		now    time.Time
		says   string // empty: accepted
	}{
		"good":         {&rec, tok.Secret, now, ""},
		"last moment":  {&rec, tok.Secret, now.Add(time.Hour - 1), ""},
		"expired":      {&rec, tok.Secret, now.Add(time.Hour), "expired at 2026-01-02 04:04:05 UTC"},
		"used":         {&used, tok.Secret, now, `used by host "h2"`},
		"unknown":      {nil, tok.Secret, now, "does not know"},
		"wrong secret": {&rec, tok.Secret[1:] + "a", now, "does not know"},
		"no secret":    {&rec, "", now, "does not know"},
		"used, wrong":  {&used, "guess", now, "does not know"},
	} {
		err := Check(tc.rec, tc.secret, tc.now)
		switch {
		case tc.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.says != "" && (!errors.Is(err, cluster.ErrToken) || !strings.Contains(err.Error(), tc.says)):
			t.Errorf("%s: got %v, want a sentence with %q", name, err, tc.says)
		}
	}
	if _, _, err := NewToken(ca.cert, 0, now); err == nil {
		t.Error("a token without life was made")
	}
	if _, _, err := NewToken([]byte("x"), time.Hour, now); err == nil {
		t.Error("a token without CA was made")
	}
}

func TestParseTokenRefuses(t *testing.T) {
	ca := newTestCA(t, "c1")
	text, _, err := NewToken(ca.cert, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "hello", text[1:], text[:len(text)-1], text + "0", "vz2" + text[3:], strings.ReplaceAll(text, ".", "-"),
		strings.Replace(text, ".", "..", 1), text[:len(text)-1] + "z",
	} {
		if _, err := ParseToken(bad); !errors.Is(err, cluster.ErrToken) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func TestIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "identity")
	if _, err := LoadIdentity(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a host without identity: %v", err)
	}
	ca := newTestCA(t, "c1")
	for _, name := range []string{"h1", "h1"} { // the second replaces the first
		id := ca.identity(t, name)
		if err := SaveIdentity(dir, id); err != nil {
			t.Fatal(err)
		}
		got, err := LoadIdentity(dir)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(*got) != fmt.Sprint(*id) {
			t.Errorf("it came back as %+v", got)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the directory holds %v (%v)", entries, err)
	}
	if info, err := entries[0].Info(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v (%v)", info.Mode(), err)
	}
}

func TestIdentityRefuses(t *testing.T) {
	ca := newTestCA(t, "c1")
	good, other, foreign := ca.identity(t, "h1"), ca.identity(t, "h2"), newTestCA(t, "c1").identity(t, "h1")
	for name, change := range map[string]func(*Identity){
		"another name":        func(id *Identity) { id.Name = "h2" },
		"another host's key":  func(id *Identity) { id.KeyPEM = other.KeyPEM },
		"another CA":          func(id *Identity) { id.CACertPEM = foreign.CACertPEM },
		"the CA's own":        func(id *Identity) { id.CertPEM = id.CACertPEM },
		"no key":              func(id *Identity) { id.KeyPEM = nil },
		"no CA":               func(id *Identity) { id.CACertPEM = nil },
		"nothing but a name":  func(id *Identity) { *id = Identity{Name: "h1"} },
		"another cluster's c": func(id *Identity) { id.CACertPEM = newTestCA(t, "c2").cert },
	} {
		id := *good
		change(&id)
		dir := t.TempDir()
		if err := SaveIdentity(dir, &id); err == nil {
			t.Errorf("%s was saved", name)
		}
		if _, err := LoadIdentity(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s left something behind: %v", name, err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, identityFile), good.CertPEM[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a broken file: %v", err)
	}
}
