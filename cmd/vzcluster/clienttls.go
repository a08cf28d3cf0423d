package main

import (
	"cmp"
	"crypto/tls"
	"errors"
	"io/fs"
	"strings"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster/trust"
)

const defaultIdentity = "/var/lib/vzcluster/identity"

// tlsFor returns the TLS configuration for an endpoint; a socket needs none.
func (e *env) tlsFor(endpoint string) (*tls.Config, error) {
	if !strings.HasPrefix(endpoint, "https://") {
		return nil, nil
	}
	return clientTLS(cmp.Or(e.getenv("VZCLUSTER_IDENTITY"), defaultIdentity), endpoint)
}

// checkToken says what is wrong with the text of a join token; the cluster knows whether it is valid.
func checkToken(text string) error {
	if _, err := trust.ParseToken(text); err != nil {
		return errors.New("it is no join token; copy all of what `vzcluster token create` printed")
	}
	return nil
}

// clientTLS proves that the caller is a member of the cluster, with the identity in dir; any member may answer.
func clientTLS(dir, endpoint string) (*tls.Config, error) {
	const hint = "run this on a member as root, set VZCLUSTER_IDENTITY, or use the agent's socket"
	id, err := trust.LoadIdentity(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, api.Errorf(api.CodeDenied, hint, "there is no identity in %s to show to %s", dir, endpoint)
	case errors.Is(err, fs.ErrPermission):
		return nil, api.Errorf(api.CodeDenied, hint, "the identity in %s may not be read", dir)
	case err != nil:
		return nil, api.Errorf(api.CodeFailed, hint, "%v", err)
	}
	conf, err := trust.ClientTLS(id, "", "http/1.1")
	if err != nil {
		return nil, api.Errorf(api.CodeFailed, hint, "%v", err)
	}
	return conf, nil
}
