package network

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// DNS answers for container names, plain or below the domain, and passes everything else on.
type DNS struct {
	Addr     string                         // host:port to listen on, UDP and TCP
	Domain   string                         // empty: "vz"
	Lookup   func(name string) []netip.Addr // addresses of a container; none: there is no such name
	Reverse  func(a netip.Addr) string      // name of the container with an address, "" for none; nil: not known here
	Upstream []string                       // servers for all other names, host or host:port, asked in this order
}

// ttl is how long an answer may be kept, in seconds; short, as names come and go.
const ttl = 5

// ServeDNS answers until the context ends; then it returns nil.
func ServeDNS(ctx context.Context, d DNS) error {
	if d.Domain == "" {
		d.Domain = "vz"
	}
	udp, err := net.ListenPacket("udp", d.Addr)
	if err != nil {
		return fmt.Errorf("cannot serve DNS: %w", err)
	}
	tcp, err := net.Listen("tcp", udp.LocalAddr().String())
	if err != nil {
		udp.Close()
		return fmt.Errorf("cannot serve DNS: %w", err)
	}
	var g errgroup.Group
	servers := []*dns.Server{{PacketConn: udp, Handler: dns.HandlerFunc(d.answer)}, {Listener: tcp, Handler: dns.HandlerFunc(d.answer)}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, s := range servers {
		g.Go(func() error {
			defer cancel() // one alone is half a service
			return s.ActivateAndServe()
		})
	}
	<-ctx.Done()
	udp.Close() // Shutdown does not know a server that has not quite started; a closed socket ends it in any case
	tcp.Close()
	for _, s := range servers {
		_ = s.Shutdown()
	}
	if err := g.Wait(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serving DNS failed: %w", err)
	}
	return nil
}

func (d DNS) answer(w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeFormatError))
		return
	}
	if m, ours := d.local(q); ours {
		_ = w.WriteMsg(m)
		return
	}
	_, stream := w.RemoteAddr().(*net.TCPAddr)
	_ = w.WriteMsg(d.forward(q, stream))
}

// local answers what is ours to answer.
func (d DNS) local(q *dns.Msg) (*dns.Msg, bool) {
	m := new(dns.Msg).SetReply(q)
	m.Authoritative, m.RecursionAvailable = true, true
	question := q.Question[0]
	head := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: ttl}
	if question.Qtype == dns.TypePTR {
		a, ok := reverseAddr(question.Name)
		if !ok || d.Reverse == nil {
			return nil, false
		}
		name := d.Reverse(a)
		if name == "" {
			return nil, false
		}
		m.Answer = append(m.Answer, &dns.PTR{Hdr: head, Ptr: dns.Fqdn(name + "." + d.Domain)})
		return m, true
	}
	name := strings.TrimSuffix(strings.ToLower(question.Name), ".")
	short, inDomain := strings.CutSuffix(name, "."+d.Domain)
	if !inDomain && strings.Contains(name, ".") || name == "" {
		return nil, false
	}
	addrs := d.Lookup(short)
	if len(addrs) == 0 {
		m.Rcode = dns.RcodeNameError
		return m, true
	}
	for _, a := range addrs {
		switch {
		case a.Is4() && question.Qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: head, A: a.AsSlice()})
		case a.Is6() && question.Qtype == dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: head, AAAA: a.AsSlice()})
		}
	}
	return m, true
}

// forward asks the upstream servers in turn; the first that answers is taken at its word.
func (d DNS) forward(q *dns.Msg, stream bool) *dns.Msg {
	c := &dns.Client{Timeout: 2 * time.Second}
	if stream {
		c.Net = "tcp"
	}
	for _, server := range d.Upstream {
		if _, _, err := net.SplitHostPort(server); err != nil {
			server = net.JoinHostPort(server, "53")
		}
		if m, _, err := c.Exchange(q, server); err == nil {
			m.Id = q.Id
			return m
		}
	}
	return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
}

// reverseAddr reads the address out of a name below in-addr.arpa or ip6.arpa.
func reverseAddr(name string) (netip.Addr, bool) {
	name = strings.ToLower(name)
	if s, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(s, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil
	}
	s, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	digits := strings.Split(s, ".")
	slices.Reverse(digits)
	raw, err := hex.DecodeString(strings.Join(digits, ""))
	if err != nil || len(raw) != 16 || len(digits) != 32 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(raw)), true
}
