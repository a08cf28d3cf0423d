package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestCreate(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteCreate: web(), api.RouteTemplates: []cluster.Template{{Name: "only"}}})
	base := api.CreateRequest{Template: "only", IP: "auto", Limits: cluster.Limits{RAM: 512 << 20, MilliCPU: 1000, CPUUnits: 1024, Disk: 2 << 30, PIDs: 4096}}
	for args, change := range map[string]func(*api.CreateRequest){
		"create":                              func(*api.CreateRequest) {},
		"create 105":                          func(r *api.CreateRequest) { r.ID = 105 },
		"create web":                          func(r *api.CreateRequest) { r.Name = "web" },
		"create 105 --name web":               func(r *api.CreateRequest) { r.ID, r.Name = 105, "web" },
		"create web --name web":               func(r *api.CreateRequest) { r.Name = "web" },
		"create 105 --ram 1G":                 func(r *api.CreateRequest) { r.ID, r.Limits.RAM = 105, 1<<30 },
		"create --template debian-12":         func(r *api.CreateRequest) { r.Template = "debian-12" },
		"create --swap 1G --cpus .5":          func(r *api.CreateRequest) { r.Limits.Swap, r.Limits.MilliCPU = 1<<30, 500 },
		"create --cpuunits 10 --disk 1.5T":    func(r *api.CreateRequest) { r.Limits.CPUUnits, r.Limits.Disk = 10, 3<<39 },
		"create --ip none --host host3":       func(r *api.CreateRequest) { r.IP, r.Host = "none", "host3" },
		"create --label a=b,c --label d=":     func(r *api.CreateRequest) { r.Labels = map[string]string{"a": "b,c", "d": ""} },
		"create --hostname h --ip 10.77.0.99": func(r *api.CreateRequest) { r.Hostname, r.IP = "h", "10.77.0.99" },
		"create --cpu-mask 0-3 --numa 0 --pids 0": func(r *api.CreateRequest) {
			r.Limits.CPUMask, r.Limits.NUMANodes, r.Limits.PIDs = "0-3", "0", 0
		},
		"create --net-in 100mbit --net-out 1M/s --ram-soft 400M": func(r *api.CreateRequest) {
			r.Limits.NetIn, r.Limits.NetOut, r.Limits.SoftRAM = 100_000_000, 8<<20, 400<<20
		},
		"create --io-weight 300 --read-rate 10M --write-rate 5M --read-iops 100 --write-iops 50": func(r *api.CreateRequest) {
			r.Limits.IOWeight, r.Limits.ReadRate, r.Limits.WriteRate, r.Limits.ReadIOPS, r.Limits.WriteIOPS = 300, 10<<20, 5<<20, 100, 50
		},
		"run web": func(r *api.CreateRequest) { r.Name, r.Start = "web", true },
	} {
		want := base
		change(&want)
		r := f.run(strings.Fields(args)...)
		var got api.CreateRequest
		if err := json.Unmarshal([]byte(f.last()), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s sends\n  %+v, want\n  %+v (%v)", args, got, want, r)
		}
		if r.code != 0 || !strings.HasPrefix(r.stdout, "ID ") || r.stderr != "web (101): host2 has the most room\n" {
			t.Errorf("%s: %+v", args, r)
		}
	}
}

func TestRunWaits(t *testing.T) {
	pending, starting, failed := web(), web(), web()
	pending.State, starting.State, failed.State, failed.Detail = cluster.Pending, cluster.Starting, cluster.Failed, "no such init"
	f := newFake(t, map[string]any{api.RouteCreate: pending, api.RouteContainer: sequence(pending, starting, web())})
	if r := f.run("run", "web", "--template", "x"); r.code != 0 || !strings.Contains(r.stdout, "running") || len(f.asked) != 4 {
		t.Errorf("%+v after %v", r, f.asked)
	}
	f = newFake(t, map[string]any{api.RouteCreate: pending, api.RouteContainer: sequence(pending, failed)})
	if r := f.run("run", "web", "--template", "x"); r.code != 1 || !strings.Contains(r.stderr, "web (101) did not start on host2: no such init; `vzcluster logs web` shows what it said") {
		t.Errorf("failed: %+v", r)
	}
	f = newFake(t, map[string]any{api.RouteCreate: pending, api.RouteContainer: pending})
	if r := f.run("run", "web", "--template", "x", "--timeout", "50ms"); r.code != 6 || !strings.Contains(r.stderr, "web (101) is pending, not running, after 50ms") {
		t.Errorf("too slow: %+v", r)
	}
}

func TestPlace(t *testing.T) {
	p := api.PlaceReply{Host: "host2", Why: "host2 has the most room", Hosts: []api.PlaceHost{
		{Host: "host1", Reason: "is cordoned", Free: cluster.Resources{RAM: 1 << 30}},
		{Host: "host2", Fits: true, Score: .75, Free: cluster.Resources{RAM: 2 << 30, MilliCPU: 500, Disk: 1 << 40}, Reason: "75% free"},
	}}
	f := newFake(t, map[string]any{api.RoutePlace: func() any { return p }})
	want := `HOST     FITS  SCORE  FREE RAM  FREE CPUS  FREE DISK  REASON
host1    no    0.000  1G        0          0          is cordoned
host2 *  yes   0.750  2G        0.5        1T         75% free
`
	if r := f.run("place", "--why", "--template", "x", "--ram", "1G"); r.code != 0 || r.stdout != want || r.stderr != "host2 has the most room\n" {
		t.Errorf("%+v\nwant\n%s", r, want)
	}
	if r := f.run("place", "--template", "x"); r.stdout != "host2\n" {
		t.Errorf("without --why: %+v", r)
	}
	p.Host, p.Why, p.RoomOn = "", "no host can take it; 1 move makes room on host1", "host1"
	p.Moves = []cluster.Move{{Name: "web", From: "host1", To: "host2", Why: "its priority is 0"}}
	room := "no host can take it; 1 move makes room on host1\n[1/1] web: host1 -> host2, its priority is 0\nthen it goes to host1\n"
	if r := f.run("place", "--template", "x", "--priority", "5", "--preempt", "offline"); r.code != 0 || r.stderr != room || !strings.Contains(f.asked[len(f.asked)-1], `"preempt":"offline"`) {
		t.Errorf("after moves: %+v", r)
	}
	p.RoomOn, p.Moves = "", nil
	p.Host, p.Why = "", "no host can take it: host1 is cordoned"
	if r := f.run("place", "--template", "x"); r.code != 4 || r.stderr != "vzcluster: no host can take it: host1 is cordoned\n" || !strings.Contains(r.stdout, "is cordoned") {
		t.Errorf("nowhere: %+v", r)
	}
}

func TestLife(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteAction: web(), api.RouteContainer: web(), api.RouteContainers: []api.Container{web(), db()}})
	for args, want := range map[string]string{
		"start web":                   `POST /v1/containers/web/start {"wait":60000000000,"force":false}`,
		"stop web -f":                 `POST /v1/containers/web/stop {"wait":60000000000,"force":true}`,
		"stop web --timeout 5":        `POST /v1/containers/web/stop {"wait":5000000000,"force":false}`,
		"restart 101 --timeout 0":     `POST /v1/containers/101/restart {"wait":1,"force":false}`,
		"destroy web -y --force":      `POST /v1/containers/web/destroy {"wait":60000000000,"force":true}`,
		"suspend web --force":         `POST /v1/containers/web/suspend {"wait":60000000000,"force":true}`,
		"resume web":                  `POST /v1/containers/web/resume {"wait":60000000000,"force":false}`,
		"destroy -y --now web":        `POST /v1/containers/web/destroy {"wait":60000000000,"force":false,"now":true}`,
		"stop web --grace 2m":         `POST /v1/containers/web/stop {"wait":60000000000,"force":false,"grace":120000000000}`,
		"start db web --timeout 1m":   `POST /v1/containers/web/start {"wait":60000000000,"force":false}`,
		"destroy -fy web --timeout 1": `POST /v1/containers/web/destroy {"wait":1000000000,"force":true}`,
	} {
		r := f.run(strings.Fields(args)...)
		if sent := f.asked[len(f.asked)-1]; r.code != 0 || sent != want {
			t.Errorf("%s sends %s, want %s (%+v)", args, sent, want, r)
		}
	}
	if r := f.run("start", "web", "-o", "json"); !strings.HasPrefix(r.stdout, "{") {
		t.Errorf("one container is not an object: %s", r.stdout)
	}
	if r := f.run("start", "web", "db", "-o", "json"); !strings.HasPrefix(r.stdout, "[") {
		t.Errorf("two containers are not a list: %s", r.stdout)
	}
}

func TestLifeOfSeveral(t *testing.T) {
	all := []api.Container{web(), db()}
	f := newFake(t, map[string]any{api.RouteAction: web(), api.RouteContainers: all})
	r := f.run("stop", "web", "nosuch", "101", "typo")
	if want := "vzcluster: there is no container nosuch, typo; `vzcluster ls` lists what there is\n"; r.code != 3 || r.stdout != "" || r.stderr != want || len(f.asked) != 1 {
		t.Errorf("%+v after %v, want %s", r, f.asked, want)
	}
	refused := api.Errorf(api.CodeTimeout, "", "it did not stop")
	f = newFake(t, map[string]any{api.RouteAction: sequence(refused, web(), api.Errorf(api.CodeLocked, "", "it moves")), api.RouteContainers: all})
	r = f.run("stop", "102", "web", "db", "-o", "name")
	if r.code != 6 || r.stdout != "web\n" || r.stderr != "vzcluster: 102: it did not stop\nvzcluster: db: it moves\n" || len(f.asked) != 4 {
		t.Errorf("%+v after %v", r, f.asked)
	}
}

func TestDestroyAsks(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteAction: web(), api.RouteContainer: web()})
	question := "destroy web (101), which is running on host2, with everything in it? [y/N] "
	for answer, yes := range map[string]bool{"y\n": true, "YES\n": true, "n\n": false, "\n": false, "": false, "yo\n": false} {
		f.asked = nil
		r := f.runWith(onTerminal, answer, "destroy", "101")
		if !strings.HasPrefix(r.stderr, question) {
			t.Errorf("asked %q, want %q", r.stderr, question)
		}
		done := strings.Contains(strings.Join(f.asked, "\n"), "/destroy")
		if done != yes || (r.code == 0) != yes || yes != (r.stdout == "destroyed web\n") {
			t.Errorf("answer %q: destroyed %v, %+v", answer, done, r)
		}
		if !yes && !strings.Contains(r.stderr, "nothing was done") {
			t.Errorf("answer %q: %s", answer, r.stderr)
		}
	}
	f.asked = nil
	if r := f.run("destroy", "web"); r.code != 2 || len(f.asked) > 0 {
		t.Errorf("without a terminal: %+v after %v", r, f.asked)
	}
	if r := f.runWith(onTerminal, "", "destroy", "web", "-y"); r.code != 0 || strings.Contains(r.stderr, "?") {
		t.Errorf("-y asks: %+v", r)
	}
}
