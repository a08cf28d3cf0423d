package cluster

import (
	"errors"
	"testing"
)

func TestFirewallInState(t *testing.T) {
	s, c := dual(t)
	web := Firewall{In: Deny, Rules: []FirewallRule{{Action: Allow, Proto: "tcp", First: 80, Last: 80}, {Action: Deny, Out: true, Peer: "10.0.0.0/8"}}}
	s = must(t, s, SetContainer{ID: c.ID, Firewall: &web})
	if got := s.Container(c.ID).Firewall; !got.equal(&web) {
		t.Fatalf("the firewall is %+v", got)
	}
	if next, _, err := s.Apply(SetContainer{ID: c.ID, Firewall: &web}); err != nil || next != s {
		t.Errorf("the same firewall again: %v", err)
	}
	for _, bad := range []Firewall{
		{In: "maybe"},
		{Rules: []FirewallRule{{Action: "let"}}},
		{Rules: []FirewallRule{{Action: Allow, Proto: "gre"}}},
		{Rules: []FirewallRule{{Action: Allow, First: 80, Last: 80}}},
		{Rules: []FirewallRule{{Action: Allow, Proto: "tcp", First: 81, Last: 80}}},
		{Rules: []FirewallRule{{Action: Allow, Peer: "10.0.0.1"}}},
		{Rules: make([]FirewallRule, maxFirewallRules+1)},
	} {
		if next, _, err := s.Apply(SetContainer{ID: c.ID, Firewall: &bad}); !errors.Is(err, ErrInvalid) || next != s {
			t.Errorf("%+v: %v, want it refused and nothing changed", bad, err)
		}
	}
	s = must(t, s, SetContainer{ID: c.ID, Firewall: &Firewall{In: Allow}})
	if got := s.Container(c.ID).Firewall; got != nil {
		t.Errorf("a firewall that lets everything through is kept: %+v", got)
	}
}

func TestParseFirewallRule(t *testing.T) {
	for _, what := range []string{"tcp/80", "udp/5000-5010", "tcp", "icmp", "all"} {
		r, err := ParseFirewallRule(what)
		if err != nil || r.What() != what {
			t.Errorf("%s is read as %q, %v", what, r.What(), err)
		}
	}
	for _, what := range []string{"", "tcp/", "tcp/0", "tcp/70000", "tcp/9-8", "icmp/8", "all/80", "sctp/1", "80"} {
		if r, err := ParseFirewallRule(what); err == nil && what != "" {
			t.Errorf("%q was read as %+v", what, r)
		}
	}
}
