package gossip

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/memberlist"

	"github.com/vzcluster/vzcluster/cluster"
)

// Every host learns of every other one although each knows only its predecessor, and all notice the one that dies.
func TestFourHosts(t *testing.T) {
	names := []string{"a", "b", "c", "d"}
	var all []*Gossip
	for i, name := range names {
		var seeds []string
		if i > 0 {
			seeds = []string{all[i-1].Address()}
		}
		all = append(all, start(t, name, key(1), seeds...))
	}
	for _, g := range all {
		until(t, g, "all alive", func() bool {
			return !slices.ContainsFunc(names, func(n string) bool { return !g.Alive(n) })
		})
		var got []string
		for _, m := range g.Members() {
			got = append(got, m.Name)
		}
		if !slices.Equal(got, names) {
			t.Errorf("%s lists %v", g.cfg.Name, got)
		}
	}
	if err := all[1].stop(false); err != nil {
		t.Fatal(err)
	}
	for _, g := range []*Gossip{all[0], all[2], all[3]} {
		until(t, g, "b dead", func() bool { return !g.Alive("b") })
		if !g.Alive("a") || !g.Alive("c") || !g.Alive("d") {
			t.Errorf("%s takes more than b for dead: %+v", g.cfg.Name, g.Members())
		}
	}
}

// alone is a Gossip that hears only what the test tells it.
func alone() *Gossip {
	return &Gossip{members: map[string]Member{}, changed: make(chan struct{}), cfg: Config{}}
}

func node(name string, port uint16, meta string) *memberlist.Node {
	return &memberlist.Node{Name: name, Addr: []byte{127, 0, 0, 1}, Port: port, Meta: []byte(meta)}
}

func TestNews(t *testing.T) {
	g := start(t, "me", key(1)) // for its logger
	e := &events{g}
	for _, step := range []struct {
		what string
		tell func()
		want Member
		wake bool
	}{
		{"joins", func() { e.NotifyJoin(node("x", 1, `{"a":"x:1"}`)) }, Member{"x", "127.0.0.1:1", true, Meta{API: "x:1"}}, true},
		{"says the same", func() { e.NotifyUpdate(node("x", 1, `{"a":"x:1"}`)) }, Member{"x", "127.0.0.1:1", true, Meta{API: "x:1"}}, false},
		{"says more", func() { e.NotifyUpdate(node("x", 1, `{"v":"2","f":{"ram":7}}`)) }, Member{"x", "127.0.0.1:1", true, Meta{Version: "2", Free: cluster.Resources{RAM: 7}}}, true},
		{"dies", func() { e.NotifyLeave(node("x", 1, "")) }, Member{"x", "127.0.0.1:1", false, Meta{}}, true},
		{"comes back elsewhere", func() { e.NotifyJoin(node("x", 2, "")) }, Member{"x", "127.0.0.1:2", true, Meta{}}, true},
		{"talks nonsense", func() { e.NotifyUpdate(node("x", 2, "[[")) }, Member{"x", "127.0.0.1:2", true, Meta{}}, false},
		{"talks of the future", func() { e.NotifyUpdate(node("x", 2, `{"v":"3","new":1}`)) }, Member{"x", "127.0.0.1:2", true, Meta{Version: "3"}}, true},
	} {
		changed := g.Changed()
		step.tell()
		if got := member(g, "x"); got != step.want {
			t.Errorf("x %s: known as %+v, want %+v", step.what, got, step.want)
		}
		woken := false
		select {
		case <-changed:
			woken = true
		default:
		}
		if woken != step.wake {
			t.Errorf("x %s: watchers woken: %v", step.what, woken)
		}
	}
	if g.Alive("nobody") {
		t.Error("an unknown host is alive")
	}
}

func TestMissingSeeds(t *testing.T) {
	g := alone()
	if got := g.missing(); got != nil {
		t.Errorf("without seeds %v are missing", got)
	}
	seeds := []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "", "127.0.0.1:9"}
	g.cfg = Config{Advertise: "127.0.0.1:9", Seeds: func() []string { return seeds }}
	g.members = map[string]Member{
		"alive": {Name: "alive", Address: "127.0.0.1:1", Alive: true},
		"dead":  {Name: "dead", Address: "127.0.0.1:2"},
	}
	if got := fmt.Sprint(g.missing()); got != "[127.0.0.1:2 127.0.0.1:3]" {
		t.Errorf("missing are %s, want the dead and the unknown one", got)
	}
	if len(seeds) != 5 || seeds[0] != "127.0.0.1:1" {
		t.Errorf("the caller's list was changed to %v", seeds)
	}
}

func TestMetaSize(t *testing.T) {
	fits := Meta{API: strings.Repeat("x", 490), Version: "1"}
	b, err := fits.encode()
	if err != nil || len(b) > memberlist.MetaMaxSize {
		t.Errorf("%d bytes: %v", len(b), err)
	}
	for n := 480; n < 600; n++ {
		b, err := Meta{API: strings.Repeat("x", n)}.encode()
		if (err == nil) != (n+len(`{"a":""}`) <= memberlist.MetaMaxSize) || len(b) > memberlist.MetaMaxSize {
			t.Errorf("an address of %d characters: %d bytes, %v", n, len(b), err)
		}
	}
	if b, err := (Meta{}).encode(); err != nil || string(b) != "{}" {
		t.Errorf("nothing to say is %q, %v", b, err)
	}
}

func TestCloseFromMany(t *testing.T) {
	g := start(t, "a", key(1))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := g.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	wg.Wait()
}
