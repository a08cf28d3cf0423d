package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// reboot is that of the machine: nothing runs any more, and what lies in run_dir is gone.
func (h *testHost) reboot() {
	h.t.Helper()
	h.stop()
	ids, _ := h.engine.List()
	for _, id := range ids {
		h.engine.end(id)
	}
	must(h.t, os.RemoveAll(filepath.Join(h.cfg.RunDir, "containers")))
	h.start()
}

// becomes waits until a container is as it must be.
func (h *testHost) becomes(name string, state cluster.ContainerState, restarted int) api.Container {
	h.t.Helper()
	var c api.Container
	eventually(h.t, name, func() (err error) {
		c, err = h.Container(h.t.Context(), name)
		if err == nil && (c.State != state || c.Restarted != restarted || h.engine.runs(c.ID) != (state == cluster.Running)) {
			err = fmt.Errorf("it is %s (%s), was restarted %d times", c.State, c.Detail, c.Restarted)
		}
		return err
	})
	return c
}

func TestEndsFromInside(t *testing.T) {
	h, c := oneHost(t)
	starts := h.engine.count()
	h.engine.set(func(e *fakeEngine) { e.how = runtime.Rebooted })
	h.engine.end(c.ID)
	eventually(t, "it is started again", func() error {
		if n := h.engine.count(); n != starts+1 {
			return fmt.Errorf("it was started %d times", n-starts)
		}
		return nil
	})
	h.becomes("web", cluster.Running, 0)
	h.engine.set(func(e *fakeEngine) { e.how = runtime.Halted })
	h.engine.end(c.ID)
	if c = h.becomes("web", cluster.Stopped, 0); c.Desired != cluster.WantStopped || c.Detail != "it was switched off from inside" {
		t.Errorf("it is wanted %s: %q", c.Desired, c.Detail)
	}
	h.engine.set(func(e *fakeEngine) { e.how = "" })
	if c = h.act("web", "start", api.ActionRequest{}); c.State != cluster.Running || c.Detail != "" {
		t.Errorf("it is %s: %q", c.State, c.Detail)
	}
	h.engine.set(func(e *fakeEngine) { e.words = runtime.Halted }) // nobody was told how it has ended
	h.engine.end(c.ID)
	if c = h.becomes("web", cluster.Stopped, 0); c.Detail != "it was switched off from inside" {
		t.Errorf("by its last words it is %q", c.Detail)
	}
	h.engine.set(func(e *fakeEngine) { e.words = "" })
	h.act("web", "start", api.ActionRequest{})
	h.engine.end(c.ID)
	if c = h.becomes("web", cluster.Failed, 0); c.Desired != cluster.WantRunning {
		t.Errorf("without a word it is wanted %s", c.Desired)
	}
}

func TestHostBoots(t *testing.T) {
	h, _ := oneHost(t)
	boot := func(name string, what cluster.OnBoot) {
		_, err := h.Set(t.Context(), name, api.SetRequest{OnBoot: &what})
		must(t, err)
	}
	for _, name := range []string{"never", "always", "off", "asleep"} {
		h.create(name, 64<<20)
	}
	boot("never", cluster.BootNo)
	boot("always", cluster.BootYes)
	h.act("always", "stop", api.ActionRequest{})
	h.act("off", "stop", api.ActionRequest{})
	h.act("asleep", "suspend", api.ActionRequest{})
	bad := cluster.OnBoot("maybe")
	_, err := h.Set(t.Context(), "web", api.SetRequest{OnBoot: &bad})
	wantSays(t, err, api.CodeUsage, "yes, no or as-before")

	h.stop() // an agent that is started again is no boot
	h.start()
	h.becomes("always", cluster.Stopped, 0)
	h.becomes("never", cluster.Running, 0)

	h.reboot()
	h.becomes("web", cluster.Running, 1)
	if c := h.becomes("never", cluster.Stopped, 0); c.Desired != cluster.WantStopped {
		t.Errorf("it is wanted %s", c.Desired)
	}
	h.becomes("always", cluster.Running, 0)
	h.becomes("off", cluster.Stopped, 0)
	h.becomes("asleep", cluster.Suspended, 0)
	boot("off", cluster.BootYes) // means the next boot
	h.act("web", "restart", api.ActionRequest{})
	h.becomes("off", cluster.Stopped, 0)

	late, err := h.Create(t.Context(), like("late", 0, 64<<20))
	must(t, err)
	rec := h.agent.member.Load().rec
	rec.mu.Lock()
	fresh := rec.fresh(late.ID)
	rec.mu.Unlock()
	if fresh {
		t.Error("what was created after the boot is as the boot has found it")
	}

	web := h.becomes("web", cluster.Running, 1)
	h.act("late", "stop", api.ActionRequest{})
	boot("late", cluster.BootYes)
	h.stop()
	h.engine.end(web.ID)
	must(t, os.RemoveAll(rec.dir))
	must(t, os.Mkdir(rec.dir, 0o700))
	rec.writeBoot(map[int]bool{web.ID: true}) // by an agent that was killed then
	h.start()
	h.becomes("web", cluster.Running, 2)
	h.becomes("late", cluster.Stopped, 0)
	eventually(t, "the boot is over", func() error {
		raw, err := os.ReadFile(filepath.Join(rec.dir, bootFile))
		if err == nil && strings.Contains(string(raw), "found") {
			err = errors.New(string(raw))
		}
		return err
	})
}

func TestHostShutsDown(t *testing.T) {
	for _, how := range []string{"suspend", "stop"} {
		t.Run(how, func(t *testing.T) {
			h, c := oneHost(t)
			off := h.create("off", 64<<20)
			h.act("off", "stop", api.ActionRequest{})
			done, err := h.Shutdown(t.Context(), api.ShutdownRequest{How: how})
			must(t, err)
			want := map[string]cluster.ContainerState{"suspend": cluster.Suspended, "stop": cluster.Stopped}[how]
			if now := h.becomes("web", want, 0); done.Containers != 1 || now.Desired != cluster.WantRunning {
				t.Errorf("%d were put down, it is wanted %s", done.Containers, now.Desired)
			}
			h.reboot()
			h.becomes("web", cluster.Running, 0)
			h.becomes("off", cluster.Stopped, 0)
			if is, _ := h.engine.Suspension(c.ID); is != "" || h.engine.runs(off.ID) {
				t.Errorf("its memory is still %q", is)
			}
		})
	}
	h, _ := oneHost(t)
	_, err := h.Shutdown(t.Context(), api.ShutdownRequest{How: "explode"})
	wantSays(t, err, api.CodeUsage, "suspend or stop")
}

func TestShutdownOrder(t *testing.T) {
	ct := func(id, order int, want cluster.Desired, host string) *cluster.Container {
		return &cluster.Container{ID: id, BootOrder: order, Desired: want, Host: host}
	}
	var got [][]int
	for _, group := range shutdownOrder([]*cluster.Container{
		ct(101, 5, cluster.WantRunning, "h"), ct(102, 0, cluster.WantRunning, "h"), ct(103, -1, cluster.WantRunning, "h"),
		ct(104, 0, cluster.WantRunning, "h"), ct(105, 0, cluster.WantStopped, "h"), ct(106, 0, cluster.WantRunning, "other"),
	}, "h") {
		var ids []int
		for _, c := range group {
			ids = append(ids, c.ID)
		}
		got = append(got, ids)
	}
	if want := [][]int{{103}, {102, 104}, {101}}; !slices.EqualFunc(got, want, slices.Equal[[]int]) {
		t.Errorf("the order is %v, want %v", got, want)
	}
}

// TestBootOrder: what is to be started first is, though many are started at once.
func TestBootOrder(t *testing.T) {
	h, _ := oneHost(t)
	for i, name := range []string{"first", "second"} {
		h.create(name, 64<<20)
		order := 10 - i
		_, err := h.Set(t.Context(), name, api.SetRequest{BootOrder: &order})
		must(t, err)
	}
	h.engine.set(func(e *fakeEngine) { e.order = nil })
	h.reboot()
	for _, name := range []string{"web", "first", "second"} {
		h.becomes(name, cluster.Running, 1)
	}
	var order []string
	h.engine.set(func(e *fakeEngine) { order = slices.Clone(e.order) })
	if want := []string{"first", "second", "web"}; !slices.Equal(order, want) {
		t.Errorf("they were started as %v, want %v", order, want)
	}
}
