package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func (h *testHost) agentPath(name string) string { return filepath.Join(h.cfg.DataDir, name) }

func writeJSON(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o600)
}

func TestLeaderLost(t *testing.T) {
	l, hosts := newCluster(t, 3)
	eventually(t, "three voters", func() error { return threeVoters(hosts[0]) })
	for i := range 3 { // one on each host, and the template with it
		hosts[0].create(fmt.Sprintf("before%d", i), 64<<20)
	}
	old := l.leader()
	rest := l.followers()
	old.stop()
	// No word to the user about it: the request waits for the next leader.
	c, err := rest[0].Create(t.Context(), api.CreateRequest{
		Name: "after", Template: "tiny", Limits: cluster.Limits{RAM: 64 << 20}, Start: true, Host: rest[1].cfg.Name,
	})
	must(t, err)
	if c.State != cluster.Running {
		t.Errorf("created after the leader was lost, it is %s (%s)", c.State, c.Detail)
	}
	eventually(t, "the lost host is seen as down", func() error {
		hosts, err := rest[0].Hosts(t.Context())
		if err != nil {
			return err
		}
		for _, h := range hosts {
			if h.Name == old.cfg.Name && h.Alive {
				return errors.New("it looks alive")
			}
		}
		return nil
	})
	old.start()
	eventually(t, "the old leader follows", func() error {
		_, err := old.Container(t.Context(), "after")
		return err
	})

	// Two of three down: reads go on from the replica and say so, writes say what is wrong.
	rest = l.followers()
	l.leader().stop()
	rest[1].stop()
	last := rest[0]
	eventually(t, "a read without a quorum", func() error {
		s, err := last.Status(t.Context())
		if err == nil && (s.Quorum || len(s.Containers) != 4) {
			err = fmt.Errorf("quorum %v, %d containers", s.Quorum, len(s.Containers))
		}
		return err
	})
	began := time.Now()
	_, err = last.Create(t.Context(), api.CreateRequest{Template: "tiny", Limits: cluster.Limits{RAM: 64 << 20}})
	wantCode(t, err, api.CodeNoQuorum)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s to say that there is no quorum", took)
	}
}

func TestRestartAdopts(t *testing.T) {
	l, hosts := newCluster(t, 1)
	h, e := hosts[0], l.engines["host1"]
	stays := h.create("stays", 64<<20)
	ends := h.create("ends", 64<<20)
	h.stop()
	if !e.runs(stays.ID) {
		t.Fatal("the container ended with its agent")
	}
	e.end(ends.ID) // nobody watches
	starts := e.count()
	h.start()
	eventually(t, "the agent notices", func() error {
		c, err := h.Container(t.Context(), "ends")
		if err == nil && c.State != cluster.Failed {
			err = fmt.Errorf("it is %s", c.State)
		}
		return err
	})
	c, err := h.Container(t.Context(), "stays")
	must(t, err)
	if c.State != cluster.Running || e.count() != starts {
		t.Errorf("after the agent's restart it is %s, and %d were started anew", c.State, e.count()-starts)
	}
	// The adopted one is watched again.
	e.end(stays.ID)
	eventually(t, "the agent watches", func() error {
		c, err := h.Container(t.Context(), "stays")
		if err == nil && c.State != cluster.Failed {
			err = fmt.Errorf("it is %s", c.State)
		}
		return err
	})
}

func TestRebootStartsAgain(t *testing.T) {
	l, hosts := newCluster(t, 1)
	h, e := hosts[0], l.engines["host1"]
	c := h.create("web", 64<<20)
	h.stop()
	e.end(c.ID)
	must(t, os.RemoveAll(filepath.Join(h.cfg.RunDir, "containers"))) // /run is empty after a reboot
	h.start()
	eventually(t, "it runs again, and its loss of memory is counted", func() error {
		now, err := h.Container(t.Context(), "web")
		if err == nil && (!e.runs(c.ID) || now.State != cluster.Running || now.Restarted != 1 || !strings.Contains(now.Detail, "host went down")) {
			err = fmt.Errorf("it is %s, restarted %d times: %q", now.State, now.Restarted, now.Detail)
		}
		return err
	})
	_, err := h.Action(t.Context(), "web", "restart", api.ActionRequest{})
	must(t, err)
	now, err := h.Container(t.Context(), "web")
	must(t, err)
	if now.Restarted != 1 || now.Detail != "" {
		t.Errorf("after a restart that was asked for, it was restarted %d times by faults: %q", now.Restarted, now.Detail)
	}
}

func TestForeignCopyIsDeleted(t *testing.T) {
	l, hosts := newCluster(t, 2)
	c := hosts[0].create("web", 64<<20)
	other := hosts[0]
	if c.Host == other.cfg.Name {
		other = hosts[1]
	}
	other.stop()
	spec, err := l.host("spare").agent.Spec(&c.Container)
	if err == nil || spec.ID != 0 {
		t.Fatal("a host without a cluster has made a specification")
	}
	for _, id := range []int{c.ID, 777} { // one of another host's, one that nobody knows
		spec.ID = id
		must(t, l.engines[other.cfg.Name].Start(t.Context(), spec))
	}
	other.start()
	eventually(t, "the copies are gone", func() error {
		if ids, _ := l.engines[other.cfg.Name].List(); len(ids) > 0 {
			return fmt.Errorf("%v are still there", ids)
		}
		return nil
	})
	if !l.engines[c.Host].runs(c.ID) {
		t.Error("the owner's container is gone too")
	}
}

func TestTemplateTravels(t *testing.T) {
	l, hosts := newCluster(t, 2)
	tiny, err := hosts[0].Template(t.Context(), "tiny")
	must(t, err)
	c, err := hosts[0].Create(t.Context(), api.CreateRequest{
		Template: "tiny", Host: "host2", Limits: cluster.Limits{RAM: 64 << 20}, Start: true,
	})
	must(t, err)
	if c.State != cluster.Running || !hosts[1].images.Has(tiny.Digest) {
		t.Errorf("it is %s (%s), the template is there: %v", c.State, c.Detail, hosts[1].images.Has(tiny.Digest))
	}
	_, err = hosts[1].Action(t.Context(), c.Name, "destroy", api.ActionRequest{Now: true})
	must(t, err)
	must(t, hosts[1].DropTemplate(t.Context(), "tiny"))
	for _, h := range l.hosts {
		eventually(t, "the template is swept from "+h.cfg.Name, func() error {
			if h.images.Has(tiny.Digest) {
				return errors.New("it is still there")
			}
			return nil
		})
	}
}

func TestExecAndLogs(t *testing.T) {
	l, hosts := newCluster(t, 2)
	c := hosts[0].create("web", 64<<20)
	for _, h := range l.hosts { // one of them owns it, the other does not
		var out, errs bytes.Buffer
		big := strings.Repeat("0123456789abcdef", 1<<16)
		code, err := h.Exec(t.Context(), "web", api.Exec{Args: []string{"cat"}}, api.Streams{
			Stdin: strings.NewReader(big), Stdout: &out, Stderr: &errs,
		})
		must(t, err)
		if code != 0 || out.String() != big {
			t.Errorf("cat through %s: code %d, %d bytes of %d came back", h.cfg.Name, code, out.Len(), len(big))
		}
		out.Reset()
		code, err = h.Exec(t.Context(), "101", api.Exec{Args: []string{"nonsense"}}, api.Streams{Stdout: &out, Stderr: &errs})
		must(t, err)
		if code != 127 || errs.String() != "no such command" {
			t.Errorf("nonsense through %s: code %d, %q", h.cfg.Name, code, errs.String())
		}
		out.Reset()
		_, err = h.Exec(t.Context(), "web", api.Exec{Args: []string{"tty"}, TTY: true, Rows: 24, Cols: 80}, api.Streams{Stdout: &out, Stderr: &errs})
		must(t, err)
		if out.String() != "a terminal in 101" {
			t.Errorf("a terminal through %s said %q", h.cfg.Name, out.String())
		}
		out.Reset()
		must(t, h.Logs(t.Context(), "web", false, &out))
		if out.String() != "hello from web\n" {
			t.Errorf("the log through %s: %q", h.cfg.Name, out.String())
		}
	}
	_, err := hosts[0].Exec(t.Context(), "none", api.Exec{Args: []string{"cat"}}, api.Streams{})
	wantCode(t, err, api.CodeNotFound)
	_, err = hosts[0].Action(t.Context(), "web", "stop", api.ActionRequest{})
	must(t, err)
	_, err = hosts[1].Exec(t.Context(), c.Name, api.Exec{Args: []string{"cat"}}, api.Streams{})
	wantCode(t, err, api.CodeConflict)
}

func TestFollowedLogEnds(t *testing.T) {
	l, hosts := newCluster(t, 1)
	c := hosts[0].create("web", 64<<20)
	done := make(chan error, 1)
	var out bytes.Buffer
	go func() { done <- hosts[0].Logs(t.Context(), "web", true, &out) }()
	l.engines["host1"].end(c.ID)
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(patience):
		t.Fatal("the log of a container that has ended is still followed")
	}
	if out.String() != "hello from web\n" {
		t.Errorf("it said %q", out.String())
	}
}

func TestExecEndsWithItsClient(t *testing.T) {
	l, hosts := newCluster(t, 1)
	hosts[0].create("web", 64<<20)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := hosts[0].Exec(ctx, "web", api.Exec{Args: []string{"hang"}}, api.Streams{Stdout: io.Discard, Stderr: io.Discard})
		done <- err
	}()
	is := func(want int) func() error {
		return func() error {
			if n := l.engines["host1"].sessions(); n != want {
				return fmt.Errorf("%d commands run", n)
			}
			return nil
		}
	}
	eventually(t, "the command runs", is(1))
	cancel()
	<-done
	eventually(t, "the command ends", is(0))
}
