package cluster

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Placement is how hosts that can all take a container are chosen between.
type Placement string

// The placements. The empty one is the cluster's, and that of a cluster that says nothing is Spread.
const (
	Spread   Placement = "spread"   // the host with the most room left: even load
	Pack     Placement = "pack"     // the host where least is wasted: few hosts in use
	Balanced Placement = "balanced" // the host whose resources are used most evenly
)

// Placements lists them.
func Placements() []Placement { return []Placement{Spread, Pack, Balanced} }

// Preempt is what may be done to containers of a lower priority when one of a higher priority has no room.
type Preempt string

// What may be done. The empty one: they are moved, live if they run.
const (
	PreemptOffline Preempt = "offline" // those that cannot be moved live are stopped, moved and started again
	PreemptNever   Preempt = "never"   // nothing: the container waits until there is room
)

// Op is how a constraint compares a host's label with its values.
type Op string

// The ways to compare.
const (
	OpIn     Op = "in"     // the label has one of the values
	OpNotIn  Op = "notin"  // it has none of them, or there is no label
	OpExists Op = "exists" // there is a label
	OpAbsent Op = "absent" // there is none
	OpMin    Op = "min"    // the label is at least the value; numbers in it count as numbers: 6.12 is more than 6.9
)

// Constraint is one thing that a container demands of its host. Key is a label, or "name".
type Constraint struct {
	Key    string   `json:"key"`
	Op     Op       `json:"op"`
	Values []string `json:"values,omitempty"`
}

// Affinity is a wish: a host that fulfils it gets Weight more, one that does not is no worse off. A negative weight is a
// dislike. The key "group" asks whether a host has a container of one of the groups.
type Affinity struct {
	Constraint
	Weight int `json:"weight"` // from -100 to 100; 100 outweighs everything that a policy prefers
}

// Rules are what a user says about where a container may be, and when it may be moved.
type Rules struct {
	Constraints []Constraint `json:"constraints,omitempty"`
	Affinities  []Affinity   `json:"affinities,omitempty"`
	Group       string       `json:"group,omitempty"`        // what the two limits count
	MaxPerHost  int          `json:"max_per_host,omitempty"` // containers of the group on its host, itself included; 0: any number
	MaxPerZone  int          `json:"max_per_zone,omitempty"` // the same for the label "zone"; hosts without one are one zone
	Priority    int          `json:"priority,omitempty"`     // a higher one may have lower ones moved away; below 0: not protected against the loss of a host
	Preempt     Preempt      `json:"preempt,omitempty"`      // what is done to lower ones for it; empty: moved live
	Policy      Placement    `json:"policy,omitempty"`
	Pinned      string       `json:"pinned,omitempty"`    // the only host that it may be on
	Guarantee   int64        `json:"guarantee,omitempty"` // bytes of memory that its host keeps for it, however much is overcommitted
	Stay        bool         `json:"stay,omitempty"`      // no plan of the cluster's own moves it; a drain may
	Window      Window       `json:"window,omitzero"`     // when plans may move it
	// MaxDowntimeMS is the longest that it may stand still in a move that a plan makes; 0: any time.
	MaxDowntimeMS int64 `json:"max_downtime_ms,omitempty"`
}

// Bounds of rules.
const (
	MaxPriority  = 1000
	MaxWeight    = 100
	maxRules     = 32 // constraints or affinities of one container
	maxRuleText  = 63 // bytes of a key or a value
	minutesOfDay = 24 * 60
)

// ZoneLabel is the label that says which zone a host is in.
const ZoneLabel = "zone"

// NameKey stands for a host's name in constraints, GroupKey for the groups on it in affinities.
const (
	NameKey  = "name"
	GroupKey = "group"
)

// IsZero reports whether there are no rules.
func (r Rules) IsZero() bool { return r.Equal(Rules{}) }

// Equal reports whether two containers have the same rules.
func (r Rules) Equal(o Rules) bool { return reflect.DeepEqual(r, o) }

// Protected reports whether the container counts when the cluster asks if it survives the loss of a host.
func (r Rules) Protected() bool { return r.Priority >= 0 }

// Zone is the zone that a host is in.
func (h *Host) Zone() string { return h.Labels[ZoneLabel] }

// attribute returns what a constraint compares.
func (h *Host) attribute(key string) (value string, ok bool) {
	if key == NameKey {
		return h.Name, true
	}
	value, ok = h.Labels[key]
	return value, ok
}

// Holds reports whether a host fulfils the constraint.
func (c Constraint) Holds(h *Host) bool {
	value, ok := h.attribute(c.Key)
	switch c.Op {
	case OpIn:
		return ok && slices.Contains(c.Values, value)
	case OpNotIn:
		return !ok || !slices.Contains(c.Values, value)
	case OpExists:
		return ok
	case OpAbsent:
		return !ok
	case OpMin:
		return ok && len(c.Values) == 1 && natural(value, c.Values[0]) >= 0
	}
	return false
}

// String writes a constraint as ParseConstraint reads it.
func (c Constraint) String() string {
	switch c.Op {
	case OpIn:
		return c.Key + "=" + strings.Join(c.Values, ",")
	case OpNotIn:
		return c.Key + "!=" + strings.Join(c.Values, ",")
	case OpMin:
		return c.Key + ">=" + strings.Join(c.Values, ",")
	case OpAbsent:
		return "!" + c.Key
	}
	return c.Key
}

// ParseConstraint reads key=a,b  key!=a,b  key>=a  key  !key. What it returns is ErrInvalid.
func ParseConstraint(s string) (Constraint, error) {
	c := Constraint{Key: s, Op: OpExists}
	if key, absent := strings.CutPrefix(s, "!"); absent && !strings.Contains(s, "=") {
		c = Constraint{Key: key, Op: OpAbsent}
	} else if key, values, ok := strings.Cut(s, "="); ok {
		c = Constraint{Key: key, Op: OpIn, Values: strings.Split(values, ",")}
		if k, not := strings.CutSuffix(key, "!"); not {
			c.Key, c.Op = k, OpNotIn
		} else if k, min := strings.CutSuffix(key, ">"); min {
			c.Key, c.Op = k, OpMin
		}
	}
	return c, c.check()
}

// ParseAffinity reads a constraint with a weight behind a colon: zone=a:50. Without one it is 50.
func ParseAffinity(s string) (Affinity, error) {
	a := Affinity{Weight: MaxWeight / 2}
	text := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		n, err := strconv.Atoi(s[i+1:])
		if err != nil {
			return a, Refuse(ErrInvalid, "%q is no weight of an affinity; use a number from -%d to %d", s[i+1:], MaxWeight, MaxWeight)
		}
		a.Weight, text = n, s[:i]
	}
	var err error
	if a.Constraint, err = ParseConstraint(text); err != nil {
		return a, err
	}
	return a, a.check()
}

// natural compares two texts, runs of digits in them as numbers.
func natural(a, b string) int {
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x > 0 && y > 0 {
			m, n := strings.TrimLeft(a[:x], "0"), strings.TrimLeft(b[:y], "0")
			if len(m) != len(n) {
				return len(m) - len(n)
			}
			if d := strings.Compare(m, n); d != 0 {
				return d
			}
			a, b = a[x:], b[y:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) (n int) {
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// Window is a time of day, in UTC, on some days of the week. The zero one is always open.
type Window struct {
	Days []string `json:"days,omitempty"` // mon, tue, wed, thu, fri, sat, sun; none: every day
	From int      `json:"from"`           // minutes after midnight
	To   int      `json:"to"`             // not more than From: on the next day
}

func weekdays() []string { return []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} }

// IsZero reports whether the window is always open.
func (w Window) IsZero() bool { return len(w.Days) == 0 && w.From == 0 && w.To == 0 }

// Open reports whether a moment lies in the window. One that goes on past midnight belongs to the day it begins on.
func (w Window) Open(at time.Time) bool {
	if w.IsZero() {
		return true
	}
	at = at.UTC()
	on := func(t time.Time) bool { return len(w.Days) == 0 || slices.Contains(w.Days, weekdays()[t.Weekday()]) }
	minute := at.Hour()*60 + at.Minute()
	if w.From < w.To {
		return on(at) && minute >= w.From && minute < w.To
	}
	return on(at) && minute >= w.From || on(at.AddDate(0, 0, -1)) && minute < w.To
}

// String writes a window as ParseWindow reads it.
func (w Window) String() string {
	if w.IsZero() {
		return "always"
	}
	s := fmt.Sprintf("%02d:%02d-%02d:%02d", w.From/60, w.From%60, w.To/60, w.To%60)
	if len(w.Days) > 0 {
		s = strings.Join(w.Days, ",") + " " + s
	}
	return s
}

// ParseWindow reads "22:00-04:00", "sat,sun 22:00-04:00" or "always". What it returns is ErrInvalid.
func ParseWindow(s string) (w Window, err error) {
	if s == "" || s == "always" {
		return w, nil
	}
	wrong := Refuse(ErrInvalid, "%q is no window; write it as 22:00-04:00 (UTC), with days as sat,sun 22:00-04:00", s)
	times := s
	if days, rest, ok := strings.Cut(s, " "); ok {
		w.Days, times = strings.Split(days, ","), rest
	}
	from, to, ok := strings.Cut(times, "-")
	if !ok {
		return Window{}, wrong
	}
	for _, part := range []struct {
		text string
		to   *int
	}{{from, &w.From}, {to, &w.To}} {
		t, err := time.Parse("15:04", part.text)
		if err != nil {
			return Window{}, wrong
		}
		*part.to = t.Hour()*60 + t.Minute()
	}
	if w.check() != nil {
		return Window{}, wrong
	}
	return w, nil
}
