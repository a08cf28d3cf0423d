package simulate

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/vzcluster/vzcluster/cluster"
)

// Verify follows a result from the files it was made of, move by move, and says what is wrong with it, nil when nothing
// is. It shares no code with what made the result: it knows hosts' sizes, limits per host and budgets of moves, and adds
// up by itself. The moves of one step run together: each takes room on both hosts until the step has ended.
func Verify(hosts []*cluster.Host, all []Container, o Options, r *Result) error {
	v := &verifier{options: o, result: r, all: all, spots: map[string]*spot{}, index: map[string]int{}, at: make([]string, len(all))}
	for _, h := range hosts {
		v.spots[h.Name] = &spot{name: h.Name, free: h.Capacity, groups: map[string][]int{}}
	}
	for i, c := range all {
		v.index[c.Name] = i
	}
	if err := v.begin(); err != nil {
		return err
	}
	var err error
	if o.Plan == Replay {
		err = v.events()
	} else {
		err = v.still()
	}
	if err != nil {
		return err
	}
	return v.end()
}

type verifier struct {
	options Options
	result  *Result
	all     []Container
	spots   map[string]*spot
	index   map[string]int
	at      []string // where each container is, empty: nowhere
	goal    []string // where each one is in the end
	birth   []string // and where it was put first
	next    int      // the first move that was not made yet
	busy    int      // hosts with containers
	most    int      // of them, at any time
	hostSec int64
}

// spot is a host with what is on it: for each group the limits of its containers, 0 for none.
type spot struct {
	name   string
	free   cluster.Resources
	groups map[string][]int
	count  int
}

// begin finds out where each container was put first: it is where it ends, or where its first move begins.
func (v *verifier) begin() error {
	r := v.result
	if len(r.Placement) != len(v.all) {
		return fmt.Errorf("%d containers have a line in the placement, there are %d", len(r.Placement), len(v.all))
	}
	v.goal, v.birth = make([]string, len(v.all)), make([]string, len(v.all))
	placed := 0
	for i, p := range r.Placement {
		if p.Container != v.all[i].Name {
			return fmt.Errorf("line %d of the placement is about %s, not about %s", i+1, p.Container, v.all[i].Name)
		}
		if v.goal[i], v.birth[i] = p.Host, p.Host; p.Host != "" {
			placed++
		}
	}
	if placed != r.Placed || len(v.all)-placed != r.Unplaced || len(r.Plan) != r.Moves {
		return fmt.Errorf("%d placed, %d not, %d moves are reported; it is %d, %d, %d", r.Placed, r.Unplaced, r.Moves, placed, len(v.all)-placed, len(r.Plan))
	}
	for _, m := range slices.Backward(r.Plan) {
		i, ok := v.index[m.Container]
		if !ok {
			return fmt.Errorf("step %d moves %s, which there is not", m.Step, m.Container)
		}
		v.birth[i] = m.From
	}
	if limit := v.options.MaxMoves; limit > 0 && len(r.Plan) > limit {
		return fmt.Errorf("%d moves, %d are allowed", len(r.Plan), limit)
	}
	return nil
}

// still is a run without time: everything is put where it begins, and then the moves are made.
func (v *verifier) still() error {
	for i, c := range v.all {
		if v.options.Plan == Consolidate && c.Host != v.birth[i] || c.Host != "" && c.Host != v.birth[i] {
			return fmt.Errorf("%s is on %q, but the result begins with %q", c.Name, c.Host, v.birth[i])
		}
		if err := v.put(i, v.birth[i]); err != nil {
			return err
		}
	}
	if err := v.moves(len(v.result.Plan)); err != nil {
		return err
	}
	v.most = v.busy
	return nil
}

// moment is a second in which containers leave and come, and the index of what happens first in it.
type moment struct {
	at    int64
	leave bool
	item  int
}

// events follows time, and makes the moves after the events that they were made after.
func (v *verifier) events() error {
	var all []moment
	for i, c := range v.all {
		all = append(all, moment{c.Arrive, false, i})
		if c.Depart != never {
			all = append(all, moment{c.Depart, true, i})
		}
	}
	slices.SortStableFunc(all, func(a, b moment) int {
		before := 0
		if a.leave && !b.leave {
			before = -1
		} else if b.leave && !a.leave {
			before = 1
		}
		return cmp.Or(cmp.Compare(a.at, b.at), before)
	})
	arrived, now := 0, int64(0)
	for k, m := range all {
		v.hostSec += int64(v.busy) * (m.at - now)
		now = m.at
		if err := v.happen(m); err != nil {
			return fmt.Errorf("at %d s: %w", m.at, err)
		}
		if !m.leave && m.at > 0 {
			arrived++
		}
		n := v.next
		for n < len(v.result.Plan) && v.result.Plan[n].event == k {
			n++
		}
		if rate := v.options.MovesPerArrival; float64(n) > rate*float64(arrived)+1e-6 && (rate > 0 || v.options.MaxMoves == 0) {
			return fmt.Errorf("at %d s: %d moves after %d arrivals, %g are allowed for each", m.at, n, arrived, rate)
		}
		if err := v.moves(n); err != nil {
			return fmt.Errorf("at %d s: %w", m.at, err)
		}
		v.most = max(v.most, v.busy)
	}
	if v.next < len(v.result.Plan) {
		return fmt.Errorf("step %d comes after nothing that happens", v.result.Plan[v.next].Step)
	}
	return nil
}

func (v *verifier) happen(m moment) error {
	if !m.leave {
		return v.put(m.item, v.birth[m.item])
	}
	if v.at[m.item] != "" {
		if v.at[m.item] != v.goal[m.item] {
			return fmt.Errorf("%s leaves from %s, the placement has it on %s", v.all[m.item].Name, v.at[m.item], v.goal[m.item])
		}
		v.leave(m.item, v.at[m.item])
		v.at[m.item] = ""
	}
	return nil
}

// moves makes the moves up to the n-th, step by step.
func (v *verifier) moves(n int) error {
	plan := v.result.Plan
	for v.next < n {
		end := v.next
		for ; end < n && plan[end].Step == plan[v.next].Step; end++ {
			m := plan[end]
			i := v.index[m.Container]
			if v.at[i] != m.From || m.From == m.To || m.From == "" {
				return fmt.Errorf("step %d moves %s from %q to %q, but it is on %q", m.Step, m.Container, m.From, m.To, v.at[i])
			}
			if err := v.put(i, m.To); err != nil {
				return fmt.Errorf("step %d: %w", m.Step, err)
			}
		}
		if end < len(plan) && plan[end].Step <= plan[v.next].Step {
			return fmt.Errorf("step %d comes after step %d", plan[end].Step, plan[v.next].Step)
		}
		for ; v.next < end; v.next++ {
			v.leave(v.index[plan[v.next].Container], plan[v.next].From)
		}
	}
	return nil
}

// put has a container take room on a host, which must suffice.
func (v *verifier) put(i int, host string) error {
	if host == "" {
		return nil
	}
	c, s := &v.all[i], v.spots[host]
	if s == nil {
		return fmt.Errorf("%s is put on %s, which there is not", c.Name, host)
	}
	if s.free = s.free.Sub(c.Need); s.free.MilliCPU < 0 || s.free.RAM < 0 || s.free.Disk < 0 {
		return fmt.Errorf("%s does not fit on %s", c.Name, host)
	}
	if c.Rules != nil && c.Rules.Group != "" {
		limits := append(s.groups[c.Rules.Group], c.Rules.MaxPerHost)
		s.groups[c.Rules.Group] = limits
		for _, most := range limits {
			if most > 0 && len(limits) > most {
				return fmt.Errorf("%s is the container number %d of group %s on %s, where %d are allowed", c.Name, len(limits), c.Rules.Group, host, most)
			}
		}
	}
	if s.count++; s.count == 1 {
		v.busy++
	}
	v.at[i] = host
	return nil
}

// leave gives back what a container takes on a host.
func (v *verifier) leave(i int, host string) {
	c, s := &v.all[i], v.spots[host]
	s.free = s.free.Add(c.Need)
	if c.Rules != nil && c.Rules.Group != "" {
		limits := s.groups[c.Rules.Group]
		at := slices.Index(limits, c.Rules.MaxPerHost)
		s.groups[c.Rules.Group] = slices.Delete(limits, at, at+1)
	}
	if s.count--; s.count == 0 {
		v.busy--
	}
}

// end compares what is there with what is reported.
func (v *verifier) end() error {
	r := v.result
	for i, host := range v.at {
		if host != "" && host != v.goal[i] || host == "" && v.goal[i] != "" && v.options.Plan != Replay {
			return fmt.Errorf("%s is on %q after the moves, the placement has it on %q", v.all[i].Name, host, v.goal[i])
		}
	}
	if v.most != r.HostsUsed || v.hostSec != r.HostSeconds {
		return fmt.Errorf("%d hosts and %d host-seconds are reported; it is %d and %d", r.HostsUsed, r.HostSeconds, v.most, v.hostSec)
	}
	return nil
}
