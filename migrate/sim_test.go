package migrate

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The simulation runs the production state, mover and stages of both sides with a fake clock, network, disk and kernel.
// Everything that they do to the world is an event that waits until the scheduler, which a seed drives, lets it happen;
// between two events the witness looks at the world. docs/migration.md says how a seed is replayed.
var (
	simSchedules = flag.Int("sim.schedules", 20_000, "how many schedules to simulate")
	simSeed      = flag.Uint64("sim.seed", 0, "simulate only this seed, and print its trace")
	simFirst     = flag.Uint64("sim.first", 1, "the first seed; 0: a random one")
)

// simulate runs one schedule and returns its trace and what must never be.
func simulate(t *testing.T, seed uint64, verbose bool) (trace string, violations []string) {
	synctest.Test(t, func(*testing.T) {
		s := newSim(seed)
		s.verbose = verbose
		s.run()
		trace, violations = string(s.trace), s.violations
	})
	return trace, violations
}

func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		trace, violations := simulate(t, *simSeed, true)
		t.Logf("seed %d:\n%s", *simSeed, trace)
		for _, v := range violations {
			t.Error(v)
		}
		return
	}
	first := *simFirst
	if first == 0 {
		first = rand.Uint64() >> 20
	}
	schedules := int64(*simSchedules)
	if testing.Short() {
		schedules = min(schedules, 3_000)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // streams have large buffers
	began := time.Now()
	var count, failed atomic.Int64
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for failed.Load() < 3 {
				n := count.Add(1)
				if n > schedules {
					count.Add(-1)
					return
				}
				seed := first + uint64(n)
				if _, violations := simulate(t, seed, false); len(violations) > 0 {
					failed.Add(1)
					t.Errorf("seed %d: %v\n  replay: go test ./migrate -run TestSimulation -v -sim.seed=%d", seed, violations, seed)
				}
			}
		})
	}
	workers.Wait()
	took := time.Since(began)
	fmt.Fprintf(os.Stderr, "simulated %d schedules from seed %d in %v: %.0f a minute\n", count.Load(), first+1, took.Round(time.Millisecond), float64(count.Load())/took.Minutes())
}

// TestSimulationReplays: the same seed twice is the same run, to the last event.
func TestSimulationReplays(t *testing.T) {
	first := rand.Uint64() >> 20
	for seed := first; seed < first+50; seed++ {
		one, _ := simulate(t, seed, false)
		two, _ := simulate(t, seed, false)
		if one != two {
			t.Fatalf("seed %d ran in two ways:\n%s", seed, firstDifference(one, two))
		}
	}
}

// firstDifference shows where two traces part.
func firstDifference(one, two string) string {
	i := 0
	for i < len(one) && i < len(two) && one[i] == two[i] {
		i++
	}
	from := max(0, i-300)
	return fmt.Sprintf("... %s\n--- or ---\n... %s", one[from:min(len(one), i+200)], two[from:min(len(two), i+200)])
}
