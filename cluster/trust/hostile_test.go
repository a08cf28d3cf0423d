package trust

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// forge makes a certificate that the cluster's CA really signed, with whatever is in the template.
func (ca testCA) forge(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	caCert, err := parseCert(ca.cert)
	if err != nil {
		t.Fatal(err)
	}
	caKey, err := parseKey(ca.key)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "h1"},
		URIs:      []*url.URL{{Scheme: scheme, Host: "c1", Path: "/host/h1"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, caCert, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, caCert.Raw}, PrivateKey: key}
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// A good signature is not enough: the certificate must be valid now, for this use, and name one host of this cluster.
func TestSignedButNotAHost(t *testing.T) {
	ca := newTestCA(t, "c1")
	id := ca.identity(t, "h2")
	uris := func(texts ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, s := range texts {
				c.URIs = append(c.URIs, mustURL(t, s))
			}
		}
	}
	for name, tc := range map[string]struct {
		change func(*x509.Certificate)
		good   bool
	}{
		"as issued":           {func(*x509.Certificate) {}, true},
		"no name":             {uris(), false},
		"another cluster":     {uris("vzcluster://c2/host/h1"), false},
		"another host":        {uris("vzcluster://c1/host/h3"), false},
		"two names":           {uris("vzcluster://c1/host/h1", "vzcluster://c1/host/h3"), false},
		"another scheme":      {uris("https://c1/host/h1"), false},
		"not a host":          {uris("vzcluster://c1/user/h1"), false},
		"an empty name":       {uris("vzcluster://c1/host/"), false},
		"the common name":     {func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"h1"} }, false},
		"expired":             {func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, false},
		"not yet":             {func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, false},
		"for something other": {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }, false},
	} {
		forged := ca.forge(t, tc.change)
		server := serverOf(t, id)
		server.Certificates = []tls.Certificate{forged}
		_, _, err := talk(t, server, clientOf(t, id, "h1", "api"))
		if (err == nil) != tc.good {
			t.Errorf("%s, as a server: %v", name, err)
		}
		if name == "another host" {
			continue // a client may be any member
		}
		client := clientOf(t, id, "", "api")
		client.Certificates = []tls.Certificate{forged}
		if _, _, err = talk(t, serverOf(t, id), client); (err == nil) != tc.good {
			t.Errorf("%s, as a client: %v", name, err)
		}
	}
}

// A host's certificate cannot sign another one.
func TestHostIsNoAuthority(t *testing.T) {
	ca := newTestCA(t, "c1")
	h1 := ca.identity(t, "h1")
	forged := testCA{h1.CertPEM, h1.KeyPEM}.forge(t, func(c *x509.Certificate) {
		c.URIs = []*url.URL{mustURL(t, "vzcluster://c1/host/h2")}
	})
	server := serverOf(t, h1)
	server.Certificates = []tls.Certificate{forged}
	if _, _, err := talk(t, server, clientOf(t, h1, "h2", "api")); err == nil {
		t.Error("a certificate signed by a host was believed")
	}
}

func TestSaveIntoWhatIsNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := SaveIdentity(file, newTestCA(t, "c1").identity(t, "h1")); err == nil {
		t.Error("an identity was saved into a file")
	}
}

// A failed save leaves the old identity and no litter.
func TestFailedSaveKeepsTheOld(t *testing.T) {
	dir := t.TempDir()
	ca := newTestCA(t, "c1")
	old := ca.identity(t, "h1")
	if err := SaveIdentity(dir, old); err != nil {
		t.Fatal(err)
	}
	bad := *ca.identity(t, "h1")
	bad.KeyPEM = old.KeyPEM
	if err := SaveIdentity(dir, &bad); err == nil {
		t.Fatal("an identity with the wrong key was saved")
	}
	got, err := LoadIdentity(dir)
	if err != nil || !bytes.Equal(got.CertPEM, old.CertPEM) {
		t.Errorf("the old identity is damaged: %v", err)
	}
	// The name is taken by a directory, so that the last step, the renaming, fails.
	taken := t.TempDir()
	if err := os.MkdirAll(filepath.Join(taken, identityFile, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := SaveIdentity(taken, old); err == nil {
		t.Fatal("a directory was replaced")
	}
	entries, err := os.ReadDir(taken)
	if err != nil || len(entries) != 1 {
		t.Errorf("litter was left: %v (%v)", entries, err)
	}
}

func FuzzParseToken(f *testing.F) {
	cert, _, err := NewCA("c1")
	if err != nil {
		f.Fatal(err)
	}
	text, _, err := NewToken(cert, time.Hour, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{text, "", "vz1...", strings.ToUpper(text), "vz1.a.b.c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			if tok != (Token{}) {
				t.Errorf("%q is no token and yet %+v", s, tok)
			}
			return
		}
		again, err := ParseToken(strings.Join([]string{tokenPrefix, tok.ID, tok.Secret, tok.CAHash}, "."))
		if err != nil || again != tok {
			t.Errorf("%q is %+v, written again %+v (%v)", s, tok, again, err)
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	cert, key, err := NewCA("c1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(append(bytes.Clone(cert), key...), cert...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: blockGossipKey, Bytes: []byte("k")}))
	f.Fuzz(func(t *testing.T, text []byte) {
		id, err := parseIdentity(text)
		if err == nil && id.Name == "" {
			t.Error("an identity without a name")
		}
	})
}
