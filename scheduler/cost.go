package scheduler

import (
	"fmt"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// What is assumed of a container that has never moved.
const (
	assumedRate     = 100 << 20 // bytes per second, as migrations assume it
	assumedBlackout = 1000.0    // milliseconds, as migrations assume it
)

// What a move may cost for each point of a hundred that it gains: so many seconds of copying, or milliseconds of silence.
const (
	secondsPerPoint  = 300
	blackoutPerPoint = 3000
)

// defaultGain is how many points of a hundred a move must gain at least, its price taken off.
const defaultGain = 1.0

// cost is what a container's next move is expected to cost, from what its last one has measured.
func (s Snapshot) cost(c cluster.Container) cluster.MoveCost {
	last := s.Moves[c.ID]
	cost := cluster.MoveCost{Assumed: last == nil}
	rate, memory, dirty := float64(assumedRate), int64(0), 0.0
	if last != nil && last.Bytes > 0 && last.TotalMS > last.BlackoutMS {
		rate = max(float64(last.Bytes)/(last.TotalMS/1000), 1<<20)
	}
	if last != nil {
		cost.Bytes = last.Layer
	}
	if c.State == cluster.Running {
		memory = c.Limits.RAM
		cost.BlackoutMS = assumedBlackout
		if last != nil && last.Memory > 0 {
			memory, dirty = min(memory, last.Memory), last.DirtyRate
		}
		if last != nil && last.BlackoutMS > 0 {
			cost.BlackoutMS = max(last.BlackoutMS, last.PredictedMS)
		}
	}
	cost.Bytes += memory
	cost.Seconds = float64(cost.Bytes) / rate
	if memory > 0 { // what is written meanwhile is sent again
		again := min(dirty/rate, mostDirty)
		cost.Seconds /= 1 - again
		cost.Bytes += int64(cost.Seconds * rate * again)
	}
	return cost
}

// mostDirty is the part of the rate that is taken to be spent on what changes meanwhile, at most.
const mostDirty = 0.75

// price is what a move must gain to be worth it, in points of a hundred of a host.
func price(c cluster.MoveCost) float64 {
	return c.Seconds/secondsPerPoint + c.BlackoutMS/blackoutPerPoint
}

// OverBudget says why a container would stand still for longer in a move than it may, or "".
func (s Snapshot) OverBudget(c cluster.Container) string {
	cost := s.cost(c)
	if c.State != cluster.Running || c.Rules.MaxDowntimeMS == 0 || cost.BlackoutMS <= float64(c.Rules.MaxDowntimeMS) {
		return ""
	}
	measured := "by its last move"
	if cost.Assumed {
		measured = "it has never moved"
	}
	return fmt.Sprintf("it would stand still for about %s (%s), and may for %s", millis(cost.BlackoutMS), measured, millis(float64(c.Rules.MaxDowntimeMS)))
}

func millis(ms float64) time.Duration {
	return time.Duration(ms * float64(time.Millisecond)).Round(time.Millisecond)
}

// resting says that a container has come where it is only lately, or "".
func (s Snapshot) resting(c cluster.Container) string {
	if s.Rest <= 0 || len(c.History) == 0 {
		return ""
	}
	for _, e := range c.History {
		if ago := s.Now.Sub(e.At); e.What == cluster.EventMoved && ago < s.Rest {
			return fmt.Sprintf("it was moved %s ago, and is left alone for %s", ago.Round(time.Second), s.Rest)
		}
	}
	return ""
}

// minGain is how many points a move must gain.
func (s Snapshot) minGain() float64 {
	if s.Gain > 0 {
		return s.Gain
	}
	return defaultGain
}
