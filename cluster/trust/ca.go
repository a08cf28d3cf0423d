// Package trust is the cluster's own public key infrastructure: its certificate authority, the certificates of hosts,
// join tokens, a host's identity on disk, and the TLS configurations that make use of them.
//
// It owns no connection and no decision about membership: that a certificate verifies says who the peer is, not that
// it is still a member. The one rule for callers: compare the serial that PeerOf returns with the replicated state.
package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// How long certificates live, and how far the clocks of hosts may lie apart.
const (
	caLife    = 20 * 365 * 24 * time.Hour
	hostLife  = 10 * 365 * 24 * time.Hour
	clockSkew = time.Hour
)

const scheme = "vzcluster" // of the URI names in certificates

// NewCA makes a cluster's certificate authority (ECDSA P-256) and returns certificate and key as PEM.
func NewCA(clusterID string) (certPEM, keyPEM []byte, err error) {
	if clusterID == "" || strings.Trim(clusterID, "0123456789abcdefghijklmnopqrstuvwxyz-") != "" {
		return nil, nil, cluster.Refuse(cluster.ErrInvalid, "%q is no cluster id; use lower-case letters, digits and '-'", clusterID)
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "vzcluster " + clusterID},
		URIs:                  []*url.URL{{Scheme: scheme, Host: clusterID}},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	return encode(blockCert, der), keyPEM, nil
}

// NewKeyAndCSR makes a host's key and the request for its certificate. The key never leaves the host.
func NewKeyAndCSR(name string) (keyPEM, csrPEM []byte, err error) {
	if err := cluster.CheckName("host", name); err != nil {
		return nil, nil, err
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}
	der, err := x509.CreateCertificateRequest(rand.Reader, request, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make the certificate request of host %q: %w", name, err)
	}
	return keyPEM, encode(blockCSR, der), nil
}

// Issue signs a host's request. Only the public key is taken from the request: names come from the caller, who has
// checked the token. Addrs are the host's addresses (IPs or DNS names, with or without a port). The serial is hex.
func Issue(caCertPEM, caKeyPEM, csrPEM []byte, name string, addrs []string) (certPEM []byte, serial string, err error) {
	if err := cluster.CheckName("host", name); err != nil {
		return nil, "", err
	}
	ca, err := parseCert(caCertPEM)
	if err != nil {
		return nil, "", fmt.Errorf("read the CA's certificate: %w", err)
	}
	caKey, err := parseKey(caKeyPEM)
	if err != nil {
		return nil, "", fmt.Errorf("read the CA's key: %w", err)
	}
	csr, err := parseCSR(csrPEM, name)
	if err != nil {
		return nil, "", err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: newSerial(),
		Subject:      pkix.Name{CommonName: name},
		URIs:         []*url.URL{{Scheme: scheme, Host: clusterOf(ca), Path: "/host/" + name}},
		DNSNames:     []string{name},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(hostLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	addNames(template, addrs)
	der, err := x509.CreateCertificate(rand.Reader, template, ca, csr.PublicKey, caKey)
	if err != nil {
		return nil, "", fmt.Errorf("issue the certificate of host %q: %w", name, err)
	}
	return encode(blockCert, der), serialText(template.SerialNumber), nil
}

// addNames adds a host's addresses to its certificate, for tools that verify by address.
func addNames(template *x509.Certificate, addrs []string) {
	for _, a := range addrs {
		if host, _, err := net.SplitHostPort(a); err == nil {
			a = host
		}
		if ip := net.ParseIP(a); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if a != "" && a != template.Subject.CommonName {
			template.DNSNames = append(template.DNSNames, a)
		}
	}
}

func parseCSR(csrPEM []byte, name string) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(csrPEM)
	if block == nil || block.Type != blockCSR {
		return nil, cluster.Refuse(cluster.ErrInvalid, "host %q sent no certificate request in PEM form", name)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, cluster.Refuse(cluster.ErrInvalid, "the certificate request of host %q is broken: %v", name, err)
	}
	if csr.Subject.CommonName != name {
		return nil, cluster.Refuse(cluster.ErrInvalid, "the certificate request is for %q, not for host %q", csr.Subject.CommonName, name)
	}
	if _, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok {
		return nil, cluster.Refuse(cluster.ErrInvalid, "the certificate request of host %q has a key that is not ECDSA", name)
	}
	return csr, nil
}

// clusterOf returns the cluster id that a CA's certificate names.
func clusterOf(ca *x509.Certificate) string {
	for _, u := range ca.URIs {
		if u.Scheme == scheme {
			return u.Host
		}
	}
	return ""
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode a key: %w", err)
	}
	return key, encode(blockKey, der), nil
}

func newSerial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] &= 0x7f        // positive
	b[15] |= 1          // and not zero
	return new(big.Int).SetBytes(b)
}

func serialText(n *big.Int) string { return fmt.Sprintf("%032x", n) }

// PEM block types.
const (
	blockCert = "CERTIFICATE"
	blockKey  = "PRIVATE KEY"
	blockCSR  = "CERTIFICATE REQUEST"
)

func encode(blockType string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
}

func parseCert(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != blockCert {
		return nil, errors.New("it is not a certificate in PEM form")
	}
	return x509.ParseCertificate(block.Bytes)
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != blockKey {
		return nil, errors.New("it is not a private key in PEM form")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("it is not an ECDSA key")
	}
	return ec, nil
}
