package simulate

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/cluster"
)

const someHosts = "name,cpu_milli,memory_mib,zone\nh1,4000,8192,a\nh2,4000,8192,b\nh3,4000,8192,\n"

func load(t *testing.T, hosts, containers string) ([]*cluster.Host, []Container) {
	t.Helper()
	hs, err := ReadHosts("H.csv", strings.NewReader(hosts))
	if err != nil {
		t.Fatal(err)
	}
	cs, err := ReadContainers("C.csv", strings.NewReader(containers))
	if err != nil {
		t.Fatal(err)
	}
	return hs, cs
}

func do(t *testing.T, o Options, hosts, containers string) *Result {
	t.Helper()
	hs, cs := load(t, hosts, containers)
	r, err := Run(hs, cs, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(hs, cs, o, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func placement(r *Result) string {
	var b strings.Builder
	for _, p := range r.Placement {
		fmt.Fprintf(&b, "%s:%s ", p.Container, p.Host)
	}
	return strings.TrimSpace(b.String())
}

func TestPlaceInFileOrder(t *testing.T) {
	const cs = "memory_mib,name,cpu_milli,group,max_per_host\n1024,a,1000,web,1\n1024,b,1000,web,1\n1024,c,1000,,\n1024,d,9000,,\n"
	r := do(t, Options{Plan: Place, Policy: cluster.Pack}, someHosts, cs)
	if got, want := placement(r), "a:h1 b:h2 c:h1 d:"; got != want {
		t.Errorf("placed %q, want %q", got, want)
	}
	if r.Placed != 3 || r.Unplaced != 1 || r.HostsUsed != 2 || r.LowerBound != 3 {
		t.Errorf("%+v", r)
	}
	if r := do(t, Options{Plan: Place, Policy: cluster.Spread}, someHosts, cs); placement(r) != "a:h1 b:h2 c:h3 d:" {
		t.Errorf("spread: %q", placement(r))
	}
}

func TestReplayCountsHostSeconds(t *testing.T) {
	const cs = "name,cpu_milli,memory_mib,arrive_s,depart_s\na,3000,1024,,10\nb,3000,1024,5,20\nc,3000,1024,10,\n"
	r := do(t, Options{Plan: Replay, Policy: cluster.Pack}, someHosts, cs)
	if r.HostSeconds != 5+5*2+10*2 || r.LowerBound != r.HostSeconds || r.HostsUsed != 2 || r.Placed != 3 {
		t.Errorf("%+v", r)
	}
	if placement(r) != "a:h1 b:h2 c:h1" {
		t.Errorf("a leaves before c comes within the same second: %q", placement(r))
	}
}

func TestReplayMovesNoMoreThanArrivalsAllow(t *testing.T) {
	var b strings.Builder
	b.WriteString("name,cpu_milli,memory_mib,arrive_s,depart_s\n")
	for i := range 12 {
		fmt.Fprintf(&b, "s%d,2000,1024,%d,%d\nl%d,2000,1024,%d,\n", i, i+1, 20+i, i, i+1)
	}
	hosts := "name,cpu_milli,memory_mib\n"
	for i := range 12 {
		hosts += fmt.Sprintf("h%02d,4000,8192\n", i)
	}
	b.WriteString("x,100,64,50,\ny,100,64,51,\nz,100,64,52,\n")
	none := do(t, Options{Plan: Replay, Policy: cluster.Pack}, hosts, b.String())
	some := do(t, Options{Plan: Replay, Policy: cluster.Pack, MovesPerArrival: 0.2}, hosts, b.String())
	if none.Moves != 0 || some.Moves == 0 || some.Moves > 27/5 {
		t.Errorf("%d moves without a budget, %d with one of %d", none.Moves, some.Moves, 27/5)
	}
}

func TestConsolidate(t *testing.T) {
	hosts, cs := "name,cpu_milli,memory_mib\n", "name,cpu_milli,memory_mib,host,group,max_per_host\n"
	for i := range 40 {
		hosts += fmt.Sprintf("h%02d,16000,65536\n", i)
		for j := range 3 {
			cs += fmt.Sprintf("c%d-%d,%d,%d,h%02d,g%d,2\n", i, j, 1000+(i*7+j*5)%5*500, 2048+(i*3+j)%4*2048, i, i%15)
		}
	}
	cs = strings.ReplaceAll(cs, ",2\n", ",3\n")
	r := do(t, Options{Plan: Consolidate, Policy: cluster.Pack}, hosts, cs)
	if r.HostsUsed > int(r.LowerBound)+3 || r.Moves > 3*(40-r.HostsUsed)*105/100+1 {
		t.Errorf("%d hosts are used, %d are the least; %d moves", r.HostsUsed, r.LowerBound, r.Moves)
	}
	if r := do(t, Options{Plan: Consolidate, Policy: cluster.Pack, MaxMoves: 7}, hosts, cs); r.Moves > 7 || r.HostsUsed != 38 {
		t.Errorf("with 7 moves %d hosts are left after %d", r.HostsUsed, r.Moves)
	}
}

func TestBadFiles(t *testing.T) {
	const head = "name,cpu_milli,memory_mib"
	for text, want := range map[string]string{
		"":                                "C.csv: the file is empty",
		"name,cpu_milli\n":                "C.csv:1: the column memory_mib is missing",
		head + ",colour\n":                `C.csv:1: column 4: "colour" is not known`,
		head + ",name\n":                  "C.csv:1: column 4: name is there twice",
		head + "\na,1,2\na,1,2\n":         `C.csv:3: column name: "a" is there already, on line 2`,
		head + "\na,x,2\n":                `C.csv:2: column cpu_milli: "x" is no whole number`,
		head + "\na,-1,2\n":               "C.csv:2: column cpu_milli",
		head + "\na,1,\n":                 "C.csv:2: column memory_mib: it is empty",
		head + "\na,1\n":                  "C.csv:2: the line has 2 columns, the first one has 3",
		head + "\n\"a,1,2\n":              "C.csv:",
		head + "\n,1,2\n":                 "C.csv:2: column name: it is empty",
		head + ",max_per_host\na,1,2,1\n": "C.csv:2: column group",
		head + ",group,max_per_host\na,1,2,g,0\n": "C.csv:2: column max_per_host",
		head + ",arrive_s,depart_s\na,1,2,9,8\n":  "C.csv:2: column depart_s: it departs at 8 s",
	} {
		if _, err := ReadContainers("C.csv", strings.NewReader(text)); !errors.Is(err, cluster.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for placement, want := range map[string]string{
		"container,host\nx,h1\n":       `P.csv:2: column container: there is no container "x"`,
		"container,host\na,h9\n":       `P.csv:2: column host: there is no host "h9"`,
		"container,host\na,h1\na,h1\n": "P.csv:3: column container",
	} {
		hs, cs := load(t, someHosts, head+"\na,1,2\n")
		if err := ReadPlacement("P.csv", strings.NewReader(placement), hs, cs); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", placement, err, want)
		}
	}
	hs, cs := load(t, someHosts, head+",host\na,3000,2,h1\nb,3000,2,h1\n")
	if _, err := Run(hs, cs, Options{Plan: Consolidate}); !errors.Is(err, cluster.ErrInvalid) || !strings.Contains(err.Error(), "C.csv:3: column host") {
		t.Errorf("an impossible start: %v", err)
	}
}
