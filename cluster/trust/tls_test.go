package trust

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// talk lets a client and a server shake hands and exchange a byte each over loopback, and returns what each of them
// saw of the other.
func talk(t *testing.T, server, client *tls.Config) (atServer, atClient tls.ConnectionState, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	type end struct {
		state tls.ConnectionState
		err   error
	}
	ends := make(chan end, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			ends <- end{err: err}
			return
		}
		state, err := exchange(tls.Server(c, server))
		ends <- end{state, err}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	atClient, clientErr := exchange(tls.Client(c, client))
	e := <-ends
	return e.state, atClient, errors.Join(clientErr, e.err)
}

func exchange(c *tls.Conn) (tls.ConnectionState, error) {
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if err := c.Handshake(); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return tls.ConnectionState{}, err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return c.ConnectionState(), err
}

func serverOf(t *testing.T, id *Identity) *tls.Config {
	t.Helper()
	c, err := ServerTLS(id, "api", "raft")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func clientOf(t *testing.T, id *Identity, name, alpn string) *tls.Config {
	t.Helper()
	c, err := ClientTLS(id, name, alpn)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMutualTLS(t *testing.T) {
	ca := newTestCA(t, "c1")
	h1, h2 := ca.identity(t, "h1"), ca.identity(t, "h2")
	for _, name := range []string{"h1", ""} {
		atServer, atClient, err := talk(t, serverOf(t, h1), clientOf(t, h2, name, "raft"))
		if err != nil {
			t.Fatalf("expecting %q: %v", name, err)
		}
		peer, serial, ok := PeerOf(atServer)
		if want, _ := Serial(h2.CertPEM); !ok || peer != "h2" || serial != want {
			t.Errorf("the server saw %q %q %v", peer, serial, ok)
		}
		peer, serial, ok = PeerOf(atClient)
		if want, _ := Serial(h1.CertPEM); !ok || peer != "h1" || serial != want {
			t.Errorf("the client saw %q %q %v", peer, serial, ok)
		}
		if atServer.NegotiatedProtocol != "raft" || atServer.Version != tls.VersionTLS13 {
			t.Errorf("they spoke %q over %x", atServer.NegotiatedProtocol, atServer.Version)
		}
	}
}

func TestTLSRefuses(t *testing.T) {
	ca := newTestCA(t, "c1")
	h1, h2 := ca.identity(t, "h1"), ca.identity(t, "h2")
	foreign := newTestCA(t, "c1").identity(t, "h2") // the same names, another authority
	plain := func(c *tls.Config) *tls.Config { c.NextProtos = nil; return c }
	old := clientOf(t, h2, "h1", "raft")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	caAsHost := clientOf(t, h2, "h1", "raft")
	caKey, err := parseKey(ca.key)
	if err != nil {
		t.Fatal(err)
	}
	caCert, err := parseCert(ca.cert)
	if err != nil {
		t.Fatal(err)
	}
	caAsHost.Certificates = []tls.Certificate{{Certificate: [][]byte{caCert.Raw}, PrivateKey: caKey}}
	for name, tc := range map[string]struct {
		server, client *tls.Config
		says           string
	}{
		"another host answers":           {serverOf(t, h2), clientOf(t, h2, "h1", "raft"), `host "h2" answered where host "h1"`},
		"server of another CA":           {serverOf(t, foreign), clientOf(t, h1, "h2", "raft"), "no member"},
		"server of another CA, any name": {serverOf(t, foreign), clientOf(t, h1, "", "raft"), "no member"},
		"client of another CA":           {serverOf(t, h1), insecure(clientOf(t, foreign, "h1", "raft")), ""},
		"client with the CA's own":       {serverOf(t, h1), caAsHost, ""},
		"protocol not served":            {serverOf(t, h1), clientOf(t, h2, "h1", "ssh"), ""},
		"server without protocols":       {plain(serverOf(t, h1)), clientOf(t, h2, "h1", "raft"), `does not speak "raft"`},
		"TLS 1.2":                        {serverOf(t, h1), old, ""},
	} {
		_, _, err := talk(t, tc.server, tc.client)
		if err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want an error with %q", name, err, tc.says)
		}
	}
}

// insecure makes a client that believes every server, so that only the server can refuse.
func insecure(c *tls.Config) *tls.Config {
	c.VerifyConnection = nil
	return c
}

func TestJoiningHost(t *testing.T) {
	ca := newTestCA(t, "c1")
	h1 := ca.identity(t, "h1")
	hash, err := CAHash(ca.cert)
	if err != nil {
		t.Fatal(err)
	}
	atServer, atClient, err := talk(t, serverOf(t, h1), PinnedTLS(strings.ToUpper(hash), "api"))
	if err != nil {
		t.Fatal(err)
	}
	if name, _, ok := PeerOf(atServer); ok {
		t.Errorf("the server takes a host without certificate for %q", name)
	}
	if name, _, ok := PeerOf(atClient); !ok || name != "h1" {
		t.Errorf("the joining host saw %q %v", name, ok)
	}

	foreign := newTestCA(t, "c1")
	otherHash, err := CAHash(foreign.cert)
	if err != nil {
		t.Fatal(err)
	}
	// An impostor shows the right CA, which is public, behind a certificate that the CA did not issue.
	impostor := serverOf(t, foreign.identity(t, "h1"))
	right, err := parseCert(ca.cert)
	if err != nil {
		t.Fatal(err)
	}
	impostor.Certificates[0].Certificate[1] = right.Raw
	for name, tc := range map[string]struct {
		server *tls.Config
		hash   string
	}{
		"another cluster": {serverOf(t, h1), otherHash},
		"no hash":         {serverOf(t, h1), ""},
		"an impostor":     {impostor, hash},
	} {
		if _, _, err := talk(t, tc.server, PinnedTLS(tc.hash, "api")); err == nil {
			t.Errorf("%s was believed", name)
		}
	}
}

func TestConfigsNeedAnIdentity(t *testing.T) {
	for i, id := range []*Identity{{}, {CertPEM: []byte("x")}} {
		if _, err := ServerTLS(id); err == nil {
			t.Errorf("%d: a server without identity", i)
		}
		if _, err := ClientTLS(id, "", ""); err == nil {
			t.Errorf("%d: a client without identity", i)
		}
	}
	if name, serial, ok := PeerOf(tls.ConnectionState{}); ok {
		t.Error("nobody is taken for somebody: " + fmt.Sprint(name, serial))
	}
}
