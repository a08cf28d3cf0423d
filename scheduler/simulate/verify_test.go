package simulate

import (
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/cluster"
)

// generate makes files of hosts of two sizes and of containers that come and go, some of them in groups with a limit.
// Half of the containers that are there from the start have a host, as the same scheduler would choose it.
func generate(t *testing.T, seed uint64) (hosts, containers string) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 3))
	hosts = "name,cpu_milli,memory_mib,disk_mib,zone\n"
	for i := range 12 + r.IntN(20) {
		hosts += fmt.Sprintf("h%02d,%d,%d,%d,z%d\n", i, 16000<<(i%2), 65536<<(i%2), 500000, i%3)
	}
	containers = "name,cpu_milli,memory_mib,disk_mib,group,max_per_host,arrive_s,depart_s\n"
	for i := range 60 + r.IntN(200) {
		arrive, depart, group := "", "", ","
		if r.IntN(3) > 0 {
			arrive = strconv.Itoa(r.IntN(2000))
		}
		if r.IntN(4) > 0 {
			at, _ := strconv.Atoi(arrive)
			depart = strconv.Itoa(at + r.IntN(1500))
		}
		if r.IntN(3) == 0 {
			g := r.IntN(5)
			group = fmt.Sprintf("g%d,%d", g, 1+g/2+r.IntN(2))
		}
		cores := []int{1, 1, 2, 3, 4, 8}[r.IntN(6)]
		containers += fmt.Sprintf("c%d,%d,%d,%d,%s,%s,%s\n", i, cores*1000, cores*1024*(1+r.IntN(6)), r.IntN(9000), group, arrive, depart)
	}
	return hosts, containers
}

// fromFiles has a result say what the files say that are written of it.
func fromFiles(t *testing.T, r *Result) *Result {
	t.Helper()
	read := func(write func(*strings.Builder) error) [][]string {
		var b strings.Builder
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(strings.NewReader(b.String())).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	again := *r
	again.Placement, again.Plan = nil, nil
	rows := read(func(b *strings.Builder) error { return r.WritePlacement(b) })
	if strings.Join(rows[0], ",") != "container,host" {
		t.Fatalf("the placement begins with %v", rows[0])
	}
	for _, row := range rows[1:] {
		again.Placement = append(again.Placement, Placed{row[0], row[1]})
	}
	rows = read(func(b *strings.Builder) error { return r.WriteMoves(b) })
	if strings.Join(rows[0], ",") != "step,container,from,to" {
		t.Fatalf("the moves begin with %v", rows[0])
	}
	for k, row := range rows[1:] {
		step, err := strconv.Atoi(row[0])
		if err != nil {
			t.Fatal(err)
		}
		again.Plan = append(again.Plan, Move{step, row[1], row[2], row[3], r.Plan[k].event})
	}
	return &again
}

// verified runs and checks, from the files that would be written.
func verified(t *testing.T, hosts []*cluster.Host, all []Container, o Options) *Result {
	t.Helper()
	r, err := Run(hosts, all, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(hosts, all, o, fromFiles(t, r)); err != nil {
		t.Fatalf("%+v: %v", o, err)
	}
	return r
}

// Every plan of generated clusters is followed step by step: nothing overcommitted, no limit broken, no budget exceeded.
func TestEveryStepIsFeasible(t *testing.T) {
	moves := map[string]int{}
	for seed := range uint64(12) {
		hosts, containers := generate(t, seed)
		hs, all := load(t, hosts, containers)
		for _, policy := range cluster.Placements() {
			placed := verified(t, hs, all, Options{Plan: Place, Policy: policy, Seed: seed})
			for _, o := range []Options{{}, {MovesPerArrival: 0.34}, {MovesPerArrival: 2, MaxMoves: 9}, {MaxMoves: 5}} {
				o.Plan, o.Policy, o.Seed = Replay, policy, seed
				r := verified(t, hs, all, o)
				moves[o.Plan] += r.Moves
				if again := verified(t, hs, all, o); fmt.Sprint(again.Plan, again.Placement) != fmt.Sprint(r.Plan, r.Placement) {
					t.Fatalf("%+v: the same seed gives another replay", o)
				}
			}
			start := append([]Container{}, all...)
			for i, p := range placed.Placement {
				start[i].Host = p.Host
			}
			for _, most := range []int{0, 4} {
				r := verified(t, hs, start, Options{Plan: Consolidate, Policy: cluster.Pack, Seed: seed, MaxMoves: most})
				moves[Consolidate] += r.Moves
			}
		}
	}
	if moves[Replay] < 100 || moves[Consolidate] < 100 {
		t.Errorf("too few moves to say anything: %v", moves)
	}
}

// The checker itself: each fault planted in a result that is right must be found.
func TestVerifyFindsFaults(t *testing.T) {
	const hosts = "name,cpu_milli,memory_mib\nh1,4000,8192\nh2,4000,8192\nh3,4000,8192\n"
	const still = "name,cpu_milli,memory_mib,group,max_per_host,host\na,3000,64,,,h1\nb,1000,64,g,1,h1\nc,1000,64,g,1,h2\nd,3000,64,,,h3\n"
	const moving = "name,cpu_milli,memory_mib,arrive_s,depart_s\na,3000,64,,10\nb,2000,64,,\nc,2000,64,5,20\nd,1000,64,30,\n"
	swap := []Move{{1, "b", "h1", "h3", 0}, {2, "c", "h2", "h1", 0}}
	rest := []Move{{1, "b", "h2", "h1", 4}}
	for name, c := range map[string]struct {
		files string
		o     Options
		r     Result
		want  string
	}{
		"right": {still, Options{Plan: Consolidate}, Result{HostsUsed: 2, Plan: swap, Placement: []Placed{{"a", "h1"}, {"b", "h3"}, {"c", "h1"}, {"d", "h3"}}}, ""},
		"source is not free within a step": {
			still,
			Options{Plan: Consolidate},
			Result{HostsUsed: 2, Plan: []Move{{1, "b", "h1", "h3", 0}, {1, "c", "h2", "h1", 0}}, Placement: []Placed{{"a", "h1"}, {"b", "h3"}, {"c", "h1"}, {"d", "h3"}}},
			"c does not fit on h1",
		},
		"limit per host": {still, Options{Plan: Consolidate}, Result{HostsUsed: 3, Plan: []Move{{1, "b", "h1", "h2", 0}}, Placement: []Placed{{"a", "h1"}, {"b", "h2"}, {"c", "h2"}, {"d", "h3"}}}, "group g"},
		"too many":       {still, Options{Plan: Consolidate, MaxMoves: 1}, Result{HostsUsed: 2, Plan: swap, Placement: []Placed{{"a", "h1"}, {"b", "h3"}, {"c", "h1"}, {"d", "h3"}}}, "2 moves, 1 are allowed"},
		"overcommitted":  {still, Options{Plan: Consolidate}, Result{HostsUsed: 2, Plan: []Move{{1, "d", "h3", "h1", 0}}, Placement: []Placed{{"a", "h1"}, {"b", "h1"}, {"c", "h2"}, {"d", "h1"}}}, "d does not fit on h1"},
		"other start":    {still, Options{Plan: Consolidate}, Result{HostsUsed: 3, Placement: []Placed{{"a", "h1"}, {"b", "h3"}, {"c", "h2"}, {"d", "h3"}}}, `b is on "h1"`},
		"other end":      {still, Options{Plan: Consolidate}, Result{HostsUsed: 2, Plan: swap, Placement: []Placed{{"a", "h1"}, {"b", "h1"}, {"c", "h1"}, {"d", "h3"}}}, "b is on"},
		"from nowhere":   {still, Options{Plan: Consolidate}, Result{HostsUsed: 3, Plan: []Move{{1, "b", "h1", "h3", 0}, {2, "b", "h1", "h3", 0}}, Placement: []Placed{{"a", "h1"}, {"b", "h3"}, {"c", "h2"}, {"d", "h3"}}}, `but it is on "h3"`},
		"no such host":   {still, Options{Plan: Consolidate}, Result{HostsUsed: 3, Plan: []Move{{1, "b", "h1", "h9", 0}}, Placement: []Placed{{"a", "h1"}, {"b", "h9"}, {"c", "h2"}, {"d", "h3"}}}, "which there is not"},
		"steps go back":  {still, Options{Plan: Consolidate}, Result{HostsUsed: 2, Plan: []Move{{2, "b", "h1", "h3", 0}, {1, "c", "h2", "h1", 0}}, Placement: []Placed{{"a", "h1"}, {"b", "h3"}, {"c", "h1"}, {"d", "h3"}}}, "step 1 comes after step 2"},
		"hosts used":     {still, Options{Plan: Consolidate}, Result{HostsUsed: 1, Plan: swap, Placement: []Placed{{"a", "h1"}, {"b", "h3"}, {"c", "h1"}, {"d", "h3"}}}, "1 hosts"},
		"replayed":       {moving, Options{Plan: Replay, MovesPerArrival: 1}, Result{HostsUsed: 2, HostSeconds: 40, Plan: rest, Placement: []Placed{{"a", "h1"}, {"b", "h1"}, {"c", "h2"}, {"d", "h1"}}}, ""},
		"host-seconds":   {moving, Options{Plan: Replay, MovesPerArrival: 1}, Result{HostsUsed: 2, HostSeconds: 39, Plan: rest, Placement: []Placed{{"a", "h1"}, {"b", "h1"}, {"c", "h2"}, {"d", "h1"}}}, "39 host-seconds"},
		"budget":         {moving, Options{Plan: Replay, MovesPerArrival: 0.4}, Result{HostsUsed: 2, HostSeconds: 40, Plan: rest, Placement: []Placed{{"a", "h1"}, {"b", "h1"}, {"c", "h2"}, {"d", "h1"}}}, "1 moves after 1 arrivals"},
		"no budget":      {moving, Options{Plan: Replay}, Result{HostsUsed: 2, HostSeconds: 40, Plan: rest, Placement: []Placed{{"a", "h1"}, {"b", "h1"}, {"c", "h2"}, {"d", "h1"}}}, "1 moves after"},
		"too early":      {moving, Options{Plan: Replay, MovesPerArrival: 1}, Result{HostsUsed: 2, Plan: []Move{{1, "b", "h2", "h1", 2}}, Placement: []Placed{{"a", "h1"}, {"b", "h1"}, {"c", "h2"}, {"d", "h1"}}}, "b does not fit on h1"},
		"has left":       {moving, Options{Plan: Replay, MovesPerArrival: 1}, Result{HostsUsed: 2, Plan: []Move{{1, "a", "h1", "h3", 4}}, Placement: []Placed{{"a", "h3"}, {"b", "h2"}, {"c", "h2"}, {"d", "h2"}}}, "a leaves from h1"},
		"after all":      {moving, Options{Plan: Replay, MovesPerArrival: 1}, Result{HostsUsed: 2, Plan: []Move{{1, "b", "h2", "h1", 99}}, Placement: []Placed{{"a", "h1"}, {"b", "h1"}, {"c", "h2"}, {"d", "h1"}}}, "comes after nothing"},
	} {
		hs, all := load(t, hosts, c.files)
		c.r.Placed, c.r.Moves = 4, len(c.r.Plan)
		err := Verify(hs, all, c.o, &c.r)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// traceFiles reads a public trace, if the variable VZCLUSTER_TRACES names their folder.
func traceFiles(t *testing.T, name string) ([]*cluster.Host, []Container) {
	t.Helper()
	folder := os.Getenv("VZCLUSTER_TRACES")
	if folder == "" {
		t.Skip("VZCLUSTER_TRACES names no folder with public traces")
	}
	read := func(part string) string {
		text, err := os.ReadFile(filepath.Join(folder, name+"-"+part+".csv"))
		if err != nil {
			t.Skip(err)
		}
		return string(text)
	}
	return load(t, read("hosts"), read("containers"))
}

// The public traces, when they are there: the figures are those of the documentation.
func TestTraces(t *testing.T) {
	hs, all := traceFiles(t, "openb")
	for seed := range uint64(2) {
		placed := verified(t, hs, all, Options{Plan: Place, Policy: cluster.Pack, Seed: seed})
		if placed.HostsUsed > 897 || placed.Unplaced > 0 {
			t.Errorf("openb: %d hosts, %d unplaced", placed.HostsUsed, placed.Unplaced)
		}
		start := append([]Container{}, all...)
		for i, p := range placed.Placement {
			start[i].Host = p.Host
		}
		if r := verified(t, hs, start, Options{Plan: Consolidate, Policy: cluster.Pack, Seed: seed}); r.HostsUsed > 890 {
			t.Errorf("openb: %d hosts after the consolidation", r.HostsUsed)
		}
	}
	hs, all = traceFiles(t, "dlrm")
	r := verified(t, hs, all, Options{Plan: Replay, Policy: cluster.Pack})
	if ratio := float64(r.HostSeconds) / float64(r.LowerBound); ratio > 1.025 || r.Unplaced > 0 {
		t.Errorf("dlrm: %.4f of the bound, %d unplaced", ratio, r.Unplaced)
	}
}
