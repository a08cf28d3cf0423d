package main

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestMedianAndPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // 100 down to 1
	}
	for _, c := range []struct {
		name        string
		samples     []float64
		median, p99 float64
	}{
		{"none", nil, 0, 0},
		{"one", []float64{7}, 7, 7},
		{"odd", []float64{9, 1, 5}, 5, 9},
		{"even", []float64{4, 1, 2, 3}, 2.5, 4},
		{"hundred", hundred, 50.5, 99},
	} {
		if m, p := median(c.samples), percentile(c.samples, 99); m != c.median || p != c.p99 {
			t.Errorf("%s: median %v, p99 %v, want %v and %v", c.name, m, p, c.median, c.p99)
		}
	}
	if hundred[0] != 100 {
		t.Error("the samples were sorted in place")
	}
}

func TestLongestGap(t *testing.T) {
	at := []int64{0, 2, 4, 50, 52, 90, 92, 94, 200, 202}
	for _, c := range []struct {
		name     string
		at       []int64
		from, to int64
		want     time.Duration
		fails    bool
	}{
		{name: "inside", at: at, from: 51, to: 93, want: 38},
		{name: "begun before", at: at, from: 20, to: 51, want: 46},
		{name: "ends behind", at: at, from: 91, to: 100, want: 106},
		{name: "those before and behind do not count", at: at, from: 91, to: 93, want: 2},
		{name: "nothing before", at: []int64{10, 12}, from: 5, to: 11, fails: true},
		{name: "nothing behind", at: []int64{10, 12}, from: 11, to: 13, fails: true},
		{name: "nothing", fails: true},
	} {
		got, err := longestGap(c.at, c.from, c.to)
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: %v, %v, want %v", c.name, got, err, c.want)
		}
	}
}

func TestSeriesWaits(t *testing.T) {
	s := &series{}
	came := make(chan error, 1)
	go func() { came <- s.waitFor(t.Context(), "something", 10) }()
	s.add(10)
	s.add(11)
	if err := <-came; err != nil {
		t.Errorf("it came, but: %v", err)
	}
	broken := errors.New("broken")
	s.end(broken)
	s.end(errors.New("later"))
	if err := s.waitFor(t.Context(), "more", 11); !errors.Is(err, broken) {
		t.Errorf("a series that ended: %v", err)
	}
}

func TestWaitUntilEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	err := waitUntil(ctx, "never", time.Millisecond, func() (bool, error) {
		if asked++; asked == 3 {
			cancel()
		}
		return false, nil
	})
	if !errors.Is(err, context.Canceled) || asked < 3 {
		t.Errorf("asked %d times, %v", asked, err)
	}
}
