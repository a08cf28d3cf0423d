package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"
)

// result is one line of a benchmark's report. Less is better in all of them.
type result struct {
	Case    string   `json:"case"`
	Unit    string   `json:"unit"`
	Ours    float64  `json:"ours"` // median
	OursP99 float64  `json:"ours_p99"`
	Floor   *float64 `json:"floor"` // median; null: there is nothing to compare with
	Ratio   *float64 `json:"ratio"` // of the medians
	Goal    *float64 `json:"goal"`  // for the ratio, or for ours when there is none; null: shown for information
	Met     *bool    `json:"met"`
	Runs    int      `json:"runs"`
}

// compare reports ours against a floor measured in the same run; the goal is for the ratio of the medians.
func compare(name string, ours, floor []float64, goal *float64) result {
	r := result{Case: name, Unit: "ms", Ours: median(ours), OursP99: percentile(ours, 99), Goal: goal, Runs: len(ours)}
	if f := median(floor); len(floor) > 0 && f > 0 {
		ratio := r.Ours / f
		r.Floor, r.Ratio = &f, &ratio
	}
	return r.judge()
}

// in is the result in another unit.
func (r result) in(unit string) result {
	r.Unit = unit
	return r
}

// absolute reports figures that have no floor; the goal is for the median.
func absolute(name, unit string, ours []float64, goal float64) result {
	return result{Case: name, Unit: unit, Ours: median(ours), OursP99: percentile(ours, 99), Goal: &goal, Runs: len(ours)}.judge()
}

// beside shows a floor that was measured in the same run; the goal stays one for ours.
func (r result) beside(floor []float64) result {
	f := median(floor)
	r.Floor = &f
	return r
}

// judge compares with the goal.
func (r result) judge() result {
	if r.Goal == nil || r.Runs == 0 {
		return r
	}
	figure := r.Ours
	if r.Ratio != nil {
		figure = *r.Ratio
	}
	met := figure <= *r.Goal
	r.Met = &met
	return r
}

// writeTable prints results for people.
func writeTable(w io.Writer, rs []result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CASE\tUNIT\tOURS\tP99\tFLOOR\tRATIO\tGOAL\tMET\tRUNS")
	for _, r := range rs {
		goal, met := "-", "-"
		if r.Goal != nil {
			goal = "<= " + strconv.FormatFloat(*r.Goal, 'f', -1, 64)
			if r.Ratio != nil {
				goal += "x"
			}
		}
		if r.Met != nil {
			met = map[bool]string{true: "yes", false: "NO"}[*r.Met]
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", r.Case, r.Unit,
			figure(&r.Ours), figure(&r.OursP99), figure(r.Floor), figure(r.Ratio), goal, met, r.Runs)
	}
	return t.Flush()
}

// figure shows three digits where they matter.
func figure(f *float64) string {
	switch {
	case f == nil:
		return "-"
	case *f >= 100:
		return strconv.FormatFloat(*f, 'f', 0, 64)
	case *f >= 10:
		return strconv.FormatFloat(*f, 'f', 1, 64)
	}
	return strconv.FormatFloat(*f, 'f', 2, 64)
}

// save writes results to DIR/NAME.json.
func save(dir, name string, rs []result) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder for results: %w", err)
	}
	b, err := json.MarshalIndent(rs, "", "  ")
	if err != nil {
		return fmt.Errorf("write the results of %s: %w", name, err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".json"), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the results of %s: %w", name, err)
	}
	return nil
}
