package trust

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// ServerTLS is what a host listens with: TLS 1.3, its own certificate and the CA's behind it. A client may come
// without a certificate (a joining host does), but one that it shows must be a member's. Ask PeerOf who it is.
func ServerTLS(id *Identity, alpn ...string) (*tls.Config, error) {
	k, err := id.keys()
	if err != nil {
		return nil, fmt.Errorf("use the host's identity: %w", err)
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{k.chain()},
		ClientAuth:             tls.VerifyClientCertIfGiven,
		ClientCAs:              k.pool(),
		NextProtos:             alpn,
		SessionTicketsDisabled: true, // every connection proves itself anew
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			return checkHost(cs.PeerCertificates[0], k.ca, "")
		},
	}, nil
}

// ClientTLS is what a host calls another one with. The peer's certificate must come from the same CA and its URI name
// must be that of serverName; empty means any member. The address does not matter: hosts may change theirs.
func ClientTLS(id *Identity, serverName, alpn string) (*tls.Config, error) {
	k, err := id.keys()
	if err != nil {
		return nil, fmt.Errorf("use the host's identity: %w", err)
	}
	c := clientConfig(alpn, func(certs []*x509.Certificate) error { return verify(certs, k.ca, serverName) })
	c.Certificates = []tls.Certificate{k.chain()}
	return c, nil
}

// PinnedTLS is what a joining host, which has no identity yet, calls a member with: the peer must show the CA whose
// hash the token carries, and a host's certificate of it.
func PinnedTLS(caHash, alpn string) *tls.Config {
	return clientConfig(alpn, func(certs []*x509.Certificate) error {
		for _, c := range certs {
			if strings.EqualFold(hashCert(c.Raw), caHash) {
				return verify(certs, c, "")
			}
		}
		return errors.New("the host that answered does not belong to the cluster that made the token; check address and token")
	})
}

// clientConfig verifies by the given function only: Go's own verification would look for the address in the
// certificate, whereas a host is known by its URI name.
func clientConfig(alpn string, verify func([]*x509.Certificate) error) *tls.Config {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != alpn {
				return fmt.Errorf("the host that answered does not speak %q", alpn)
			}
			return verify(cs.PeerCertificates)
		},
	}
	if alpn != "" {
		c.NextProtos = []string{alpn}
	}
	return c
}

// verify checks chain and name of a server.
func verify(certs []*x509.Certificate, ca *x509.Certificate, name string) error {
	if len(certs) == 0 {
		return errors.New("the host that answered shows no certificate")
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		return fmt.Errorf("the host that answered is no member of this cluster: %w", err)
	}
	return checkHost(certs[0], ca, name)
}

// checkHost checks that a verified certificate is that of a host, and of the named one unless the name is empty.
func checkHost(cert, ca *x509.Certificate, name string) error {
	clusterID, got, ok := hostOf(cert)
	switch {
	case !ok || clusterID != clusterOf(ca):
		return errors.New("the peer's certificate is not that of a host of this cluster")
	case name != "" && got != name:
		return fmt.Errorf("host %q answered where host %q was expected; check the addresses of both", got, name)
	}
	return nil
}

// PeerOf returns who is at the other end of a connection made with this package's configurations, and the serial of
// its certificate; ok is false for a client without a certificate.
func PeerOf(cs tls.ConnectionState) (name, serial string, ok bool) {
	if !cs.HandshakeComplete || len(cs.PeerCertificates) == 0 {
		return "", "", false
	}
	_, name, ok = hostOf(cs.PeerCertificates[0])
	if !ok {
		return "", "", false
	}
	return name, serialText(cs.PeerCertificates[0].SerialNumber), true
}

// Serial returns the serial of a certificate in PEM form, as PeerOf does for a peer's.
func Serial(certPEM []byte) (string, error) {
	cert, err := parseCert(certPEM)
	if err != nil {
		return "", fmt.Errorf("read a certificate: %w", err)
	}
	return serialText(cert.SerialNumber), nil
}

// hostOf reads the URI name vzcluster://<cluster>/host/<name> of a certificate; it must be the only one.
func hostOf(cert *x509.Certificate) (clusterID, name string, ok bool) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != scheme {
		return "", "", false
	}
	name, ok = strings.CutPrefix(cert.URIs[0].Path, "/host/")
	return cert.URIs[0].Host, name, ok && name != ""
}

// keyring is an identity's parsed form.
type keyring struct {
	cert, ca *x509.Certificate
	key      *ecdsa.PrivateKey
}

func (id *Identity) keys() (k keyring, err error) {
	if k.cert, err = parseCert(id.CertPEM); err != nil {
		return k, fmt.Errorf("read the certificate: %w", err)
	}
	if k.key, err = parseKey(id.KeyPEM); err != nil {
		return k, fmt.Errorf("read the key: %w", err)
	}
	if k.ca, err = parseCert(id.CACertPEM); err != nil {
		return k, fmt.Errorf("read the CA's certificate: %w", err)
	}
	return k, nil
}

// chain is the host's certificate with the CA's behind it, so that a joining host can recognise the CA.
func (k keyring) chain() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{k.cert.Raw, k.ca.Raw}, PrivateKey: k.key, Leaf: k.cert}
}

func (k keyring) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(k.ca)
	return p
}
