package gossip

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

const testTimeout = 20 * time.Second

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func start(t *testing.T, name string, k []byte, seeds ...string) *Gossip {
	t.Helper()
	g, err := Start(Config{
		Name: name, Bind: "127.0.0.1:0", Key: k, Seeds: func() []string { return seeds },
		Meta: Meta{API: name + ":7443", Version: "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// until waits until a condition on the members holds, looking at every change.
func until(t *testing.T, g *Gossip, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(testTimeout)
	for {
		changed := g.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("after %s still not %s; members of %s: %+v", testTimeout, what, g.cfg.Name, g.Members())
		}
	}
}

func member(g *Gossip, name string) Member {
	for _, m := range g.Members() {
		if m.Name == name {
			return m
		}
	}
	return Member{}
}

func TestTwoHostsFindEachOther(t *testing.T) {
	a := start(t, "a", key(1))
	b := start(t, "b", key(1), a.Address())
	for _, g := range []*Gossip{a, b} {
		until(t, g, "both alive", func() bool { return g.Alive("a") && g.Alive("b") })
	}
	if m := member(a, "b"); m.Meta.API != "b:7443" || m.Meta.Version != "1" || m.Address != b.Address() {
		t.Errorf("a knows b as %+v", m)
	}

	meta := Meta{API: "b:7443", Version: "2", Free: cluster.Resources{RAM: 5}}
	if err := b.SetMeta(meta); err != nil {
		t.Fatal(err)
	}
	until(t, a, "b's new meta", func() bool { return member(a, "b").Meta == meta })
	if err := b.SetMeta(meta); err != nil {
		t.Errorf("the same meta again: %v", err)
	}
	if err := b.SetMeta(Meta{Version: strings.Repeat("x", 600)}); !errors.Is(err, cluster.ErrInvalid) {
		t.Errorf("too much meta: %v", err)
	}

	if err := b.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	until(t, a, "b gone", func() bool { return !a.Alive("b") })
	if m := member(a, "b"); m.Name != "b" || m.Meta.API != "b:7443" {
		t.Errorf("a forgot b: %+v", m)
	}
}

func TestDeadHostIsNoticedAndComesBack(t *testing.T) {
	a := start(t, "a", key(1))
	b := start(t, "b", key(1), a.Address())
	until(t, a, "b alive", func() bool { return a.Alive("b") })
	if err := b.stop(false); err != nil { // without a good-bye
		t.Fatal(err)
	}
	began := time.Now()
	until(t, a, "b dead", func() bool { return !a.Alive("b") })
	t.Logf("noticed after %s", time.Since(began))

	again, err := Start(Config{
		Name: "b", Bind: b.Address(), Key: key(1), Seeds: func() []string { return []string{a.Address()} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	until(t, a, "b back", func() bool { return a.Alive("b") })
}

// A seed that starts later is found by trying again.
func TestSeedThatStartsLater(t *testing.T) {
	b := start(t, "b", key(1))
	address := b.Address()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	a := start(t, "a", key(1), address)
	late, err := Start(Config{Name: "b", Bind: address, Key: key(1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Close() }()
	until(t, a, "b found", func() bool { return a.Alive("b") })
	if got := a.missing(); len(got) != 0 {
		t.Errorf("still looking for %v", got)
	}
}

func TestWrongKeyIsNotHeard(t *testing.T) {
	a := start(t, "a", key(1))
	stranger := start(t, "stranger", key(2))
	if n, err := stranger.list.Join([]string{a.Address()}); err == nil || n != 0 {
		t.Fatalf("a host with another key joined %d hosts (error %v)", n, err)
	}
	// The same host with the right key shows that the address and everything else was right.
	friend := start(t, "friend", key(1))
	if _, err := friend.list.Join([]string{a.Address()}); err != nil {
		t.Fatal(err)
	}
	until(t, a, "friend alive", func() bool { return a.Alive("friend") })
	if a.Alive("stranger") || stranger.Alive("a") || len(a.Members()) != 2 {
		t.Errorf("a heard the stranger: %+v", a.Members())
	}
}

func TestStartRefuses(t *testing.T) {
	good := Config{Name: "a", Bind: "127.0.0.1:0", Key: key(1)}
	for name, change := range map[string]func(*Config){
		"no key":            func(c *Config) { c.Key = nil },
		"short key":         func(c *Config) { c.Key = key(1)[:15] },
		"bind without port": func(c *Config) { c.Bind = "127.0.0.1" },
		"bind to a name":    func(c *Config) { c.Bind = "localhost:1" },
		"port too high":     func(c *Config) { c.Bind = "127.0.0.1:70000" },
		"bad advertise":     func(c *Config) { c.Advertise = "here" },
		"too much meta":     func(c *Config) { c.Meta.API = strings.Repeat("x", 600) },
	} {
		c := good
		change(&c)
		if g, err := Start(c); !errors.Is(err, cluster.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				_ = g.Close()
			}
		}
	}
	taken := start(t, "a", key(1))
	c := good
	c.Bind = taken.Address()
	if g, err := Start(c); err == nil {
		_ = g.Close()
		t.Error("two hosts listen on one port")
	}
}

func TestLogLevels(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w := &logWriter{log}
	for line, want := range map[string]string{
		"2026/01/02 03:04:05 [ERR] memberlist: it broke\n": `level=WARN msg="it broke"`,
		"2026/01/02 03:04:05 [WARN] memberlist: hm\n":      "level=WARN msg=hm",
		"2026/01/02 03:04:05 [INFO] memberlist: so\n":      "level=INFO msg=so",
		"[DEBUG] memberlist: detail\n":                     "level=DEBUG msg=detail",
		"bare":                                             "level=DEBUG msg=bare",
	} {
		out.Reset()
		if n, err := w.Write([]byte(line)); n != len(line) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q became %q, want %q", line, out.String(), want)
		}
	}
	if !log.Enabled(context.Background(), slog.LevelDebug) {
		t.Error("the test's logger hides what it tests")
	}
}
