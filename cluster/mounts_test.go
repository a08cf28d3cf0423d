package cluster

import (
	"errors"
	"testing"
)

func TestMountsAreChecked(t *testing.T) {
	for _, m := range []Mount{
		{Source: "/", Path: "/a"},
		{Source: "a", Path: "/a"},
		{Source: "/a/../b", Path: "/a"},
		{Source: "/a", Path: "/"},
		{Source: "/a", Path: "/proc/x"},
		{Source: "/sys", Path: "/x"},
		{Source: "/dev", Path: "/x"},
		{Source: "/a:b", Path: "/x"},
		{Source: "/a", Path: "/run"},
		{Source: "", Path: ""},
	} {
		if err := m.Check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v is taken: %v", m, err)
		}
	}
	local, shared := Mount{Source: "/srv", Path: "/data"}, Mount{Source: "/srv", Path: "/data", Shared: true, ReadOnly: true}
	for _, c := range []struct {
		ct Container
		ok bool
	}{
		{Container{Host: "h1", Mounts: []Mount{shared}}, true},
		{Container{Host: "h1", Mounts: []Mount{local}}, false},
		{Container{Host: "h1", Mounts: []Mount{local}, Rules: Rules{Pinned: "h1"}}, true},
		{Container{Host: "h1", Mounts: []Mount{local}, Rules: Rules{Pinned: "h2"}}, false},
		{Container{Mounts: []Mount{local}, Rules: Rules{Pinned: "h2"}}, true}, // it waits for room there
		{Container{Host: "h1", Mounts: []Mount{shared, shared}}, false},
	} {
		if err := c.ct.checkMounts(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.ct.Mounts, err)
		}
	}
	if got := shared.String(); got != "/srv:/data:ro:shared" {
		t.Error(got)
	}
}
