package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/runtime"
)

// A limit that is met is told once, in words and with a count, on any host, and also after the agent's restart.
func TestLimitsThatAreMet(t *testing.T) {
	l, hosts := newCluster(t, 2)
	c := hosts[0].create("web", 64<<20)
	e := l.engines[c.Host]
	bean := func(failed int64) func(*fakeEngine) {
		return func(e *fakeEngine) {
			e.beans = []runtime.Bean{{Name: "numproc", Held: 40, Limit: 40, Failures: failed}}
		}
	}
	e.set(bean(0))
	owner := hosts[0]
	if c.Host != "host1" {
		owner = hosts[1]
	}
	eventually(t, "the counters are taken down", func() error {
		beans, err := hosts[1].Beans(t.Context(), "web")
		if err == nil && len(beans) != 1 {
			err = errors.New("nothing is counted")
		}
		return err
	})
	failed := int64(0)
	eventually(t, "it is told", func() error {
		failed++
		e.set(bean(failed))
		events, err := hosts[1].LimitEvents(t.Context(), "web")
		if err == nil && (len(events) != 1 || events[0].Times < 3 || !strings.Contains(events[0].What, "40 is its limit")) {
			err = fmt.Errorf("%d failures are told as %+v", failed, events)
		}
		return err
	})
	owner.stop()
	owner.start()
	eventually(t, "it is told after a restart", func() error {
		events, err := owner.LimitEvents(t.Context(), "")
		if err == nil && len(events) != 1 {
			err = fmt.Errorf("%+v", events)
		}
		return err
	})
	if _, err := owner.LimitEvents(t.Context(), "nobody"); err == nil {
		t.Error("of a container that is not there something is told")
	}
}

func TestWhatAFailureMeans(t *testing.T) {
	for _, c := range []struct {
		name           string
		held, failures int64
		want           string
	}{
		{"numproc", 1, 0, ""},
		{"numproc", 1, 1, "another process"},
		{runtime.BeanOOM, 0, 1, "was killed"},
		{"physpages", 0, 5, "memory was full"},
		{runtime.BeanCPU, 30, 9, ""},    // seldom
		{runtime.BeanCPU, 1000, 20, ""}, // a small part of the time
		{runtime.BeanCPU, 30, 20, "CPU time"},
	} {
		got := met(runtime.Bean{Name: c.name, Limit: 7}, c.held, c.failures)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
