package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Firewall says what begins an exchange with a container: answers go the other way by themselves. The first rule that
// matches decides.
type Firewall struct {
	In    string         `json:"in,omitempty"`  // what no rule is about and comes to it: allow (also empty) or deny
	Out   string         `json:"out,omitempty"` // and what it sends
	Rules []FirewallRule `json:"rules,omitempty"`
}

// FirewallRule is one rule.
type FirewallRule struct {
	Action string `json:"action"`          // allow or deny
	Out    bool   `json:"out,omitempty"`   // what the container begins; else what others begin
	Proto  string `json:"proto,omitempty"` // tcp, udp or icmp; empty: all
	First  uint16 `json:"first,omitempty"` // ports of the side that is called, tcp and udp only; 0: all
	Last   uint16 `json:"last,omitempty"`  // the same as First for one port
	Peer   string `json:"peer,omitempty"`  // CIDR of the other side; empty: anybody
}

// What a rule does.
const (
	Allow = "allow"
	Deny  = "deny"
)

const maxFirewallRules = 200

// Empty says that everything is let through.
func (f *Firewall) Empty() bool {
	return f == nil || f.In != Deny && f.Out != Deny && len(f.Rules) == 0
}

// Check says whether the firewall makes sense; what it returns is ErrInvalid.
func (f *Firewall) Check() error {
	if f == nil {
		return nil
	}
	for _, policy := range []string{f.In, f.Out} {
		if policy != "" && policy != Allow && policy != Deny {
			return Refuse(ErrInvalid, "%q is no policy of a firewall; use allow or deny", policy)
		}
	}
	if len(f.Rules) > maxFirewallRules {
		return Refuse(ErrInvalid, "a firewall can have %d rules at most", maxFirewallRules)
	}
	for i, r := range f.Rules {
		if err := r.check(); err != nil {
			return Refuse(ErrInvalid, "rule %d of the firewall: %v", i+1, err)
		}
	}
	return nil
}

func (r FirewallRule) check() error {
	if r.Action != Allow && r.Action != Deny {
		return fmt.Errorf("%q is neither allow nor deny", r.Action)
	}
	if !slices.Contains([]string{"", "tcp", "udp", "icmp"}, r.Proto) {
		return fmt.Errorf("%q is none of tcp, udp and icmp", r.Proto)
	}
	if r.First != 0 || r.Last != 0 {
		switch {
		case r.Proto != "tcp" && r.Proto != "udp":
			return fmt.Errorf("only tcp and udp have ports")
		case r.First == 0 || r.Last < r.First:
			return fmt.Errorf("%d-%d is no range of ports", r.First, r.Last)
		}
	}
	if r.Peer != "" {
		if _, err := netip.ParsePrefix(r.Peer); err != nil {
			return fmt.Errorf("%q is no network in CIDR notation, such as 10.77.0.0/16", r.Peer)
		}
	}
	return nil
}

// ParseFirewallRule reads what a rule is about: tcp/80, udp/5000-5010, tcp, icmp or all.
func ParseFirewallRule(what string) (r FirewallRule, err error) {
	proto, ports, some := strings.Cut(what, "/")
	r.Proto = strings.ToLower(proto)
	if r.Proto == "all" {
		r.Proto = ""
	}
	if some {
		first, last, span := strings.Cut(ports, "-")
		if !span {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if errA != nil || errB != nil || a == 0 {
			return r, Refuse(ErrInvalid, "%q is no port; write for example tcp/80 or udp/5000-5010", ports)
		}
		r.First, r.Last = uint16(a), uint16(b)
	}
	probe := r
	probe.Action = Allow
	if err := probe.check(); err != nil {
		return r, Refuse(ErrInvalid, "%v; write for example tcp/80, udp/5000-5010, icmp or all", err)
	}
	return r, nil
}

// What is what ParseFirewallRule reads.
func (r FirewallRule) What() string {
	what := r.Proto
	if what == "" {
		what = "all"
	}
	switch {
	case r.First == 0:
		return what
	case r.First == r.Last:
		return fmt.Sprintf("%s/%d", what, r.First)
	}
	return fmt.Sprintf("%s/%d-%d", what, r.First, r.Last)
}

func (f *Firewall) equal(o *Firewall) bool {
	if f.Empty() || o.Empty() {
		return f.Empty() && o.Empty()
	}
	return f.In == o.In && f.Out == o.Out && slices.Equal(f.Rules, o.Rules)
}
