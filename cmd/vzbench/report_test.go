package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func results() []result {
	goal := 1.3
	return []result{
		compare("boot", []float64{130, 150, 140}, []float64{100, 100, 300}, &goal),
		compare("echo", []float64{5}, []float64{4}, nil),
		absolute("memory", "MiB", []float64{30}, 64),
	}
}

func TestJudge(t *testing.T) {
	rs := results()
	if m := rs[0].Met; m == nil || *m {
		t.Errorf("a ratio of 1.4 meets 1.3")
	}
	if rs[1].Met != nil {
		t.Errorf("a figure without a goal was judged")
	}
	if m := rs[2].Met; m == nil || !*m {
		t.Errorf("30 MiB do not meet 64")
	}
	goal := 3.0
	if r := compare("failed", nil, nil, &goal); r.Met != nil || r.Ratio != nil {
		t.Errorf("a case without runs was judged: %+v", r)
	}
	if r := absolute("exact", "processes", []float64{0}, 0); !*r.Met {
		t.Errorf("none does not meet none")
	}
}

func TestSave(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out", "bench")
	if err := save(dir, "boot", results()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "boot.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{
		{"case": "boot", "unit": "ms", "ours": 140.0, "ours_p99": 150.0, "floor": 100.0, "ratio": 1.4, "goal": 1.3, "met": false, "runs": 3.0},
		{"case": "echo", "unit": "ms", "ours": 5.0, "ours_p99": 5.0, "floor": 4.0, "ratio": 1.25, "goal": nil, "met": nil, "runs": 1.0},
		{"case": "memory", "unit": "MiB", "ours": 30.0, "ours_p99": 30.0, "floor": nil, "ratio": nil, "goal": 64.0, "met": true, "runs": 1.0},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := writeTable(&b, results()); err != nil {
		t.Fatal(err)
	}
	want := `CASE    UNIT  OURS  P99   FLOOR  RATIO  GOAL     MET  RUNS
boot    ms    140   150   100    1.40   <= 1.3x  NO   3
echo    ms    5.00  5.00  4.00   1.25   -        -    1
memory  MiB   30.0  30.0  -      -      <= 64    yes  1
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

func TestChoose(t *testing.T) {
	chosen := func(o options) (list []string) {
		cs, err := choose(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cs {
			list = append(list, c.name)
		}
		return list
	}
	all := chosen(options{set: general})
	n := 0
	for _, set := range sets() {
		n += len(chosen(options{set: set}))
	}
	if n != len(names()) {
		t.Errorf("the sets have %d cases together, not %d", n, len(names()))
	}
	if l := chosen(options{set: general, quick: true}); strings.Contains(strings.Join(l, " "), "demo") || len(l) != len(all)-1 {
		t.Error("quick:", l)
	}
	if _, err := choose(options{set: "all"}); err == nil {
		t.Error("a set that is not there is run")
	}
	if l := chosen(options{set: migrate, quick: true, cases: "demo, lab-up"}); strings.Join(l, " ") != "lab-up demo" {
		t.Error("what is named is run:", l)
	}
	if _, err := choose(options{set: general, cases: "lab-down"}); err == nil || !strings.Contains(err.Error(), "create-start") {
		t.Error("an unknown case:", err)
	}
	if cs, _ := choose(options{set: general, runs: 2}); cs[1].runs != 2 {
		t.Error("runs:", cs[1].runs)
	}
}
