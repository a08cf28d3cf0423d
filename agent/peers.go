package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster/trust"
)

// dialTimeout is how long a host may take to accept a connection.
const dialTimeout = 2 * time.Second

// errDial marks a request that never left: it may be tried again, whatever it was.
var errDial = errors.New("cannot be reached")

// peers speaks to the other hosts. URLs name hosts (https://host2/v1/...); where a host is, the replica knows.
type peers struct {
	id      *trust.Identity
	address func(host string) string // host:port, empty when unknown
	http    *http.Transport
}

func newPeers(id *trust.Identity, address func(string) string) *peers {
	p := &peers{id: id, address: address}
	p.http = &http.Transport{
		MaxIdleConnsPerHost: 32, // a handshake costs more than what most requests ask for
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(addr)
			return p.dial(ctx, host, p.address(host), alpnHTTP)
		},
	}
	return p
}

// dial opens an mTLS connection, which breaks when its peer is lost; an empty name accepts any member.
func (p *peers) dial(ctx context.Context, name, address, alpn string) (net.Conn, error) {
	if address == "" {
		return nil, fmt.Errorf("host %q %w: its address is not known", name, errDial)
	}
	conf, err := trust.ClientTLS(p.id, name, alpn)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	d := tls.Dialer{Config: conf}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("host %q at %s %w: %w", name, address, errDial, err)
	}
	if err := noticeLoss(conn, silence); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// call sends JSON to a host and reads its answer into out (nil: thrown away). An error that the host answered is a
// *api.Error and the sentinel that it was over there; one that wraps errDial has never reached the host.
func (p *peers) call(ctx context.Context, method, host, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	res, err := p.do(ctx, method, host, path, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return fmt.Errorf("host %q sent an answer that cannot be read: %w", host, err)
	}
	return nil
}

// do sends a request to a host and returns its successful answer.
func (p *peers) do(ctx context.Context, method, host, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+host+path, body)
	if err != nil {
		return nil, err
	}
	return p.send(host, req)
}

// send sends a request that is made already.
func (p *peers) send(host string, req *http.Request) (*http.Response, error) {
	res, err := p.http.RoundTrip(req)
	if errors.Is(err, errDial) {
		return nil, err // it says which host
	}
	if err != nil {
		return nil, fmt.Errorf("host %q did not answer: %w", host, err)
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, readError(res)
}

// readError reads the error of an unsuccessful answer.
func readError(res *http.Response) error {
	var e api.Error
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&e); err != nil || e.Message == "" {
		return fromAPI(&api.Error{Code: api.CodeFailed, Message: "the agent answered " + res.Status})
	}
	return fromAPI(&e)
}
