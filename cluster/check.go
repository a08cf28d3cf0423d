package cluster

import (
	"encoding/hex"
	"slices"
	"strings"
)

// CheckName says whether a name can be that of a host, container or template: it is used in DNS, paths and
// certificates. What it returns is ErrInvalid.
func CheckName(what, name string) error {
	const charset = "abcdefghijklmnopqrstuvwxyz0123456789-."
	ok := len(name) >= 1 && len(name) <= 63 &&
		strings.Trim(name, charset) == "" &&
		strings.Trim(name, "-.") == name &&
		!strings.Contains(name, "..")
	if !ok {
		return Refuse(ErrInvalid,
			"%q is no name for a %s; use at most 63 lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
			name, what)
	}
	if strings.Trim(name, "0123456789") == "" && what == "container" {
		return Refuse(ErrInvalid, "the container name %q would be taken for a CTID; put a letter into it", name)
	}
	return nil
}

func checkHostname(name string) error {
	if err := CheckName("host name", strings.ToLower(name)); err != nil {
		return Refuse(ErrInvalid,
			"%q is no host name; use at most 63 letters, digits, '-' and '.', with a letter or digit at both ends", name)
	}
	return nil
}

// Check says whether the rules make sense by themselves; what it returns is ErrInvalid.
func (r *Rules) Check() error {
	if max(len(r.Constraints), len(r.Affinities)) > maxRules {
		return Refuse(ErrInvalid, "a container can have %d constraints and %d affinities at most", maxRules, maxRules)
	}
	for _, c := range r.Constraints {
		if err := c.check(); err != nil {
			return err
		}
		if c.Key == GroupKey {
			return Refuse(ErrInvalid, "a group can be wished near by an affinity, not demanded by a constraint; keep groups apart with max-per-host")
		}
	}
	for _, a := range r.Affinities {
		if err := a.check(); err != nil {
			return err
		}
	}
	if r.Pinned != "" {
		if err := CheckName("host", r.Pinned); err != nil {
			return err
		}
	}
	if r.Group != "" {
		if err := checkText("group", r.Group); err != nil {
			return err
		}
	}
	switch {
	case r.MaxPerHost < 0 || r.MaxPerZone < 0:
		return Refuse(ErrInvalid, "the number of a group's containers on a host or in a zone cannot be negative; use 0 for any number")
	case r.Group == "" && r.MaxPerHost+r.MaxPerZone > 0:
		return Refuse(ErrInvalid, "a limit per host or zone counts the containers of a group; name the group too")
	case r.Priority < -MaxPriority || r.Priority > MaxPriority:
		return Refuse(ErrInvalid, "the priority must lie between -%d and %d, 0 is normal", MaxPriority, MaxPriority)
	case r.Preempt != "" && r.Preempt != PreemptOffline && r.Preempt != PreemptNever:
		return Refuse(ErrInvalid, "%q is no way to make room; use live, %s or %s", r.Preempt, PreemptOffline, PreemptNever)
	case r.Guarantee < 0:
		return Refuse(ErrInvalid, "guaranteed memory cannot be negative; use 0 for none")
	}
	if err := checkPlacement(r.Policy); err != nil {
		return err
	}
	return r.Window.check()
}

// checkRules checks rules together with the limits beside them.
func checkRules(r *Rules, l Limits) error {
	if err := r.Check(); err != nil {
		return err
	}
	if r.MaxDowntimeMS < 0 {
		return Refuse(ErrInvalid, "a container cannot stand still for less than no time; use 0 for any")
	}
	if l.SoftRAM > 0 && r.Guarantee > l.SoftRAM {
		return Refuse(ErrInvalid, "memory above the soft limit of %s is taken back, so %s cannot be guaranteed", Bytes(l.SoftRAM), Bytes(r.Guarantee))
	}
	if r.Guarantee > l.RAM {
		return Refuse(ErrInvalid, "%s of guaranteed memory is more than the container may use (%s)", Bytes(r.Guarantee), Bytes(l.RAM))
	}
	return nil
}

func (c Constraint) check() error {
	if err := checkText("label", c.Key); err != nil {
		return err
	}
	for _, v := range c.Values {
		if err := checkText("value of a label", v); err != nil {
			return err
		}
	}
	n, ok := len(c.Values), false
	switch c.Op {
	case OpIn, OpNotIn:
		ok = n >= 1 && n <= maxRules
	case OpMin:
		ok = n == 1
	case OpExists, OpAbsent:
		ok = n == 0
	}
	if !ok {
		return Refuse(ErrInvalid, "%q with %d values is no constraint on %s; write key=a,b  key!=a,b  key>=a  key  or !key", c.Op, n, c.Key)
	}
	return nil
}

func (a Affinity) check() error {
	if a.Weight == 0 || a.Weight < -MaxWeight || a.Weight > MaxWeight {
		return Refuse(ErrInvalid, "%d is no weight of an affinity; use a number from -%d to %d, not 0", a.Weight, MaxWeight, MaxWeight)
	}
	if a.Key == GroupKey && a.Op != OpIn {
		return Refuse(ErrInvalid, "an affinity to a group is written group=NAME, with a negative weight to stay away from it")
	}
	return a.Constraint.check()
}

// checkText keeps keys, values and groups short and printable, and free of what separates them on a command line.
func checkText(what, text string) error {
	bad := func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune("=,!<>:", r) }
	if text == "" || len(text) > maxRuleText || strings.ContainsFunc(text, bad) {
		return Refuse(ErrInvalid, "%q is no %s; use 1 to %d characters without spaces and = , ! < > :", text, what, maxRuleText)
	}
	return nil
}

func checkPlacement(p Placement) error {
	if p != "" && !slices.Contains(Placements(), p) {
		return Refuse(ErrInvalid, "%q is no placement policy; use %s, %s or %s", p, Spread, Pack, Balanced)
	}
	return nil
}

func (w Window) check() error {
	for _, d := range w.Days {
		if !slices.Contains(weekdays(), d) {
			return Refuse(ErrInvalid, "%q is no day of the week; use mon, tue, wed, thu, fri, sat or sun", d)
		}
	}
	if min(w.From, w.To) < 0 || max(w.From, w.To) >= minutesOfDay {
		return Refuse(ErrInvalid, "a window begins and ends between 00:00 and 23:59")
	}
	return nil
}

// checkDigest also keeps digests harmless as file names.
func checkDigest(digest string) error {
	sum, ok := strings.CutPrefix(digest, "sha256:")
	if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != 32 || sum != strings.ToLower(sum) {
		return Refuse(ErrInvalid, "%q is no template digest; it must be sha256: and 64 hex digits", digest)
	}
	return nil
}

func (s *State) mustHost(name string) (*Host, error) {
	if h := s.hosts[name]; h != nil {
		return h, nil
	}
	return nil, Refuse(ErrNotFound, "there is no host %q; 'vzcluster host ls' shows the hosts", name)
}

func (s *State) mustContainer(id int) (*Container, error) {
	if c := s.containers.get(id); c != nil {
		return c, nil
	}
	return nil, Refuse(ErrNotFound, "there is no container %d; 'vzcluster ls' shows the containers", id)
}

func (s *State) mustOperation(id string, kinds ...OperationKind) (*Operation, error) {
	if o := s.operations[id]; o != nil {
		for _, k := range kinds {
			if o.Kind == k {
				return o, nil
			}
		}
		return nil, Refuse(ErrInvalid, "operation %s is a %s", id, o.Kind)
	}
	return nil, Refuse(ErrNotFound, "there is no operation %q", id)
}
