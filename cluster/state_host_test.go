package cluster

import (
	"fmt"
	"slices"
	"testing"
)

func TestInitCluster(t *testing.T) {
	empty := NewState()
	if empty.Settings() != nil || len(empty.Hosts()) != 0 {
		t.Fatal("a new state is not empty")
	}
	c := InitCluster{Settings: testSettings(), Host: testHost(1)}
	s, h := apply[*Host](t, empty, c)
	if h.Name != "h1" || h.State != HostActive || s.Host("h1") != h || s.Settings().ID != "c1" {
		t.Errorf("init left %+v and %+v", h, s.Settings())
	}
	if empty.Settings() != nil {
		t.Error("init changed the old state")
	}
	if got := unchanged(t, s, c); got != h {
		t.Errorf("a repeated init returned %v", got)
	}
	other := c
	other.Settings.ID = "c2"
	if _, _, err := s.Apply(other); err == nil {
		t.Error("a second cluster was initialised over the first")
	}
}

func TestInitRefusals(t *testing.T) {
	settings := func(change func(*Settings)) InitCluster {
		c := InitCluster{Settings: testSettings(), Host: testHost(1)}
		change(&c.Settings)
		return c
	}
	badHost := InitCluster{Settings: testSettings(), Host: Host{Name: "No Good"}}
	for name, c := range map[string]InitCluster{
		"no id":                 settings(func(s *Settings) { s.ID = "" }),
		"pool no network":       settings(func(s *Settings) { s.Pool = "10.0.0.1" }),
		"first outside":         settings(func(s *Settings) { s.PoolFirst = "10.78.0.1" }),
		"last missing":          settings(func(s *Settings) { s.PoolLast = "" }),
		"last before first":     settings(func(s *Settings) { s.PoolFirst, s.PoolLast = s.PoolLast, s.PoolFirst }),
		"gateway outside":       settings(func(s *Settings) { s.Gateway = "192.168.1.1" }),
		"gateway other family":  settings(func(s *Settings) { s.Gateway = "fd00::1" }),
		"host name not allowed": badHost,
	} {
		t.Run(name, func(t *testing.T) {
			s := NewState()
			next, _, err := s.Apply(c)
			if err == nil || next != s || s.Settings() != nil {
				t.Errorf("it was accepted (error %v)", err)
			}
		})
	}
	if _, _, err := NewState().Apply(settings(func(s *Settings) { s.Gateway = "" })); err != nil {
		t.Errorf("a pool without gateway was refused: %v", err)
	}
}

func TestAddHostUsesUpTheToken(t *testing.T) {
	s := must(t, NewState(), InitCluster{Settings: testSettings(), Host: testHost(1)}, AddToken{token("t")})
	c := AddHost{Host: testHost(2), TokenID: "t", At: at(59)}
	s, h := apply[*Host](t, s, c)
	if s.Token("t").UsedBy != "h2" || !h.Joined.Equal(at(59)) || len(s.Hosts()) != 2 {
		t.Errorf("joined as %+v with token %+v", h, s.Token("t"))
	}
	c.At = at(600) // long after the token's end: the reply had been lost
	if got := unchanged(t, s, c); got != h {
		t.Errorf("a repeated join returned %v", got)
	}
}

func TestAddHostRefusals(t *testing.T) {
	h4 := testHost(4)
	tok := AddToken{token("t4")}
	with := func(change func(*AddHost)) AddHost {
		c := AddHost{Host: h4, TokenID: "t4", At: at(5)}
		change(&c)
		return c
	}
	testRefusals(t, []refused{
		{"unknown token", nil, with(func(c *AddHost) { c.TokenID = "nope" }), ErrToken, "does not know"},
		{"no token", nil, with(func(c *AddHost) { c.TokenID = "" }), ErrToken, "does not know"},
		{"revoked token", []Command{tok, RevokeToken{"t4"}}, with(func(*AddHost) {}), ErrToken, "does not know"},
		{"expired token", []Command{tok}, with(func(c *AddHost) { c.At = at(60) }), ErrToken, "expired"},
		{"used token", nil, with(func(c *AddHost) { c.TokenID = "t2" }), ErrToken, `used by host "h2"`},
		{
			"used token, other serial", nil,
			with(func(c *AddHost) { c.Host = testHost(2); c.Host.Serial = "x"; c.TokenID = "t2" }), ErrToken, "used by",
		},
		{"name taken", []Command{tok}, with(func(c *AddHost) { c.Host.Name = "h2" }), ErrConflict, `host "h2" already`},
		{"address taken", []Command{tok}, with(func(c *AddHost) { c.Host.Address = testHost(1).Address }), ErrConflict, `"h1"`},
		{
			"address of a container",
			[]Command{tok, create(0, "h1")},
			with(func(c *AddHost) { c.Host.Address = "10.77.0.10:7443" }), ErrConflict, "container 101",
		},
		{"bad name", []Command{tok}, with(func(c *AddHost) { c.Host.Name = "../etc" }), ErrInvalid, "no name"},
		{"bad state", []Command{tok}, with(func(c *AddHost) { c.Host.State = "gone" }), ErrInvalid, "no state"},
		{"negative capacity", []Command{tok}, with(func(c *AddHost) { c.Host.Capacity.RAM = -1 }), ErrInvalid, "negative"},
	})
	if _, _, err := NewState().Apply(with(func(*AddHost) {})); err == nil {
		t.Error("a host joined before init")
	}
}

func TestUpdateHost(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	old := s.Host("h2")
	s2, h := apply[*Host](t, s, UpdateHost{Name: "h2", Version: "2", Capacity: Resources{MilliCPU: 1, RAM: 2, Disk: 3}, Labels: map[string]string{"rack": "1"}})
	if h.Version != "2" || h.Capacity != (Resources{MilliCPU: 1, RAM: 2, Disk: 3}) || h.Labels["rack"] != "1" || h.Address != old.Address {
		t.Errorf("updated to %+v", h)
	}
	if s.Host("h2") != old || old.Version != "" {
		t.Error("the old state changed")
	}
	unchanged(t, s2, UpdateHost{Name: "h2", Version: "2"})
	s3, h := apply[*Host](t, s2, UpdateHost{Name: "h2", Address: "10.77.0.200:1", Gossip: "10.77.0.200:2", Labels: map[string]string{}})
	if h.Address != "10.77.0.200:1" || h.Gossip != "10.77.0.200:2" || len(h.Labels) != 0 || s3.Host("h2") != h {
		t.Errorf("updated to %+v", h)
	}
}

func TestHostStateAndVoter(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	s, h := apply[*Host](t, s, SetHostState{Name: "h2", State: HostCordoned})
	if h.State != HostCordoned {
		t.Error("not cordoned")
	}
	unchanged(t, s, SetHostState{Name: "h2", State: HostCordoned})
	s, h = apply[*Host](t, s, SetVoter{"h2", true})
	if !h.Voter || h.State != HostCordoned {
		t.Errorf("became %+v", h)
	}
	unchanged(t, s, SetVoter{"h2", true})
}

func TestRemoveHost(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	s = must(t, s, TemplateOn{digest("a"), "h3"}, RemoveHost{Name: "h3"})
	if s.Host("h3") != nil || len(s.Hosts()) != 2 {
		t.Error("the host is still there")
	}
	if got := s.Template("deb").Hosts; !slices.Equal(got, []string{"h1"}) {
		t.Errorf("the template is said to be on %v", got)
	}
	s = must(t, s, RemoveHost{Name: "h2"})
	if _, _, err := s.Apply(RemoveHost{Name: "h1"}); err == nil {
		t.Error("the last host was removed")
	}
}

func TestHostRefusals(t *testing.T) {
	ct := create(101, "h1")
	testRefusals(t, []refused{
		{"update unknown", nil, UpdateHost{Name: "h9", Version: "1"}, ErrNotFound, `"h9"`},
		{"update negative", nil, UpdateHost{Name: "h1", Capacity: Resources{RAM: -1}}, ErrInvalid, "negative"},
		{"update to another's address", nil, UpdateHost{Name: "h1", Address: testHost(2).Address}, ErrConflict, `"h2"`},
		{"state of unknown", nil, SetHostState{Name: "h9", State: HostActive}, ErrNotFound, `"h9"`},
		{"unknown state", nil, SetHostState{Name: "h1", State: "asleep"}, ErrInvalid, "asleep"},
		{"voter unknown", nil, SetVoter{"h9", true}, ErrNotFound, `"h9"`},
		{"remove unknown", nil, RemoveHost{Name: "h9"}, ErrNotFound, `"h9"`},
		{"remove owner", []Command{ct}, RemoveHost{Name: "h1"}, ErrConflict, "drain"},
		{"remove target", []Command{ct, begin("m", 101, "h1", "h2", 1)}, RemoveHost{Name: "h2"}, ErrConflict, "migration"},
		{
			"remove source before the end",
			[]Command{ct, begin("m", 101, "h1", "h2", 1), CommitMigration{"m"}},
			RemoveHost{Name: "h1"},
			ErrConflict, "migration",
		},
		{"token without hash", nil, AddToken{Token{ID: "x", Created: at(0), Expires: at(1)}}, ErrInvalid, "hash"},
		{"token dead at birth", nil, AddToken{Token{ID: "x", Hash: "h", Created: at(1), Expires: at(1)}}, ErrInvalid, "longer"},
		{"token twice", nil, AddToken{token("t2")}, ErrConflict, `"t2"`},
		{"revoke unknown", nil, RevokeToken{"nope"}, ErrNotFound, `"nope"`},
	})
}

func TestOldTokensAreDropped(t *testing.T) {
	s := must(t, NewState(), AddToken{token("old")}, AddToken{Token{ID: "later", Hash: "h", Created: at(1), Expires: at(3000)}})
	s = must(t, s, AddToken{Token{ID: "n1", Hash: "h", Created: at(60 + 24*60), Expires: at(9000)}})
	if s.Token("old") == nil {
		t.Error("a token was dropped within a day after its end")
	}
	s = must(t, s, AddToken{Token{ID: "n2", Hash: "h", Created: at(61 + 24*60), Expires: at(9000)}})
	if s.Token("old") != nil {
		t.Error("a token that expired more than a day ago is still kept")
	}
	var ids []string
	for _, tok := range s.Tokens() {
		ids = append(ids, tok.ID)
	}
	if fmt.Sprint(ids) != "[later n1 n2]" {
		t.Errorf("tokens are %v", ids)
	}
}
