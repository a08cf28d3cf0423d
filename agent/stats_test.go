package agent

import (
	"fmt"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
)

// Any host tells what the containers of all hosts use.
func TestStats(t *testing.T) {
	_, hosts := newCluster(t, 2)
	for _, name := range []string{"a", "b"} {
		hosts[0].create(name, 64<<20)
	}
	stats := func(n int) (all []api.Stats) { // the host that is asked may be behind
		eventually(t, "the containers are measured", func() (err error) {
			if all, err = hosts[1].Stats(t.Context()); err == nil && len(all) != n {
				err = fmt.Errorf("%d are", len(all))
			}
			return err
		})
		return all
	}
	all := stats(2)
	if all[0].Host == all[1].Host || all[0].RAMLimit != 64<<20 || all[0].CPUUsec != 5000 || all[0].At.IsZero() {
		t.Errorf("the containers use %+v", all)
	}
	_, err := hosts[0].Action(t.Context(), "a", "stop", api.ActionRequest{Force: true})
	must(t, err)
	if all := stats(1); all[0].Name != "b" {
		t.Errorf("after one was stopped: %+v", all)
	}
}
