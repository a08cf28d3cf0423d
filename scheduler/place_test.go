package scheduler

import (
	"reflect"
	"testing"

	"github.com/vzcluster/vzcluster/cluster"
)

const gib = int64(1) << 30

// res makes resources of cores and GiB.
func res(cores, ram, disk float64) cluster.Resources {
	return cluster.Resources{MilliCPU: int64(cores * 1000), RAM: int64(ram * float64(gib)), Disk: int64(disk * float64(gib))}
}

// many is a host's capacity that counts no containers.
func many(r cluster.Resources) cluster.Resources { r.Containers = 1 << 20; return r }

// ct makes a running container.
func ct(id int, name, host string, need cluster.Resources) cluster.Container {
	return cluster.Container{
		ID: id, Name: name, Host: host, State: cluster.Running, Desired: cluster.WantRunning,
		Limits: cluster.Limits{MilliCPU: need.MilliCPU, RAM: need.RAM, Disk: need.Disk},
	}
}

// snapshot makes active, living hosts of 4 cores, 8 GiB and 100 GiB, with what the containers reserve.
func snapshot(names []string, cs ...cluster.Container) Snapshot {
	s := Snapshot{Containers: cs}
	for _, n := range names {
		h := HostView{Name: n, State: cluster.HostActive, Alive: true, Capacity: many(res(4, 8, 100))}
		h.Reserved = sum(s.on(n))
		s.Hosts = append(s.Hosts, h)
	}
	return s
}

var three = []string{"host1", "host2", "host3"}

func TestPlaceSpreads(t *testing.T) {
	s := snapshot(three, ct(101, "a", "host1", res(1, 2, 1)), ct(102, "b", "host2", res(1, 1, 1)))
	d := Place(s, Request{Need: res(1, 1, 1)})
	if d.Host != "host3" {
		t.Fatalf("placed on %q, want the empty host3: %s", d.Host, d.Why)
	}
	if want := "host3 has the most room of 3 hosts: 75% of its cpu stays free, 0 containers"; d.Why != want {
		t.Errorf("why: %q, want %q", d.Why, want)
	}
	if len(d.Hosts) != 3 || d.Hosts[0].Reason != "50% of its cpu stays free, 1 container" {
		t.Errorf("hosts: %+v", d.Hosts)
	}
}

func TestPlaceTies(t *testing.T) {
	s := snapshot(three)
	if d := Place(s, Request{Need: res(1, 1, 1)}); d.Host != "host1" {
		t.Errorf("equal hosts: placed on %s, want the first name", d.Host)
	}
	// host1 and host2 reserve the same, host1 in more containers.
	s = snapshot([]string{"host1", "host2"}, ct(101, "a", "host1", res(1, 1, 0)), ct(102, "b", "host1", res(1, 1, 0)),
		ct(103, "c", "host2", res(2, 2, 0)))
	if d := Place(s, Request{Need: res(1, 1, 1)}); d.Host != "host2" {
		t.Errorf("equal room: placed on %s, want the host with fewer containers", d.Host)
	}
}

func TestPlaceTemplateBreaksNearTies(t *testing.T) {
	s := snapshot(three)
	s.Hosts[2].HasTemplate = true
	if d := Place(s, Request{Need: res(1, 1, 1), Template: "sha256:1"}); d.Host != "host3" {
		t.Errorf("placed on %s, want the host with the template", d.Host)
	}
	s.Hosts[2].Reserved = res(1, 0, 0)
	if d := Place(s, Request{Need: res(1, 1, 1), Template: "sha256:1"}); d.Host != "host1" {
		t.Errorf("placed on %s: a template must not outweigh room", d.Host)
	}
}

func TestPlaceExplainsNoFit(t *testing.T) {
	s := snapshot(three)
	s.Hosts[0].Reserved, s.Hosts[1].Reserved = res(0, 6, 0), res(0, 6, 0)
	s.Hosts[2].State = cluster.HostCordoned
	twoDown := snapshot(three, ct(101, "a", "host1", res(4, 1, 1)))
	twoDown.Hosts[1].Alive, twoDown.Hosts[2].Alive = false, false
	for _, c := range []struct {
		name string
		snap Snapshot
		req  Request
		want string
	}{
		{"memory", s, Request{Need: res(1, 64, 1)}, "no host can take it: memory: needs 64G, 2G free on host1 and host2; host3 is cordoned"},
		{"cpu", twoDown, Request{Need: res(1, 1, 1)}, "no host can take it: cpu: needs 1, 0 free on host1; host2 and host3 are down"},
		{"disk", snapshot(three), Request{Need: res(1, 1, 200)}, "no host can take it: disk: needs 200G, 100G free on host1, host2 and host3"},
		{"pin unknown", s, Request{Pin: "moon"}, "no host can take it: there is no host named moon"},
		{"pin cordoned", s, Request{Pin: "host3"}, "no host can take it: host3 is cordoned"},
		{"pin is where it is", s, Request{Pin: "host1", Exclude: "host1"}, "no host can take it: it is on host1 already"},
		{"alone", snapshot([]string{"host1"}), Request{Exclude: "host1"}, "no host can take it: there is no other host"},
		{"no hosts", Snapshot{}, Request{}, "no host can take it: the cluster has no hosts"},
	} {
		d := Place(c.snap, c.req)
		if d.Host != "" || d.Why != c.want {
			t.Errorf("%s: host %q, why\n  %q, want\n  %q", c.name, d.Host, d.Why, c.want)
		}
		for _, h := range d.Hosts {
			if h.Reason == "" || h.Fits {
				t.Errorf("%s: %s fits or has no reason: %+v", c.name, h.Host, h)
			}
		}
	}
}

func TestPlacePin(t *testing.T) {
	s := snapshot(three, ct(101, "a", "host2", res(1, 1, 1)))
	d := Place(s, Request{Need: res(1, 1, 1), Pin: "host2"})
	if d.Host != "host2" || d.Hosts[0].Reason != "another host was asked for" {
		t.Errorf("got %+v", d)
	}
}

func TestPlaceOvercommittedHostIsNoPanic(t *testing.T) {
	s := snapshot([]string{"host1"})
	s.Hosts[0].Reserved = res(9, 90, 900) // it came back smaller than it was
	if d := Place(s, Request{}); d.Host != "" {
		t.Errorf("placed on %q, which has less than nothing", d.Host)
	}
}

func TestPlaceNineOverThree(t *testing.T) {
	s := snapshot(three)
	got := map[string]int{}
	for id := 101; id <= 109; id++ {
		d := Place(s, Request{Need: res(0.5, 0.5, 2)})
		s = snapshot(three, append(s.Containers, ct(id, "x", d.Host, res(0.5, 0.5, 2)))...)
		got[d.Host]++
	}
	if want := map[string]int{"host1": 3, "host2": 3, "host3": 3}; !reflect.DeepEqual(got, want) {
		t.Errorf("spread %v, want %v", got, want)
	}
}
