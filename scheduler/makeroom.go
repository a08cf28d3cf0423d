package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/vzcluster/vzcluster/cluster"
)

// Preemption is a plan of moves that makes room for a container that fits nowhere.
type Preemption struct {
	Plan
	Host string // that has room afterwards; empty: no room can be made
}

// roomMoves bounds how many containers are moved for one, roomBudget how many sets of them are looked at.
const (
	roomMoves  = 16
	roomBudget = 20_000
)

// MakeRoom plans to move containers of a lower priority away, so that one which fits nowhere has room on a host: as few
// of them as possible, and of those the cheapest. Nothing is moved for what fits anyway. Containers that the cluster may
// not move by its own accord stay; what cannot be moved live is stopped for the move only where the request allows that,
// and only if there is no other way.
func MakeRoom(snap Snapshot, req Request) Preemption {
	p := NewPreempter(snap)
	if d := p.Place(req); d.Host != "" {
		return Preemption{Host: d.Host, Plan: Plan{Why: "nothing has to be moved: " + d.Why}}
	}
	return p.MakeRoom(req)
}

// Preempter is a Placer that can make room. Nothing may be Set on it.
type Preempter struct {
	Placer
	snap       Snapshot
	containers []cluster.Container // the i-th is the i-th item of the board
}

// NewPreempter returns a Preempter of the cluster as it is.
func NewPreempter(snap Snapshot) *Preempter {
	b, cs := snap.board()
	b.guard()
	return &Preempter{Placer{board: b, views: snap.hosts(), learned: snap.packs(), policy: snap.Policy, items: map[int]int{}}, snap, cs}
}

// MakeRoom is the function of that name for a container that Place found no host for. When there is a plan, the board is
// afterwards as if it had been carried out and the container were there.
func (p *Preempter) MakeRoom(req Request) Preemption {
	r := &roomMaker{b: p.board, snap: p.snap, cs: p.containers, req: req, may: make([]bool, len(p.containers))}
	lower, why := r.allow(false)
	if lower == 0 {
		return Preemption{Plan: Plan{Why: "there is nothing of a lower priority to be moved"}}
	}
	r.search()
	if r.best == nil && req.Rules.Preempt == cluster.PreemptOffline {
		_, why = r.allow(true)
		r.search()
	}
	if r.best == nil {
		if why != "" {
			why = "; " + why
		}
		return Preemption{Plan: Plan{Why: fmt.Sprintf("moving what has a lower priority (%s) makes no room either%s", count(lower, "container"), why)}}
	}
	for _, s := range r.best.steps {
		r.b.unsettle(s.Item)
		r.b.settle(s.Item, s.To)
	}
	r.b.settle(r.item, r.best.host)
	return r.plan()
}

// roomMaker looks for the moves that make room.
type roomMaker struct {
	b      *Board
	snap   Snapshot
	cs     []cluster.Container
	req    Request
	item   int    // the container that needs room
	may    []bool // which containers may be moved
	budget int
	best   *roomChoice
}

// roomChoice is a host, and the moves after which it has room.
type roomChoice struct {
	host  int
	steps []Step
	cost  int64
}

// allow notes what may be moved. It returns how many containers have a lower priority, and why one of them may not be.
func (r *roomMaker) allow(offline bool) (lower int, why string) {
	for i := range r.cs {
		c := r.cs[i]
		if r.b.Host(i) < 0 || c.Rules.Priority >= r.req.Rules.Priority {
			continue
		}
		lower++
		if offline {
			c.Verdict, c.Rules.MaxDowntimeMS = nil, 0
		}
		no := r.snap.unwilling(c)
		if c.InTrash() {
			no = "it is in the trash"
		}
		if no == "" && r.b.shut[r.b.Host(i)] == down {
			no = c.Host + " is down"
		}
		if r.may[i] = no == ""; no != "" && why == "" {
			why = fmt.Sprintf("%s must stay: %s", c.Name, no)
		}
	}
	return lower, why
}

// search looks at the hosts, those first that need the fewest moves.
func (r *roomMaker) search() {
	r.item = r.b.Add(Item{Need: r.req.Need, Rules: &r.req.Rules})
	r.budget = roomBudget
	type candidate struct{ host, least int }
	var hosts []candidate
	for h := range r.b.hosts {
		bars := r.b.shut[h] != "" || r.req.Rules.Bars(r.b.hosts[h]) != "" || r.b.Name(h) == r.req.Exclude
		if bars || r.req.Pin != "" && r.b.Name(h) != r.req.Pin {
			continue
		}
		if least := r.least(r.victims(h), r.lack(h)); least <= roomMoves {
			hosts = append(hosts, candidate{h, max(least, 1)})
		}
	}
	slices.SortFunc(hosts, func(x, y candidate) int { return cmp.Or(cmp.Compare(x.least, y.least), r.b.byRank(x.host, y.host)) })
	for _, c := range hosts {
		if r.best != nil && c.least > len(r.best.steps) {
			break
		}
		victims := r.victims(c.host)
		r.greedy(c.host, victims)
		for k := c.least; k <= min(len(victims), roomMoves) && r.budget > 0 && (r.best == nil || k <= len(r.best.steps)); k++ {
			r.exact(c.host, victims, nil, k, r.lack(c.host), 0)
		}
	}
}

// victims are the containers of a host that may be moved away, the cheapest first.
func (r *roomMaker) victims(host int) []int {
	var is []int
	for _, i := range r.b.items[host] {
		if int(i) < len(r.may) && r.may[i] {
			is = append(is, int(i))
		}
	}
	slices.SortFunc(is, func(x, y int) int { return cmp.Or(cmp.Compare(r.cost(x), r.cost(y)), cmp.Compare(x, y)) })
	return is
}

// cost is what the move of a container has to carry.
func (r *roomMaker) cost(i int) int64 { return r.snap.cost(r.cs[i]).Bytes }

// lack is what a host lacks for the container, negative where there is more than enough.
func (r *roomMaker) lack(host int) parts { return partsOf(r.req.Need.Sub(r.b.free[host])) }

// parts are resources as numbers that can be gone through.
type parts [6]int64

func partsOf(r cluster.Resources) parts {
	return parts{r.MilliCPU, r.RAM, r.Disk, int64(r.Network), r.Containers, r.Guaranteed}
}

func (p parts) covered() bool { return !slices.ContainsFunc(p[:], func(n int64) bool { return n > 0 }) }

func (p parts) sub(o parts) parts {
	for i := range p {
		p[i] -= o[i]
	}
	return p
}

// least is how many of the containers must go at least so that what is lacking is there; more than there can be if even
// all are too few.
func (r *roomMaker) least(victims []int, lack parts) (most int) {
	for k, n := range lack {
		if n <= 0 {
			continue
		}
		gives := make([]int64, len(victims))
		for i, v := range victims {
			gives[i] = partsOf(r.b.all[v].Need)[k]
		}
		slices.SortFunc(gives, func(x, y int64) int { return cmp.Compare(y, x) })
		taken := 0
		for n > 0 && taken < len(gives) {
			n -= gives[taken]
			taken++
		}
		if n > 0 {
			return math.MaxInt
		}
		most = max(most, taken)
	}
	return most
}

// exact tries all sets of k more victims that give what is lacking.
func (r *roomMaker) exact(host int, left, chosen []int, k int, lack parts, cost int64) {
	if k == 0 {
		if lack.covered() {
			r.try(host, chosen)
		}
		return
	}
	for n, v := range left {
		more := cost + r.cost(v)
		if r.budget--; r.budget < 0 || len(left)-n < k || !r.cheaper(len(chosen)+k, more) {
			return // those that follow cost no less
		}
		rest := lack.sub(partsOf(r.b.all[v].Need))
		if r.least(left[n+1:], rest) <= k-1 {
			r.exact(host, left[n+1:], append(slices.Clip(chosen), v), k-1, rest, more)
		}
	}
}

// greedy takes away what gives most of what is lacking until the container fits, then gives back what is not needed.
func (r *roomMaker) greedy(host int, victims []int) {
	var chosen []int
	for r.b.Why(r.item, host) != "" && len(chosen) < len(victims) && len(chosen) < roomMoves {
		best, most := -1, -1.0
		for _, v := range victims {
			if gain := r.gain(v, host); !slices.Contains(chosen, v) && gain > most {
				best, most = v, gain
			}
		}
		chosen = append(chosen, best)
		r.b.Take(best)
	}
	for _, v := range slices.Clone(chosen) {
		r.b.Put(v, host)
		if r.b.Why(r.item, host) == "" {
			chosen = slices.DeleteFunc(chosen, func(x int) bool { return x == v })
			continue
		}
		r.b.Take(v)
	}
	for _, v := range chosen {
		r.b.Put(v, host)
	}
	if len(chosen) > 0 {
		r.try(host, chosen)
	}
}

// gain is how much of what is lacking on a host the container would give, by the share of each resource. One of the
// same group counts more when the group is the obstacle.
func (r *roomMaker) gain(v, host int) (sum float64) {
	lack, gives := r.lack(host), partsOf(r.b.all[v].Need)
	for k, n := range lack {
		if n > 0 {
			sum += float64(min(gives[k], n)) / float64(n)
		}
	}
	if r.b.all[v].Rules.Group == r.req.Rules.Group && !r.b.takes(&r.req.Rules, host) {
		sum += float64(len(lack))
	}
	return sum
}

// cheaper reports whether so many moves at this cost are better than the best known.
func (r *roomMaker) cheaper(moves int, cost int64) bool {
	return r.best == nil || moves < len(r.best.steps) || moves == len(r.best.steps) && cost < r.best.cost
}

// try finds homes for the chosen containers and remembers the moves if they are the best. The board is afterwards as
// before.
func (r *roomMaker) try(host int, chosen []int) {
	steps, ok := r.rehouse(host, chosen)
	if ok && r.b.Why(r.item, host) == "" && r.safe(host) {
		var cost int64
		for _, s := range steps {
			cost += r.cost(s.Item)
		}
		if len(steps) <= roomMoves && r.cheaper(len(steps), cost) {
			r.best = &roomChoice{host, steps, cost}
		}
	}
	r.b.Undo(steps)
}

// safe says whether every loss of a host is survived as well as before when the container has come too.
func (r *roomMaker) safe(host int) bool {
	if r.b.safe == nil {
		return true
	}
	r.budget -= len(r.b.hosts)
	r.b.Put(r.item, host)
	after := newSurvival(r.b)
	r.b.Take(r.item)
	for h, lost := range after.lost {
		if lost > r.b.safe.lost[h] {
			return false
		}
	}
	return true
}

// rehouse moves the chosen containers off a host, the biggest first: each to where it suits best, or all packed tightly,
// or with another container moved aside for them.
func (r *roomMaker) rehouse(host int, chosen []int) ([]Step, bool) {
	items := slices.Clone(chosen)
	slices.SortFunc(items, func(x, y int) int {
		return cmp.Or(cmp.Compare(r.b.size(&r.b.all[y]), r.b.size(&r.b.all[x])), cmp.Compare(x, y))
	})
	if steps, ok := r.eachTo(items, host, nil); ok {
		return steps, true
	}
	if r.b.pack(items, func(h int) bool { return h != host }) {
		steps := make([]Step, len(items))
		for k, i := range items {
			steps[k] = Step{i, host, r.b.Host(i)}
		}
		return steps, true
	}
	return r.eachTo(items, host, r.aside)
}

// eachTo moves containers one after the other. Aside makes the room for one that fits nowhere; it may be nil.
func (r *roomMaker) eachTo(items []int, host int, aside func(v, host int) (Step, bool)) (steps []Step, ok bool) {
	for _, v := range items {
		r.b.Take(v)
		to := r.b.Choose(v, func(h int) bool { return h == host })
		if to < 0 && aside != nil {
			if s, ok := aside(v, host); ok {
				steps, to = append(steps, s), s.From
			}
		}
		if to < 0 {
			r.b.Put(v, host)
			r.b.Undo(steps)
			return nil, false
		}
		r.b.Put(v, to)
		steps = append(steps, Step{v, host, to})
	}
	return steps, true
}

// aside moves one container to a third host, so that a second one has room for a container that is nowhere.
func (r *roomMaker) aside(v, host int) (Step, bool) {
	it := &r.b.all[v]
	for h := range r.b.hosts {
		if h == host || r.b.shut[h] != "" || it.Rules.Bars(r.b.hosts[h]) != "" {
			continue
		}
		for _, j := range r.victims(h) {
			if r.budget--; r.budget < 0 {
				return Step{}, false
			}
			if !r.b.free[h].Add(r.b.all[j].Need).Fits(it.Need) {
				continue
			}
			r.b.Take(j)
			to := r.b.Choose(j, func(x int) bool { return x == h || x == host })
			if to >= 0 && r.b.takes(it.Rules, h) {
				r.b.Put(j, to)
				return Step{j, h, to}, true
			}
			r.b.Put(j, h)
		}
	}
	return Step{}, false
}

// plan puts the best moves into words.
func (r *roomMaker) plan() Preemption {
	p := Preemption{Host: r.b.Name(r.best.host)}
	var bytes int64
	for _, s := range r.best.steps {
		c := &r.cs[s.Item]
		from, to := r.b.Name(s.From), r.b.Name(s.To)
		why := fmt.Sprintf("it makes room on %s for a container of priority %d, its own is %d", p.Host, r.req.Rules.Priority, c.Rules.Priority)
		if from != p.Host {
			why = fmt.Sprintf("it makes room on %s for what leaves %s, its priority is %d", from, p.Host, c.Rules.Priority)
		}
		move := cluster.Move{Container: c.ID, Name: c.Name, From: from, To: to, Why: why, Cost: r.snap.cost(*c)}
		if no := cmp.Or(c.Immovable(), r.snap.OverBudget(*c)); no != "" && c.State == cluster.Running {
			move.Mode, move.Why = cluster.ModeNearLive, move.Why+"; it is stopped for that: "+no
		}
		p.Moves = append(p.Moves, move)
		bytes += r.cost(s.Item)
	}
	p.Why = fmt.Sprintf("%s (%s to copy) make room on %s", count(len(p.Moves), "move"), cluster.Bytes(bytes), p.Host)
	return p
}
