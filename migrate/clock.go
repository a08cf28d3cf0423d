package migrate

import (
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// stopwatch times phases that follow each other.
type stopwatch struct {
	start, last time.Time
	laps        []cluster.Phase
}

func newStopwatch() *stopwatch {
	now := time.Now()
	return &stopwatch{start: now, last: now}
}

// lap ends a phase; without a name its time counts to the next one.
func (s *stopwatch) lap(name string) {
	if name == "" {
		return
	}
	now := time.Now()
	s.laps = append(s.laps, cluster.Phase{Name: name, MS: milliseconds(now.Sub(s.last))})
	s.last = now
}

func (s *stopwatch) total() time.Duration    { return time.Since(s.start) }
func (s *stopwatch) phases() []cluster.Phase { return s.laps }

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}
