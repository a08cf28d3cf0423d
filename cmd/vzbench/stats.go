package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// percentile is the smallest sample that p percent of the samples do not exceed; 0 of no samples.
func percentile(samples []float64, p float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(samples))
	rank := int(math.Ceil(p / 100 * float64(len(s))))
	return s[min(max(rank, 1), len(s))-1]
}

// median is the middle sample, or the mean of the two in the middle.
func median(samples []float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(samples))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// longestGap returns the longest pause between two neighbours of an ascending series that was at least partly between
// from and to. All are nanoseconds since 1970. It is an error when nothing came before from or after to: the pause's
// length is not known then.
func longestGap(at []int64, from, to int64) (time.Duration, error) {
	if len(at) == 0 || at[0] > from {
		return 0, errors.New("nothing was received before the move")
	}
	if at[len(at)-1] < to {
		return 0, errors.New("nothing was received after the move")
	}
	var longest int64
	for i := 1; i < len(at); i++ {
		if at[i] >= from && at[i-1] <= to {
			longest = max(longest, at[i]-at[i-1])
		}
	}
	return time.Duration(longest), nil
}

// series is when something came, written by one goroutine and read by others.
type series struct {
	mu  sync.Mutex
	at  []int64 // nanoseconds since 1970, ascending
	err error   // why nothing more comes
}

func (s *series) add(ns int64) {
	s.mu.Lock()
	s.at = append(s.at, ns)
	s.mu.Unlock()
}

func (s *series) end(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
}

// last returns when the last one came (0: none did), and why no more will, if so.
func (s *series) last() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.at) == 0 {
		return 0, s.err
	}
	return s.at[len(s.at)-1], s.err
}

// waitFor returns when something came after the given time.
func (s *series) waitFor(ctx context.Context, what string, after int64) error {
	return waitUntil(ctx, what, 5*time.Millisecond, func() (bool, error) {
		last, err := s.last()
		return last > after, err
	})
}

// gap is longestGap over what came so far.
func (s *series) gap(from, to int64) (time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return longestGap(s.at, from, to)
}

// patience bounds every wait for something that takes a few seconds at most.
const patience = 60 * time.Second

// waitUntil asks again and again until the answer is yes or an error.
func waitUntil(ctx context.Context, what string, every time.Duration, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if yes, err := ask(); yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// ms is a duration in milliseconds.
func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
