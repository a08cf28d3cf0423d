package trust

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Identity is what makes a host a member: who it is, and whom it trusts.
type Identity struct {
	Name      string // as in its certificate
	CertPEM   []byte
	KeyPEM    []byte
	CACertPEM []byte
	GossipKey []byte // of 16, 24 or 32 bytes
}

const (
	identityFile   = "identity.pem"
	blockGossipKey = "VZCLUSTER GOSSIP KEY"
)

// SaveIdentity writes the identity into dir (made when it is missing) as one PEM file that only its owner can read.
// The file is there as a whole or not at all, also after a crash.
func SaveIdentity(dir string, id *Identity) error {
	if err := id.check(); err != nil {
		return fmt.Errorf("save the host's identity: %w", err)
	}
	var text bytes.Buffer
	for _, part := range [][]byte{id.CertPEM, id.KeyPEM, id.CACertPEM, encode(blockGossipKey, id.GossipKey)} {
		text.Write(bytes.TrimSpace(part))
		text.WriteByte('\n')
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save the host's identity: %w", err)
	}
	if err := writeFile(filepath.Join(dir, identityFile), text.Bytes()); err != nil {
		return fmt.Errorf("save the host's identity: %w", err)
	}
	return nil
}

// writeFile replaces a file atomically and durably; its mode is 0600.
func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600 by itself
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// LoadIdentity reads what SaveIdentity wrote; errors.Is(err, fs.ErrNotExist) when the host has no identity yet.
func LoadIdentity(dir string) (*Identity, error) {
	text, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		return nil, fmt.Errorf("load the host's identity: %w", err)
	}
	id, err := parseIdentity(text)
	if err != nil {
		return nil, fmt.Errorf("load the host's identity from %s: %w", filepath.Join(dir, identityFile), err)
	}
	return id, nil
}

func parseIdentity(text []byte) (*Identity, error) {
	id := &Identity{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == blockCert && id.CertPEM == nil:
			id.CertPEM = encode(block.Type, block.Bytes)
		case block.Type == blockCert:
			id.CACertPEM = encode(block.Type, block.Bytes)
		case block.Type == blockKey:
			id.KeyPEM = encode(block.Type, block.Bytes)
		case block.Type == blockGossipKey:
			id.GossipKey = block.Bytes
		}
	}
	cert, err := parseCert(id.CertPEM)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	_, id.Name, _ = hostOf(cert)
	return id, id.check()
}

// check says whether the parts are there and belong together.
func (id *Identity) check() error {
	k, err := id.keys()
	if err != nil {
		return err
	}
	clusterID, name, ok := hostOf(k.cert)
	switch {
	case !ok:
		return errors.New("its certificate is not that of a host")
	case name != id.Name:
		return fmt.Errorf("its certificate is for host %q, not for %q", name, id.Name)
	case clusterID != clusterOf(k.ca):
		return fmt.Errorf("its certificate is for cluster %q, its CA for %q", clusterID, clusterOf(k.ca))
	case !k.key.PublicKey.Equal(k.cert.PublicKey):
		return errors.New("its key does not belong to its certificate")
	}
	return k.cert.CheckSignatureFrom(k.ca)
}
