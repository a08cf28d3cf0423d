package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// Headers between agents and to the user.
const (
	headerHops  = "X-Vz-Hops"  // how often the request was passed on
	headerAsked = "X-Vz-Asked" // the host that the user asked
	headerStale = "X-Stale"    // 1: answered from a replica that follows no leader
)

// maxHops bounds how often a request is passed on while the leader changes.
const maxHops = 3

// leaderCheck is how often a request that waits for the leader's answer looks whether it is still the leader.
const leaderCheck = 500 * time.Millisecond

// onLeader makes a handler that runs on the leader, wherever it was asked. Without a leader reads are answered from
// the replica, writes with CodeNoQuorum.
func (a *Agent) onLeader(h handler) http.HandlerFunc {
	return a.joined(func(m *member, w http.ResponseWriter, r *http.Request) {
		read := r.Method == http.MethodGet
		if read && r.URL.Query().Get("stale") == "1" {
			m.answerStale(h, w, r)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), m.timing.Quorum)
		if read {
			ctx, cancel = context.WithTimeout(r.Context(), m.timing.Stale)
		}
		defer cancel()
		for {
			leader, mine := m.leader()
			if mine {
				h(m, w, r)
				return
			}
			if leader != "" && leader != m.name && m.passOn(leader, w, r) {
				return
			}
			if m.pause(ctx) != nil {
				break
			}
		}
		if read {
			m.answerStale(h, w, r)
			return
		}
		respond(w, nil, errNoQuorum())
	})
}

func (m *member) answerStale(h handler, w http.ResponseWriter, r *http.Request) {
	w.Header().Set(headerStale, "1")
	h(m, w, r)
}

// pause waits for news about the leader.
func (m *member) pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-m.store.Changed():
	case <-time.After(50 * time.Millisecond):
	}
	return nil
}

// passOn sends a request to another host and copies its answer. It reports false, and nothing is answered yet, when
// the request may be tried again: it never left, or it reads.
func (m *member) passOn(host string, w http.ResponseWriter, r *http.Request) (answered bool) {
	hops, _ := strconv.Atoi(r.Header.Get(headerHops))
	if hops >= maxHops {
		respond(w, nil, errNoQuorum())
		return true
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	got := make(chan struct{}) // closed when the answer begins or the attempt ends
	go m.watchLeader(ctx, host, got, cancel)
	answered = true
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "https", host, host
			p.Out.Header.Set(headerHops, strconv.Itoa(hops+1))
			if p.Out.Header.Get(headerAsked) == "" {
				p.Out.Header.Set(headerAsked, m.name)
			}
		},
		Transport:     m.peers.http,
		FlushInterval: -1,
		ErrorLog:      m.quiet,
		ModifyResponse: func(*http.Response) error {
			close(got)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			select {
			case <-got: // an upgrade that failed half-way
			default:
				close(got)
			}
			if errors.Is(err, errDial) || r.Method == http.MethodGet {
				answered = false
				return
			}
			respond(w, nil, api.Errorf(api.CodeNoQuorum, "look with 'vzcluster status' whether it took effect before you try again",
				"the leader %s was lost while it worked on the request", host))
		},
	}
	out := r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		out.Body = io.NopCloser(r.Body) // a failed attempt must not close what the next one reads
	}
	proxy.ServeHTTP(w, out)
	return answered
}

// watchLeader ends an attempt when the host is the leader no more and has not begun to answer.
func (m *member) watchLeader(ctx context.Context, host string, got <-chan struct{}, cancel func()) {
	tick := time.NewTicker(leaderCheck)
	defer tick.Stop()
	for {
		select {
		case <-got:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			if leader, _ := m.leader(); leader != host {
				cancel()
				return
			}
		}
	}
}

// passToOwner sends a request to the host of a container; what names one of the hosts-only routes.
func (m *member) passToOwner(c *cluster.Container, what string, w http.ResponseWriter, r *http.Request) {
	if c.Waits() {
		respond(w, nil, errWaits(c))
		return
	}
	host := c.Host
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "https", host, host
			p.Out.URL.Path, p.Out.URL.RawPath = fmt.Sprintf("/v1/local/containers/%d/%s", c.ID, what), ""
		},
		Transport:     m.peers.http,
		FlushInterval: -1,
		ErrorLog:      m.quiet,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			m.log.Warn("a container's host does not answer", "host", host, "error", err)
			respond(w, nil, api.Errorf(api.CodeFailed, "see 'vzcluster host ls'", "%s, the host of %s, does not answer", host, c.Ref()))
		},
	}
	proxy.ServeHTTP(w, r)
}
