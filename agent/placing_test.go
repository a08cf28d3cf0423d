package agent

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func like(name string, count int, ram int64) api.CreateRequest {
	return api.CreateRequest{Template: "tiny", Name: name, Count: count, Limits: cluster.Limits{RAM: ram}}
}

func TestCreateMany(t *testing.T) {
	_, hosts := newCluster(t, 3)
	ctx := t.Context()
	made, err := hosts[1].CreateMany(ctx, api.CreateManyRequest{Containers: []api.CreateRequest{like("web", 30, 16<<20), like("db", 1, 64<<20)}})
	must(t, err)
	on := map[string]int{}
	for _, c := range made {
		on[c.Host]++
		if c.Why == "" || len(c.Addresses) != 1 || c.State != cluster.Stopped {
			t.Errorf("%+v", c)
		}
	}
	if len(made) != 31 || made[0].Name != "web-1" || made[29].Name != "web-30" || made[30].Name != "db" || len(on) != 3 {
		t.Errorf("%d were made, on %v", len(made), on)
	}
	for name, req := range map[string]api.CreateRequest{
		"a name that is taken":      like("web", 2, 16<<20),
		"one address for several":   {Template: "tiny", Name: "x", Count: 2, IP: "10.0.0.7", Limits: cluster.Limits{RAM: 16 << 20}},
		"too many":                  like("y", api.MaxCreate+1, 16<<20),
		"a template that is not":    {Template: "none", Limits: cluster.Limits{RAM: 16 << 20}},
		"more than there is room":   like("z", 500, 16<<20),
		"limits that make no sense": like("w", 2, 1),
	} {
		before, err := hosts[0].Containers(ctx)
		must(t, err)
		if _, err := hosts[0].CreateMany(ctx, api.CreateManyRequest{Containers: []api.CreateRequest{like("good", 3, 16<<20), req}}); err == nil {
			t.Errorf("%s: it was done", name)
		}
		after, err := hosts[0].Containers(ctx)
		must(t, err)
		if len(after) != len(before) {
			t.Errorf("%s: it was refused and yet %d containers came", name, len(after)-len(before))
		}
	}
	_, err = hosts[0].CreateMany(ctx, api.CreateManyRequest{Containers: []api.CreateRequest{like("z", 500, 16<<20)}})
	wantCode(t, err, api.CodeNoFit)
	if !strings.Contains(err.Error(), "of 500 containers have room") {
		t.Errorf("the refusal says %v", err)
	}
}

// A leader that is lost with a batch in its hands leaves nothing half: all of it is there or nothing is, and then the same
// request is good again.
func TestLeaderIsLostWithABatch(t *testing.T) {
	for _, point := range []string{"raft.asked.CreateContainers", "raft.committed.CreateContainers"} {
		t.Run(point, func(t *testing.T) {
			var stop sync.Once
			lost := make(chan struct{})
			l := &testCluster{t: t, engines: map[string]*fakeEngine{}, room: 1 << 40}
			l.at = func(host, at string) {
				if at == point && host == "host1" {
					stop.Do(func() { close(lost) })
					<-l.hosts[0].agent.ctx.Done()
				}
			}
			l.grow(3)
			eventually(t, "three voters", func() error { return threeVoters(l.hosts[0]) })
			req := api.CreateManyRequest{Containers: []api.CreateRequest{like("web", 1500, 16<<20)}}
			done := make(chan error, 1)
			go func() {
				_, err := l.hosts[1].CreateMany(t.Context(), req)
				done <- err
			}()
			<-lost
			l.hosts[0].stop()
			if err := <-done; err == nil {
				t.Error("it was said to be done")
			}
			l.leader()
			all, err := l.hosts[1].Containers(t.Context())
			must(t, err)
			if len(all) != 0 && len(all) != 1500 {
				t.Fatalf("%d of 1500 are there", len(all))
			}
			made, err := l.hosts[1].CreateMany(t.Context(), req)
			if (err == nil) != (len(all) == 0) || err == nil && len(made) != 1500 {
				t.Errorf("with %d there, the same request made %d: %v", len(all), len(made), err)
			}
		})
	}
}

// A request with many containers of a few shapes has their specifications once.
func TestAlikeAreOneSpecification(t *testing.T) {
	_, hosts := newCluster(t, 1)
	m := hosts[0].agent.member.Load()
	var o order
	for i := range 40 {
		req := like(fmt.Sprintf("c%d", i), 0, int64(16+i%3)<<20)
		req.Labels = map[string]string{"app": "web"}
		must(t, m.addLike(&o, req))
	}
	if len(o.specs) != 3 || len(o.items) != 40 || o.specs[o.items[5].Spec].Limits.RAM != 18<<20 {
		t.Errorf("%d specifications of %d containers", len(o.specs), len(o.items))
	}
}

// Many clients create at once; every container gets numbers of its own and room.
func TestCreateAtOnce(t *testing.T) {
	l := &testCluster{t: t, engines: map[string]*fakeEngine{}, calm: true}
	l.grow(3)
	hosts := l.hosts
	var clients sync.WaitGroup
	for i := range 30 {
		clients.Go(func() {
			c, err := hosts[i%3].Create(t.Context(), like(fmt.Sprintf("c%d", i), 0, 16<<20))
			if err != nil || c.Name != fmt.Sprintf("c%d", i) {
				t.Errorf("client %d got %+v, %v", i, c.Name, err)
			}
		})
	}
	clients.Wait()
	all, err := hosts[0].Containers(t.Context())
	must(t, err)
	seen := map[string]bool{}
	for _, c := range all {
		seen[c.MAC], seen[c.Addresses[0]] = true, true
	}
	if len(all) != 30 || len(seen) != 60 {
		t.Errorf("%d containers with %d different numbers", len(all), len(seen))
	}
}

func TestWaitForRoom(t *testing.T) {
	l, hosts := newCluster(t, 1)
	ctx := t.Context()
	first := hosts[0].create("first", 700<<20)
	req := like("late", 0, 700<<20)
	req.Start = true
	_, err := hosts[0].Create(ctx, req)
	wantCode(t, err, api.CodeNoFit)
	req.WaitForRoom = true
	late, err := hosts[0].Create(ctx, req)
	must(t, err)
	if late.Host != "" || late.State != cluster.Pending || !strings.Contains(late.Detail, "memory") {
		t.Fatalf("it is on %q, %s: %s", late.Host, late.State, late.Detail)
	}
	_, err = hosts[0].Migrate(ctx, "late", api.MigrateRequest{})
	wantCode(t, err, api.CodeConflict)

	_, err = hosts[0].Action(ctx, "first", "destroy", api.ActionRequest{Force: true})
	must(t, err)
	eventually(t, "it runs when there is room", func() error {
		c, err := hosts[0].Container(ctx, "late")
		if err == nil && (c.State != cluster.Running || !l.engines["host1"].runs(c.ID)) {
			err = fmt.Errorf("it is %s: %s", c.State, c.Detail)
		}
		return err
	})
	if l.engines["host1"].runs(first.ID) {
		t.Error("the one before it still runs")
	}

	req.Name = "never"
	_, err = hosts[0].Create(ctx, req)
	must(t, err)
	_, err = hosts[0].Action(ctx, "never", "destroy", api.ActionRequest{})
	must(t, err)
	_, err = hosts[0].Container(ctx, "never")
	wantCode(t, err, api.CodeNotFound)
}

// What is placed together keeps the rules among itself: of a group with one per host, three hosts take three.
func TestRulesOfABatch(t *testing.T) {
	_, hosts := newCluster(t, 3)
	one := like("web", 4, 16<<20)
	one.Rules = cluster.Rules{Group: "web", MaxPerHost: 1}
	_, err := hosts[0].CreateMany(t.Context(), api.CreateManyRequest{Containers: []api.CreateRequest{one}})
	wantCode(t, err, api.CodeNoFit)
	one.Count = 3
	made, err := hosts[0].CreateMany(t.Context(), api.CreateManyRequest{Containers: []api.CreateRequest{one}})
	must(t, err)
	on := map[string]bool{}
	for _, c := range made {
		on[c.Host] = true
	}
	if len(on) != 3 {
		t.Errorf("three of a group with one per host are on %v", on)
	}
	pinned := like("db", 0, 16<<20)
	pinned.Rules.Pinned = "host2"
	if c, err := hosts[0].Create(t.Context(), pinned); err != nil || c.Host != "host2" {
		t.Errorf("what is pinned to host2 is on %s, %v", c.Host, err)
	}
}
