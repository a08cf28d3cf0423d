package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// campaign plays many cases in labs of its own, in an order that the seed decides. An ordinary test run plays a sample;
// with VZCLUSTER_CRASH=all everything is played, as far as the time allows, VZCLUSTER_CRASH_LABS side by side.
type campaign[T fmt.Stringer] struct {
	name   string
	rounds int     // how often each case is played
	sample int     // how many cases an ordinary test run plays
	share  float64 // of the time for all campaigns; what others leave is for the last one
	lab    func(t *testing.T, name string) *crashLab
	play   func(c *crashLab, what T) (outcome string)
}

// failed is the outcome of a case that found a fault.
const failed = "failed"

// wholeCampaign says whether all cases are wanted.
func wholeCampaign() bool { return os.Getenv("VZCLUSTER_CRASH") == "all" }

// run plays and returns how often there was each outcome.
func (g campaign[T]) run(t *testing.T, cases []T) map[string]int {
	t.Helper()
	b := newBook(t, g.name)
	turns := g.turns(b, cases)
	until, labs := time.Now().Add(sampleTime), 1
	if wholeCampaign() {
		all := time.Duration(number(t, "VZCLUSTER_CRASH_MINUTES", 85)) * time.Minute
		until = time.Now().Add(time.Duration(g.share * float64(all)))
		if end := shared.begun.Add(all); end.Before(until) {
			until = end
		}
		labs = number(t, "VZCLUSTER_CRASH_LABS", 1)
	}
	all := len(turns)
	var mu sync.Mutex
	next := func(take bool) (turn[T], int, bool) {
		mu.Lock()
		defer mu.Unlock()
		if len(turns) == 0 || time.Now().After(until) {
			return turn[T]{}, 0, false
		}
		first, n := turns[0], all-len(turns)
		if take {
			turns = turns[1:]
		}
		return first, n, true
	}
	work := func(t *testing.T, name string) {
		c := g.lab(t, name)
		for what, n, more := next(true); more; what, n, more = next(true) {
			g.turn(c, b, what, fmt.Sprintf("%s %d of %d", g.name, n, all))
		}
	}
	t.Run("labs", func(t *testing.T) {
		for n := range labs {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				for again := range mostLabs { // a lab that a failure has left in disorder is replaced
					if _, _, more := next(false); more {
						t.Run("", func(t *testing.T) { work(t, fmt.Sprintf("%s%d%d", g.name, n, again)) })
					}
				}
			})
		}
	})
	if len(turns) > 0 {
		t.Logf("%d of %d cases are left; VZCLUSTER_E2E_SEED=%d goes on with them", len(turns), all, b.seed)
	}
	t.Logf("%s: %v", g.name, b.outcomes)
	return b.outcomes
}

// mostLabs is how many labs may be spoilt.
const mostLabs = 8

// turn is a case in one of the rounds.
type turn[T fmt.Stringer] struct {
	round int
	what  T
}

func (t turn[T]) String() string { return fmt.Sprintf("%d\t%s", t.round, t.what) }

// turns lists what is to be played and was not yet. The order does not depend on which other cases there are, so that
// what a seed has played can be gone on with even if a rare point was not met this time.
func (g campaign[T]) turns(b *book, cases []T) (all []turn[T]) {
	only := os.Getenv("VZCLUSTER_CRASH_ONLY")
	for _, what := range cases {
		for round := range max(1, g.rounds) {
			next := turn[T]{round, what}
			if strings.Contains(what.String(), only) && !b.played[next.String()] {
				all = append(all, next)
			}
		}
	}
	place := func(t turn[T]) uint64 {
		h := fnv.New64a()
		fmt.Fprintf(h, "%d %s", b.seed, t)
		return h.Sum64()
	}
	slices.SortFunc(all, func(x, y turn[T]) int {
		return cmp.Or(cmp.Compare(x.round, y.round), cmp.Compare(place(x), place(y)))
	})
	if !wholeCampaign() && only == "" {
		all = all[:min(len(all), g.sample)]
	}
	return all
}

// turn plays one case.
func (g campaign[T]) turn(c *crashLab, b *book, what turn[T], name string) {
	from, outcome := time.Now(), failed
	c.during(func() { outcome = g.play(c, what.what) })
	took := time.Since(from).Seconds()
	fmt.Printf("%s, %s: %s, %.1f s\n", name, what.what, outcome, took)
	b.note(c.t, what.String(), outcome, took)
	if outcome == failed {
		c.mendAll()
		c.settles("after a failed case", calm)
	}
}

// book keeps what was played with a seed, so that a run that was interrupted can be gone on with.
type book struct {
	seed     uint64
	file     string // empty: nothing is kept
	mu       sync.Mutex
	played   map[string]bool // what ended well
	outcomes map[string]int
}

// newBook opens VZCLUSTER_CRASH_DIR/<seed>-<name>.
func newBook(t *testing.T, name string) *book {
	t.Helper()
	b := &book{seed: seedOf(t), played: map[string]bool{}, outcomes: map[string]int{}}
	dir := os.Getenv("VZCLUSTER_CRASH_DIR")
	if dir == "" {
		return b
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.file = filepath.Join(dir, fmt.Sprintf("%d-%s", b.seed, name))
	old, err := os.ReadFile(b.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(old)) {
		if f := strings.Split(strings.TrimSpace(line), "\t"); len(f) == 4 {
			b.played[f[0]+"\t"+f[1]] = f[2] != failed
		}
	}
	maps.DeleteFunc(b.played, func(_ string, well bool) bool { return !well })
	return b
}

func (b *book) note(t *testing.T, what, outcome string, seconds float64) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outcomes[outcome]++
	if b.file == "" {
		return
	}
	f, err := os.OpenFile(b.file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s\t%s\t%.1f\n", what, outcome, seconds); err != nil {
		t.Fatal(err)
	}
}
