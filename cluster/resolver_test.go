package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestResolver(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	s, ct := apply[*Container](t, s, create(101, "h1"))
	if raw, err := json.Marshal(ct); err != nil || strings.Contains(string(raw), "name_servers") || strings.Contains(string(raw), "search") {
		t.Errorf("a container without its own resolver is kept as %s: %v", raw, err)
	}
	like := create(102, "h1")
	like.Container.NameServers, like.Container.SearchDomains = []string{"10.0.0.1", "fd00::1"}, []string{DefaultDNS}
	s, ct = apply[*Container](t, s, like)
	if got := fmt.Sprint(ct.NameServers, ct.SearchDomains); got != "[10.0.0.1 fd00::1] []" {
		t.Errorf("created with %s", got)
	}
	for _, step := range []struct {
		servers, domains []string
		want             string
	}{
		{[]string{"10.0.0.2"}, nil, "[10.0.0.2] []"},
		{nil, []string{"example.org", "_tcp.Example.org."}, "[10.0.0.2] [example.org _tcp.Example.org.]"},
		{[]string{DefaultDNS}, nil, "[] [example.org _tcp.Example.org.]"},
		{nil, []string{"."}, "[] [.]"},
		{[]string{"127.0.0.1"}, []string{DefaultDNS}, "[127.0.0.1] []"},
	} {
		s, ct = apply[*Container](t, s, SetContainer{ID: 102, NameServers: step.servers, SearchDomains: step.domains})
		if got := fmt.Sprint(ct.NameServers, ct.SearchDomains); got != step.want {
			t.Errorf("%v, %v: %s, want %s", step.servers, step.domains, got, step.want)
		}
	}
	for _, bad := range []SetContainer{
		{NameServers: []string{""}},
		{NameServers: []string{"10.0.0.300"}},
		{NameServers: []string{"10.0.0.1\nevil"}},
		{NameServers: []string{"fe80::1%eth0"}},
		{NameServers: []string{"0.0.0.0"}},
		{NameServers: []string{"224.0.0.1"}},
		{NameServers: []string{DefaultDNS, "10.0.0.1"}},
		{NameServers: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"}},
		{SearchDomains: []string{""}},
		{SearchDomains: []string{"a b"}},
		{SearchDomains: []string{"a..b"}},
		{SearchDomains: []string{"-a"}},
		{SearchDomains: []string{"a", "b", "c", "d", "e", "f", "g"}},
		{SearchDomains: []string{strings.Repeat("a", 254)}},
		{SearchDomains: []string{strings.Repeat("a", 200), strings.Repeat("b", 200)}},
	} {
		bad.ID = 102
		if next, _, err := s.Apply(bad); !errors.Is(err, ErrInvalid) || next.Container(102) != ct {
			t.Errorf("%+v: %v", bad, err)
		}
		worse := create(103, "h1")
		worse.Container.NameServers, worse.Container.SearchDomains = bad.NameServers, bad.SearchDomains
		if _, _, err := s.Apply(worse); !errors.Is(err, ErrInvalid) {
			t.Errorf("created with %+v: %v", bad, err)
		}
	}
}
