package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/runtime/fault"
)

// TestCriuIsKilledWhileItDumps kills CRIU at random moments of a dump, again and again. The container goes on where it
// was, its connection unharmed or not, or is restarted from its disk and says so; never two, never none. The dump is
// followed by a failure, so that a kill that came too late does not cost a whole move.
func TestCriuIsKilledWhileItDumps(t *testing.T) {
	c, random := newCrashLab(t, "dump", 3), moments(t)
	kills, outcomes := number(t, "VZCLUSTER_CRASH_KILLS", 5), map[string]int{}
	s := scene{name: "dump", harms: []harm{{"source", "source.images", 1, fault.Fail}}}
	longest, killed := 50*time.Millisecond, 0
	for i := 0; killed < kills && i < 6*kills; i++ {
		after := time.Duration(random.Int64N(int64(longest)))
		n, outcome := 0, "failed"
		c.during(fmt.Sprint(i), func() { n, outcome = c.killDump(s, after) })
		if n == 0 {
			longest = max(10*time.Millisecond, longest*9/10) // they end sooner than that here
			continue
		}
		longest = min(200*time.Millisecond, longest*23/20)
		killed++
		outcomes[outcome]++
		fmt.Printf("dump %d killed after %s: %s\n", i, after.Round(time.Millisecond), outcome)
		if outcome == "failed" {
			c.settles("after a failed case", calm)
		}
	}
	t.Logf("%d kills: %v", killed, outcomes)
	if killed < kills {
		t.Errorf("only %d of %d kills met a CRIU at work", killed, kills)
	}
}

// atWork is how long criu may take to begin.
const atWork = 2 * time.Second

// killDump begins a move and kills the CRIU of the source a while after it began to work.
func (c *crashLab) killDump(s scene, after time.Duration) (killed int, outcome string) {
	c.t.Helper()
	who := c.cast()
	c.witness.fresh()
	defer c.disarm()
	for _, h := range s.harms {
		c.arm(who, h)
	}
	started := harm{"source", "source.dump", 1, fault.Hold} // criu waits already, and gets to work now
	c.arm(who, started)
	op := make(chan string, 1)
	go func() { op <- c.move(who, s.mode) }()
	cs := crashCase{scene: s, harm: started}
	if c.awaitPoint(who, cs, op) {
		if err := os.Remove(c.file(who, started) + fault.Reached); err != nil {
			c.t.Fatal(err)
		}
		ended := make(chan struct{})
		timer := time.AfterFunc(atWork, func() { close(ended) })
		killed = c.killCriu(who["source"], after, ended)
		timer.Stop()
	}
	return killed, c.settles(fmt.Sprintf("criu killed after %s", after), aftermath)
}
