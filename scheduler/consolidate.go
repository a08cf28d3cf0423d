package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"github.com/vzcluster/vzcluster/cluster"
)

// exactHosts is up to how many hosts every choice of hosts to free is looked at; above it hosts are freed greedily.
const exactHosts = 10

// Consolidate plans to empty as many hosts as possible, but at most limit of them (0: no limit), moving as little
// memory as possible. Containers move only from hosts that become empty to hosts that stay in use. A host stays in
// use if it is down or holds a container that can't be moved now; a cordoned host can be emptied but takes nothing.
//
// If losses of hosts are to be survived, they still are when the hosts that are empty then are gone.
func Consolidate(snap Snapshot, limit int) Plan {
	var first *consolidation
	freed := 0
	moves := snap.until(func(s Snapshot) []cluster.Move {
		if limit > 0 && freed >= limit {
			return nil
		}
		c := newConsolidation(s, max(limit-freed, 0))
		if first == nil {
			first = c
		}
		moves, n := c.moves()
		freed += n
		return moves
	})
	if len(moves) == 0 {
		return Plan{Why: first.nothing(), Kept: first.kept}
	}
	return first.plan(moves)
}

func newConsolidation(snap Snapshot, limit int) *consolidation {
	c := &consolidation{planner: newPlanner(snap), limit: limit, on: map[string][]cluster.Container{}, index: map[int]int{}}
	for i := range c.cs {
		c.index[c.cs[i].ID] = i
	}
	if snap.Policy.Survive {
		c.before = newSurvival(c.Board)
	}
	for _, h := range snap.hosts() {
		c.on[h.Name] = snap.on(h.Name)
		if why := c.stuck(h); why == "" {
			c.freeable = append(c.freeable, h.Name)
			if len(c.on[h.Name]) == 0 {
				c.empty++
			}
		} else {
			c.kept = append(c.kept, why)
		}
	}
	return c
}

// moves frees as many hosts as can be, and says how many.
func (c *consolidation) moves() (moves []cluster.Move, freed int) {
	if len(c.freeable) <= exactHosts {
		if best := c.exact(); best != nil {
			return c.chosen(*best), len(best.freed)
		}
		return nil, 0
	}
	return c.compact()
}

type consolidation struct {
	*planner
	index    map[int]int // of containers on the board
	before   *survival   // what losses of hosts mean now; nil: that is not asked
	unsafe   bool        // fewer hosts would do, but not if one of them died
	limit    int
	on       map[string][]cluster.Container
	freeable []string // hosts that are or can become empty
	empty    int      // how many of them are empty now
	kept     []string // why the others are not freeable
}

// choice is a set of hosts that shall be empty, what must move for that, and where to.
type choice struct {
	hosts []string
	freed []string // those that are not empty now
	items []cluster.Container
	to    []string
}

// stuck says why a host cannot become empty, or "".
func (c *consolidation) stuck(h HostView) string {
	if !h.Alive {
		return h.Name + " is down"
	}
	if h.Fresh && len(c.on[h.Name]) > 0 {
		return h.Name + " takes containers only since lately"
	}
	for _, ct := range c.on[h.Name] {
		if why := c.snap.unwilling(ct); why != "" {
			return fmt.Sprintf("%s holds %s: %s", h.Name, ct.Name, why)
		}
	}
	if !sum(c.on[h.Name]).Fits(h.Reserved) {
		return "a migration to " + h.Name + " is under way"
	}
	if cost := c.price(c.on[h.Name]); cost > hostWorth-c.snap.minGain() {
		return fmt.Sprintf("to free %s costs more than it gains: %.0f points for its moves, a host is worth %.0f", h.Name, cost, float64(hostWorth))
	}
	return ""
}

// hostWorth is what a free host is worth, in points of a hundred of a host.
const hostWorth = 100

func (c *consolidation) price(all []cluster.Container) (sum float64) {
	for _, ct := range all {
		sum += price(c.snap.cost(ct))
	}
	return sum
}

// safe says whether no loss of a host is harder to survive than before, the hosts that are empty on the board left out.
func (c *consolidation) safe() bool {
	if c.before == nil {
		return true
	}
	var shut []int
	for h := range c.hosts {
		if len(c.items[h]) == 0 && c.shut[h] == "" {
			shut = append(shut, h)
			c.shut[h] = "free"
		}
	}
	after, ok := newSurvival(c.Board), true
	for h := range c.hosts {
		ok = ok && after.lost[h] <= c.before.lost[h]
	}
	for _, h := range shut {
		c.shut[h] = ""
	}
	c.unsafe = c.unsafe || !ok
	return ok
}

// choose makes the choice of a set of hosts.
func (c *consolidation) choose(hosts []string) choice {
	ch := choice{hosts: hosts}
	for _, h := range hosts {
		if len(c.on[h]) > 0 {
			ch.freed = append(ch.freed, h)
			ch.items = append(ch.items, c.on[h]...)
		}
	}
	slices.SortFunc(ch.items, biggerFirst)
	return ch
}

// worth reports whether a choice gains a host and keeps the limit.
func (c *consolidation) worth(ch choice) bool {
	return len(ch.hosts) > c.empty && (c.limit <= 0 || len(ch.freed) <= c.limit)
}

// pack finds places for everything that a choice moves.
func (c *consolidation) pack(ch *choice) bool {
	without := map[string]bool{}
	for _, h := range ch.hosts {
		without[h] = true
	}
	items := make([]int, len(ch.items))
	for i, ct := range ch.items {
		items[i] = c.index[ct.ID]
	}
	if !c.Board.pack(items, func(h int) bool { return !without[c.Name(h)] }) {
		return false
	}
	ok := c.safe()
	ch.to = make([]string, len(items))
	for k, i := range items {
		ch.to[k] = c.Name(c.Host(i))
		c.Take(i)
		c.Put(i, c.Find(ch.items[k].Host))
	}
	return ok
}

// exact looks at every set of hosts, those with the most hosts and the least memory to move first.
func (c *consolidation) exact() *choice {
	var choices []choice
	for set := uint(1); set < 1<<len(c.freeable); set++ {
		hosts := make([]string, 0, bits.OnesCount(set))
		for i, h := range c.freeable {
			if set&(1<<i) != 0 {
				hosts = append(hosts, h)
			}
		}
		if ch := c.choose(hosts); c.worth(ch) {
			choices = append(choices, ch)
		}
	}
	slices.SortFunc(choices, func(a, b choice) int {
		return cmp.Or(cmp.Compare(len(b.hosts), len(a.hosts)), cmp.Compare(sum(a.items).RAM, sum(b.items).RAM),
			cmp.Compare(len(a.items), len(b.items)), slices.Compare(a.hosts, b.hosts))
	})
	for i := range choices {
		if c.pack(&choices[i]) {
			return &choices[i]
		}
	}
	return nil
}

// compact plans for many hosts, where not every choice can be looked at.
func (c *consolidation) compact() (moves []cluster.Move, freed int) {
	bounds := Compaction{Keep: func(h int) bool { return !slices.Contains(c.freeable, c.Name(h)) }, MaxHosts: c.limit}
	if c.before != nil {
		bounds.Safe = c.safe
	}
	steps := c.Compact(bounds)
	for _, s := range steps {
		ct := c.cs[s.Item]
		why := c.why(ct, c.Name(s.To))
		if len(c.items[s.From]) > 0 {
			why = fmt.Sprintf("%s makes room on %s for what comes from a host that is freed", ct.Name, c.Name(s.From))
		}
		moves = append(moves, c.move(s, why, c.gain(ct, s)))
	}
	return moves, len(c.freed())
}

// gain is a move's part in a free host.
func (c *consolidation) gain(ct cluster.Container, s Step) float64 {
	if len(c.items[s.From]) > 0 {
		return 0
	}
	return hostWorth / float64(max(len(c.on[ct.Host]), 1))
}

// freed are the hosts that are empty on the board and were not at first.
func (c *consolidation) freed() (names []string) {
	for h := range c.hosts {
		if name := c.Name(h); len(c.items[h]) == 0 && len(c.on[name]) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// chosen are the moves of a choice.
func (c *consolidation) chosen(ch choice) []cluster.Move {
	moves := make([]cluster.Move, len(ch.items))
	for k, ct := range ch.items {
		s := Step{c.index[ct.ID], c.Find(ct.Host), c.Find(ch.to[k])}
		moves[k] = c.move(s, c.why(ct, ch.to[k]), hostWorth/float64(len(c.on[ct.Host])))
	}
	// Host by host, so that a plan that is stopped half-way has emptied some hosts rather than none.
	slices.SortStableFunc(moves, func(a, b cluster.Move) int { return c.byCost(a.From, b.From) })
	return moves
}

// plan describes moves from where the consolidation began.
func (c *consolidation) plan(moves []cluster.Move) Plan {
	end := newConsolidation(c.snap.after(moves), 0)
	end.on = c.on
	var bytes int64
	receivers := map[string]bool{}
	for _, m := range moves {
		bytes += c.cs[c.index[m.Container]].Limits.RAM
		receivers[m.To] = true
	}
	plan := Plan{Moves: moves, Freed: end.freed(), Kept: c.kept}
	plan.Why = fmt.Sprintf("%s can be freed by %s (%s of memory) to %s", list(plan.Freed), count(len(moves), "move"),
		cluster.Bytes(bytes), list(slices.Sorted(maps.Keys(receivers))))
	return plan
}

func (c *consolidation) why(ct cluster.Container, to string) string {
	all := c.on[ct.Host]
	return fmt.Sprintf("%s can be freed: its %s (%s of memory) fit elsewhere; %s goes to %s", ct.Host,
		count(len(all), "container"), cluster.Bytes(sum(all).RAM), ct.Name, to)
}

func (c *consolidation) byCost(a, b string) int {
	return cmp.Or(cmp.Compare(sum(c.on[a]).RAM, sum(c.on[b]).RAM), strings.Compare(a, b))
}

// nothing says why no host can be freed.
func (c *consolidation) nothing() string {
	why := "no host can be freed"
	if len(c.freeable) > c.empty {
		why += ": what is on one does not fit on the others"
		if c.unsafe {
			why += " so that the loss of any one of those could be survived"
		}
	}
	if len(c.kept) > 0 {
		why += "; " + strings.Join(c.kept, "; ")
	}
	if len(c.freeable) == c.empty && len(c.kept) == 0 {
		why += ": none has containers"
	}
	return why
}
