package simulate

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler"
)

// What a run does.
const (
	Place       = "place"
	Replay      = "replay"
	Consolidate = "consolidate"
)

// Plans lists them.
func Plans() []string { return []string{Place, Replay, Consolidate} }

// Options say how a run decides.
type Options struct {
	Plan            string
	Policy          cluster.Placement
	Seed            uint64
	MaxMoves        int     // of the whole run; 0: as many as the plan needs, in a replay as MovesPerArrival allows
	MovesPerArrival float64 // replay: migrations that each arrival allows; 0: none, or MaxMoves at any time
}

// Result are the figures of a run.
type Result struct {
	HostsUsed   int     `json:"hosts_used"` // with containers: at the end; in a replay the most at any time
	Placed      int     `json:"placed"`
	Unplaced    int     `json:"unplaced"`
	Moves       int     `json:"moves"`
	HostSeconds int64   `json:"host_seconds"` // replay: of hosts with containers
	LowerBound  int64   `json:"lower_bound"`  // hosts; replay: host-seconds
	Seconds     float64 `json:"seconds"`      // of deciding
	PerSecond   float64 `json:"placements_per_s"`

	Placement []Placed `json:"-"`
	Plan      []Move   `json:"-"`
}

// Placed is one line of the placement; no host: it stayed unplaced, or has departed without ever being placed.
type Placed struct{ Container, Host string }

// Move is one migration; those of one step may run together.
type Move struct {
	Step                int
	Container, From, To string
	event               int // replay: the event after which it was made
}

// run is a simulation under way.
type run struct {
	board   *scheduler.Board
	hosts   []*cluster.Host
	all     []Container
	options Options
	result  Result
	bound   *bound
	begin   time.Time
	where   []int // the last host of each container, -1: none
	demand  cluster.Resources
	step    int
	event   int     // of a replay, the one under way
	credit  float64 // migrations that arrivals have allowed and that were not made
}

// Run simulates. What it returns as an error is ErrInvalid: a plan that makes no sense with these files.
func Run(hosts []*cluster.Host, all []Container, o Options) (*Result, error) {
	r := &run{hosts: hosts, all: all, options: o, bound: newBound(hosts), where: make([]int, len(all)), begin: time.Now()}
	r.board = scheduler.NewBoard(hosts, cluster.Policy{Placement: o.Policy}, o.Seed)
	for i := range all {
		r.where[i] = -1
		r.board.Add(scheduler.Item{Need: all[i].Need, Rules: all[i].Rules})
	}
	var err error
	switch o.Plan {
	case Place:
		err = r.place()
	case Replay:
		err = r.replay()
	case Consolidate:
		err = r.consolidate()
	default:
		err = cluster.Refuse(cluster.ErrInvalid, "%q is no plan; use place, replay or consolidate", o.Plan)
	}
	if err != nil {
		return nil, err
	}
	return r.finish(), nil
}

// fixed puts the containers that have a host where they are, which must be possible.
func (r *run) fixed() error {
	for i, c := range r.all {
		if c.Host == "" {
			continue
		}
		h := r.board.Find(c.Host)
		if h < 0 {
			return cluster.Refuse(cluster.ErrInvalid, "%s:%d: column host: container %s is on %q, and there is no such host", c.file, c.line, c.Name, c.Host)
		}
		if why := r.board.Why(i, h); why != "" {
			return cluster.Refuse(cluster.ErrInvalid, "%s:%d: column host: container %s cannot be on %s: %s", c.file, c.line, c.Name, c.Host, why)
		}
		r.put(i, h)
	}
	return nil
}

func (r *run) put(i, host int) {
	r.board.Put(i, host)
	r.where[i] = host
	r.result.Placed++
}

// place puts the containers in file order, each without a look at the later ones.
func (r *run) place() error {
	if err := r.fixed(); err != nil {
		return err
	}
	for i := range r.all {
		r.demand = r.demand.Add(r.all[i].Need)
		if r.where[i] < 0 {
			r.arrive(i)
		}
	}
	r.result.LowerBound = int64(r.bound.hosts(r.demand))
	r.result.HostsUsed = r.board.Used()
	return nil
}

func (r *run) arrive(i int) {
	r.board.Learn(i)
	if h := r.board.Choose(i, nil); h >= 0 {
		r.put(i, h)
	} else {
		r.result.Unplaced++
	}
}

// event is an arrival or a departure.
type event struct {
	at     int64
	arrive bool
	item   int
}

// replay follows arrivals and departures in time, departures first within a second.
func (r *run) replay() error {
	if err := r.fixed(); err != nil {
		return err
	}
	var events []event
	end := int64(0)
	for i, c := range r.all {
		events = append(events, event{c.Arrive, true, i})
		end = max(end, c.Arrive)
		if c.Depart != never {
			events = append(events, event{c.Depart, false, i})
			end = max(end, c.Depart)
		}
	}
	slices.SortStableFunc(events, func(a, b event) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(ord(a), ord(b)))
	})
	now := int64(0)
	for k, e := range events {
		r.pass(now, e.at)
		now, r.event = e.at, k
		if !e.arrive {
			r.depart(e.item)
		} else {
			r.demand = r.demand.Add(r.all[e.item].Need)
			if r.where[e.item] < 0 {
				r.arrive(e.item)
			}
			if !r.all[e.item].first {
				r.credit += r.options.MovesPerArrival
			}
		}
		r.improve(r.budget())
		r.result.HostsUsed = max(r.result.HostsUsed, r.board.Used())
	}
	return nil
}

// ord puts the departures of a second before its arrivals; who comes and goes in the same second comes first.
func ord(e event) int {
	if e.arrive {
		return 1
	}
	return 0
}

func (r *run) pass(from, to int64) {
	r.result.HostSeconds += (to - from) * int64(r.board.Used())
	r.result.LowerBound += (to - from) * int64(r.bound.hosts(r.demand))
}

func (r *run) depart(i int) {
	r.demand = r.demand.Sub(r.all[i].Need)
	if r.board.Host(i) >= 0 {
		r.board.Take(i)
	}
}

// finish fills in what all runs have in common.
func (r *run) finish() *Result {
	r.result.Seconds = time.Since(r.begin).Seconds()
	if r.result.Seconds > 0 {
		r.result.PerSecond = float64(r.result.Placed) / r.result.Seconds
	}
	for i, c := range r.all {
		p := Placed{Container: c.Name}
		if r.where[i] >= 0 {
			p.Host = r.board.Name(r.where[i])
		}
		r.result.Placement = append(r.result.Placement, p)
	}
	return &r.result
}

// budget is how many migrations a replay may make now.
func (r *run) budget() int {
	left := math.MaxInt
	if r.options.MaxMoves > 0 {
		left = r.options.MaxMoves - r.result.Moves
	}
	if r.options.MovesPerArrival > 0 || r.options.MaxMoves == 0 {
		left = min(left, int(r.credit+1e-9))
	}
	return left
}

// improve spends the migrations that a replay may make: it empties a host, or makes room of use.
func (r *run) improve(budget int) {
	spent := 0
	for spent < budget {
		steps := r.emptyOne(budget - spent)
		if steps == nil {
			s, ok := r.board.Mend(mendWorth)
			if !ok {
				break
			}
			steps = []scheduler.Step{s}
		}
		r.record(steps)
		spent += len(steps)
	}
	r.credit -= float64(spent)
}

// mendWorth is the part of a host that a single move must make of use again.
const mendWorth = 0.16

// emptyOne empties one of the hosts with the least on them.
func (r *run) emptyOne(budget int) []scheduler.Step {
	for _, h := range r.board.Lightest(emptyAmong) {
		if steps := r.board.Empty(h, budget); steps != nil {
			return steps
		}
	}
	return nil
}

// emptyAmong is how many hosts are tried.
const emptyAmong = 4

// record notes moves that were made one after the other.
func (r *run) record(steps []scheduler.Step) {
	for _, s := range steps {
		r.step++
		r.result.Plan = append(r.result.Plan, Move{r.step, r.all[s.Item].Name, r.board.Name(s.From), r.board.Name(s.To), r.event})
		r.where[s.Item] = s.To
	}
	r.result.Moves += len(steps)
}

// consolidate empties as many hosts as it can, starting from the hosts that the containers are on.
func (r *run) consolidate() error {
	if err := r.fixed(); err != nil {
		return err
	}
	for i := range r.all {
		if r.where[i] < 0 {
			r.result.Unplaced++
			continue
		}
		r.demand = r.demand.Add(r.all[i].Need)
	}
	if r.result.Placed == 0 {
		return cluster.Refuse(cluster.ErrInvalid, "no container is on a host; give a placement, or a column host")
	}
	r.board.LearnAll()
	steps := r.board.Compact(scheduler.Compaction{MaxMoves: r.options.MaxMoves})
	for k, at := range r.board.Waves(steps, movesPerHost) {
		s := steps[k]
		r.result.Plan = append(r.result.Plan, Move{at + 1, r.all[s.Item].Name, r.board.Name(s.From), r.board.Name(s.To), 0})
		r.where[s.Item] = s.To
	}
	slices.SortStableFunc(r.result.Plan, func(a, b Move) int { return cmp.Compare(a.Step, b.Step) })
	r.result.Moves = len(steps)
	r.result.LowerBound = int64(r.bound.hosts(r.demand))
	r.result.HostsUsed = r.board.Used()
	return nil
}

// movesPerHost is how many moves of one step a host may be part of.
const movesPerHost = 4
