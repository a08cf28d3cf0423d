package trust

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// tokenPrefix names the form of a token's text: vz1.<id>.<secret>.<sha256 of the CA's certificate>.
const tokenPrefix = "vz1"

// Lengths of the parts of a token, in characters.
const (
	tokenIDLen     = 8
	tokenSecretLen = 32
)

// Token is what the text of a join token says: enough for a host to know the cluster and for the cluster to know it.
type Token struct {
	ID     string
	Secret string
	CAHash string // sha256 of the CA's certificate (DER), hex
}

// NewToken makes a join token. The text is shown once and kept nowhere; the record goes into the replicated state.
func NewToken(caCertPEM []byte, ttl time.Duration, now time.Time) (text string, rec cluster.Token, err error) {
	if ttl <= 0 {
		return "", rec, cluster.Refuse(cluster.ErrInvalid, "a token cannot live for %s; choose a longer time", ttl)
	}
	hash, err := CAHash(caCertPEM)
	if err != nil {
		return "", rec, err
	}
	id, secret := randomText(tokenIDLen), randomText(tokenSecretLen)
	rec = cluster.Token{ID: id, Hash: hashSecret(secret), Created: now, Expires: now.Add(ttl)}
	return strings.Join([]string{tokenPrefix, id, secret, hash}, "."), rec, nil
}

// CAHash is what a joining host recognises the cluster by: the sha256 of the CA's certificate (DER), hex.
func CAHash(caCertPEM []byte) (string, error) {
	ca, err := parseCert(caCertPEM)
	if err != nil {
		return "", fmt.Errorf("read the CA's certificate: %w", err)
	}
	return hashCert(ca.Raw), nil
}

// ParseToken reads a token's text; a text that is none is cluster.ErrToken.
func ParseToken(text string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	bad := cluster.Refuse(cluster.ErrToken, "this is no join token; copy all of what 'vzcluster token create' printed")
	if len(parts) != 4 || parts[0] != tokenPrefix {
		return Token{}, bad
	}
	t := Token{ID: parts[1], Secret: parts[2], CAHash: strings.ToLower(parts[3])}
	if len(t.ID) != tokenIDLen || len(t.Secret) != tokenSecretLen {
		return Token{}, bad
	}
	if raw, err := hex.DecodeString(t.CAHash); err != nil || len(raw) != sha256.Size {
		return Token{}, bad
	}
	return t, nil
}

// Check says whether a secret matches a token's record and may be used now; rec is nil when the cluster does not know
// the id. Each reason has its own sentence, all are cluster.ErrToken. A wrong secret looks like an unknown token.
func Check(rec *cluster.Token, secret string, now time.Time) error {
	const again = "make another with 'vzcluster token create'"
	switch {
	case rec == nil || subtle.ConstantTimeCompare([]byte(rec.Hash), []byte(hashSecret(secret))) != 1:
		return cluster.Refuse(cluster.ErrToken, "the cluster does not know this token; %s", again)
	case rec.UsedBy != "":
		return cluster.Refuse(cluster.ErrToken, "the token was used by host %q already; %s", rec.UsedBy, again)
	case !now.Before(rec.Expires):
		return cluster.Refuse(cluster.ErrToken, "the token expired at %s; %s", rec.Expires.UTC().Format("2006-01-02 15:04:05 UTC"), again)
	}
	return nil
}

func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func hashCert(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// randomText returns n characters of five random bits each.
func randomText(n int) string {
	b := make([]byte, (n*5+7)/8)
	_, _ = rand.Read(b) // never fails
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))[:n]
}
