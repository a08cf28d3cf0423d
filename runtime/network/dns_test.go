package network

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

func loopbackUp(t *testing.T) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// serveDNS runs a server until the test ends and returns its address once it answers.
func serveDNS(t *testing.T, addr string, d DNS) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	d.Addr = addr
	go func() { done <- ServeDNS(ctx, d) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	wait, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	if err := poll(wait, "the server does not answer", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	}); err != nil {
		t.Fatal(err)
	}
}

func ask(t *testing.T, network, addr, name string, kind uint16) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: 5 * time.Second}
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, kind), addr)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

func TestDNS(t *testing.T) {
	loopbackUp(t)
	web := netip.MustParseAddr("10.77.1.5")
	ours := DNS{
		Lookup: func(name string) []netip.Addr {
			if name == "web" {
				return []netip.Addr{web}
			}
			return nil
		},
		Reverse: func(a netip.Addr) string {
			if a == web || a == netip.MustParseAddr("fd00::5") {
				return "web"
			}
			return ""
		},
		Upstream: []string{"127.0.0.1:5302", "127.0.0.1:5301"}, // the first is down
	}
	// The upstream is another of our servers, with a domain of its own.
	serveDNS(t, "127.0.0.1:5301", DNS{Domain: "example.org", Lookup: func(name string) []netip.Addr {
		if name == "www" {
			return []netip.Addr{netip.MustParseAddr("192.0.2.80")}
		}
		return nil
	}})
	serveDNS(t, "127.0.0.1:5300", ours)
	for _, c := range []struct {
		name  string
		kind  uint16
		want  string
		rcode int
	}{
		{"web.", dns.TypeA, "10.77.1.5", dns.RcodeSuccess},
		{"WEB.vz.", dns.TypeA, "10.77.1.5", dns.RcodeSuccess},
		{"web.vz.", dns.TypeAAAA, "", dns.RcodeSuccess},
		{"nosuch.vz.", dns.TypeA, "", dns.RcodeNameError},
		{"5.1.77.10.in-addr.arpa.", dns.TypePTR, "web.vz.", dns.RcodeSuccess},
		{"5." + strings.Repeat("0.", 27) + "0.0.d.f.ip6.arpa.", dns.TypePTR, "web.vz.", dns.RcodeSuccess},
		{"www.example.org.", dns.TypeA, "192.0.2.80", dns.RcodeSuccess},
		{"nosuch.example.org.", dns.TypeA, "", dns.RcodeNameError},
		{"elsewhere.net.", dns.TypeA, "", dns.RcodeServerFailure},
	} {
		for _, network := range []string{"udp", "tcp"} {
			m := ask(t, network, "127.0.0.1:5300", c.name, c.kind)
			got := ""
			for _, rr := range m.Answer {
				switch rr := rr.(type) {
				case *dns.A:
					got = rr.A.String()
				case *dns.PTR:
					got = rr.Ptr
				}
			}
			if got != c.want || m.Rcode != c.rcode {
				t.Errorf("%s %s over %s = %q, %s, want %q, %s", c.name, dns.TypeToString[c.kind], network,
					got, dns.RcodeToString[m.Rcode], c.want, dns.RcodeToString[c.rcode])
			}
		}
	}
}

func TestDNSAddressInUse(t *testing.T) {
	loopbackUp(t)
	serveDNS(t, "127.0.0.1:5305", DNS{})
	if err := ServeDNS(t.Context(), DNS{Addr: "127.0.0.1:5305"}); err == nil {
		t.Fatal("two servers share an address")
	}
}
