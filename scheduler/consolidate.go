package scheduler

import (
	"cmp"
	"fmt"
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
func Consolidate(snap Snapshot, limit int) Plan {
	b, cs := snap.board()
	c := consolidation{snap: snap, hosts: snap.hosts(), limit: limit, on: map[string][]cluster.Container{}, board: b, index: map[int]int{}}
	for i := range cs {
		c.index[cs[i].ID] = i
		b.all[i].fixed = snap.unwilling(cs[i]) != ""
	}
	for _, h := range c.hosts {
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
	var best *choice
	if len(c.freeable) <= exactHosts {
		best = c.exact()
	} else if plan := c.compact(cs); len(plan.Moves) > 0 {
		return plan
	}
	if best == nil {
		return Plan{Why: c.nothing()}
	}
	return c.plan(*best)
}

type consolidation struct {
	snap     Snapshot
	board    *Board
	index    map[int]int // of containers on the board
	hosts    []HostView
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
	for _, ct := range c.on[h.Name] {
		if why := c.snap.unwilling(ct); why != "" {
			return fmt.Sprintf("%s holds %s: %s", h.Name, ct.Name, why)
		}
	}
	if !sum(c.on[h.Name]).Fits(h.Reserved) {
		return "a migration to " + h.Name + " is under way"
	}
	return ""
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
	if !c.board.pack(items, func(h int) bool { return !without[c.board.Name(h)] }) {
		return false
	}
	ch.to = make([]string, len(items))
	for k, i := range items {
		ch.to[k] = c.board.Name(c.board.Host(i))
		c.board.Take(i)
		c.board.Put(i, c.board.Find(ch.items[k].Host))
	}
	return true
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
func (c *consolidation) compact(cs []cluster.Container) Plan {
	keep := func(h int) bool { return !slices.Contains(c.freeable, c.board.Name(h)) }
	steps := c.board.Compact(Compaction{Keep: keep, MaxHosts: c.limit})
	var plan Plan
	var bytes int64
	receivers := map[string]bool{}
	for _, s := range steps {
		ct := cs[s.Item]
		from, to := c.board.Name(s.From), c.board.Name(s.To)
		why := c.why(ct, to)
		if len(c.board.items[s.From]) > 0 {
			why = fmt.Sprintf("%s makes room on %s for what comes from a host that is freed", ct.Name, from)
		}
		plan.Moves = append(plan.Moves, cluster.Move{Container: ct.ID, Name: ct.Name, From: from, To: to, Why: why})
		bytes += ct.Limits.RAM
		receivers[to] = true
	}
	for h := range c.board.hosts {
		if name := c.board.Name(h); len(c.board.items[h]) == 0 && len(c.on[name]) > 0 {
			plan.Freed = append(plan.Freed, name)
		}
	}
	plan.Why = fmt.Sprintf("%s can be freed by %s (%s of memory) to %s", list(plan.Freed), count(len(plan.Moves), "move"),
		cluster.Bytes(bytes), count(len(receivers), "host"))
	return plan
}

func (c *consolidation) plan(ch choice) Plan {
	slices.Sort(ch.freed)
	receivers := slices.Compact(slices.Sorted(slices.Values(ch.to)))
	moves := make([]cluster.Move, len(ch.items))
	for i, ct := range ch.items {
		moves[i] = cluster.Move{Container: ct.ID, Name: ct.Name, From: ct.Host, To: ch.to[i], Why: c.why(ct, ch.to[i])}
	}
	// Host by host, so that a plan that is stopped half-way has emptied some hosts rather than none.
	slices.SortStableFunc(moves, func(a, b cluster.Move) int { return c.byCost(a.From, b.From) })
	return Plan{Moves: moves, Freed: ch.freed, Why: fmt.Sprintf("%s can be freed by %s (%s of memory) to %s",
		list(ch.freed), count(len(moves), "move"), cluster.Bytes(sum(ch.items).RAM), list(receivers))}
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
	}
	if len(c.kept) > 0 {
		why += "; " + strings.Join(c.kept, "; ")
	}
	if len(c.freeable) == c.empty && len(c.kept) == 0 {
		why += ": none has containers"
	}
	return why
}
