package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	gib = int64(1) << 30
	mib = int64(1) << 20
)

func at(minutes int) time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(minutes) * time.Minute)
}

func digest(c string) string { return "sha256:" + strings.Repeat(c, 64) }

func testSettings() Settings {
	return Settings{
		ID: "c1", CACert: []byte("cert"), CAKey: []byte("key"), GossipKey: []byte("0123456789abcdef"),
		Pool: "10.77.0.0/24", PoolFirst: "10.77.0.10", PoolLast: "10.77.0.20", Gateway: "10.77.0.1",
	}
}

func testHost(n int) Host {
	return Host{
		Name:     fmt.Sprintf("h%d", n),
		Address:  fmt.Sprintf("10.77.0.%d:7443", 1+n),
		Gossip:   fmt.Sprintf("10.77.0.%d:7946", 1+n),
		Capacity: Resources{MilliCPU: 4000, RAM: 4 * gib, Disk: 100 * gib},
		Serial:   fmt.Sprintf("serial%d", n),
	}
}

func token(id string) Token {
	return Token{ID: id, Hash: "hash-" + id, Created: at(0), Expires: at(60)}
}

// threeHosts is a cluster of h1, h2 and h3 with the template "deb".
func threeHosts() []Command {
	return []Command{
		InitCluster{Settings: testSettings(), Host: testHost(1)},
		AddToken{token("t2")},
		AddHost{Host: testHost(2), TokenID: "t2", At: at(1)},
		AddToken{token("t3")},
		AddHost{Host: testHost(3), TokenID: "t3", At: at(2)},
		PutTemplate{Template{Name: "deb", Digest: digest("a"), Size: 7, Init: []string{"/sbin/init"}, Hosts: []string{"h1"}}},
	}
}

func create(id int, host string) CreateContainer {
	return CreateContainer{Container: Container{
		ID: id, Host: host, Template: "deb", Limits: Limits{RAM: gib, MilliCPU: 1000, Disk: 10 * gib}, Created: at(3),
	}}
}

func begin(id string, ct int, from, to string, generation uint64) BeginMigration {
	return BeginMigration{Operation{ID: id, Container: ct, From: from, To: to, Generation: generation, Started: at(5)}}
}

func must(t testing.TB, s *State, commands ...Command) *State {
	t.Helper()
	for _, c := range commands {
		next, _, err := s.Apply(c)
		if err != nil {
			t.Fatalf("%T: %v", c, err)
		}
		s = next
	}
	return s
}

func apply[T any](t testing.TB, s *State, c Command) (*State, T) {
	t.Helper()
	next, result, err := s.Apply(c)
	if err != nil {
		t.Fatalf("%T: %v", c, err)
	}
	r, ok := result.(T)
	if !ok {
		t.Fatalf("%T returned a %T", c, result)
	}
	return next, r
}

func dump(t testing.TB, s *State) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// refusal is one command that a state must refuse, and change nothing.
type refused struct {
	name    string
	before  []Command // after threeHosts
	command Command
	kind    error
	says    string // part of the sentence
}

func testRefusals(t *testing.T, cases []refused) {
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			s := must(t, must(t, NewState(), threeHosts()...), tc.before...)
			before := dump(t, s)
			next, result, err := s.Apply(tc.command)
			if !errors.Is(err, tc.kind) {
				t.Fatalf("got error %v, want a %q", err, tc.kind)
			}
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("the error %q does not say %q", err, tc.says)
			}
			if result != nil || next != s {
				t.Error("a refused command returned a result or another state")
			}
			if after := dump(t, s); after != before {
				t.Errorf("a refused command changed the state\nfrom %s\nto   %s", before, after)
			}
		})
	}
}

// unchanged checks that a command succeeds and that the very same state comes back.
func unchanged(t *testing.T, s *State, c Command) any {
	t.Helper()
	next, result, err := s.Apply(c)
	if err != nil {
		t.Fatalf("%T: %v", c, err)
	}
	if next != s {
		t.Errorf("%T changed the state although nothing was to change", c)
	}
	return result
}
