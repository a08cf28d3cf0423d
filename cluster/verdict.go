package cluster

import (
	"reflect"
	"strings"
	"unicode/utf8"
)

// Verdict is what an owner found in the way of moving a running container live.
type Verdict struct {
	Blockers []Blocker `json:"blockers"`       // the first MaxBlockers
	More     int       `json:"more,omitempty"` // so many more
}

// Blocker is one thing that is in the way of a live migration, with its owner and the way out.
type Blocker struct {
	Process string `json:"process,omitempty"` // "1234 dockerd", or "" when it is the container's
	Unit    string `json:"unit,omitempty"`    // systemd unit inside
	What    string `json:"what"`
	Remedy  string `json:"remedy"`
	Session bool   `json:"session,omitempty"` // a process that exec has started: it can be ended for the migration
}

// Bounds of a verdict in the replicated state.
const (
	MaxBlockers    = 8
	maxBlockerText = 200 // bytes of one field
)

// String is the blocker in one sentence.
func (b Blocker) String() string { return b.Who() + b.What + "; " + b.Remedy }

// Who is the process and its unit, followed by a colon; "" when it is the container's.
func (b Blocker) Who() string {
	who := b.Process
	if b.Unit != "" {
		who += " (" + b.Unit + ")"
	}
	if who != "" {
		who += ": "
	}
	return who
}

// key is the blocker without the number of its process, which a restart changes.
func (b Blocker) key() string {
	_, name, _ := strings.Cut(b.Process, " ")
	return name + "|" + b.Unit + "|" + b.What
}

// NewVerdict cuts what was found to what the replicated state keeps.
func NewVerdict(found []Blocker) Verdict {
	v := Verdict{Blockers: []Blocker{}, More: max(0, len(found)-MaxBlockers)}
	for _, b := range found[:min(len(found), MaxBlockers)] {
		for _, text := range []*string{&b.Process, &b.Unit, &b.What, &b.Remedy} {
			*text = cut(*text)
		}
		v.Blockers = append(v.Blockers, b)
	}
	return v
}

func cut(text string) string {
	const sign = "..."
	if len(text) <= maxBlockerText {
		return text
	}
	n := maxBlockerText - len(sign)
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + sign
}

// Same reports whether two verdicts name the same things, whatever the numbers of the processes.
func (v Verdict) Same(o Verdict) bool {
	return v.More == o.More && reflect.DeepEqual(v.keys(), o.keys())
}

// Within reports whether everything that v names is named by o too.
func (v Verdict) Within(o Verdict) bool {
	there := o.keys()
	for key := range v.keys() {
		if !there[key] {
			return false
		}
	}
	return true
}

func (v Verdict) keys() map[string]bool {
	keys := map[string]bool{}
	for _, b := range v.Blockers {
		keys[b.key()] = true
	}
	return keys
}

// Immovable says why a running container cannot be moved live, in one sentence; "" when nothing is known to be in the way.
func (c *Container) Immovable() string {
	if c.State != Running || c.Verdict == nil || len(c.Verdict.Blockers) == 0 {
		return ""
	}
	return c.Verdict.Blockers[0].String()
}

func (c ReportVerdict) apply(s *State) (any, error) {
	old, err := s.owned(c.ID, c.Host, c.Generation)
	if err != nil {
		return nil, err
	}
	if len(c.Verdict.Blockers) > MaxBlockers {
		return nil, Refuse(ErrInvalid, "a verdict names %d blockers at most, not %d", MaxBlockers, len(c.Verdict.Blockers))
	}
	for _, b := range c.Verdict.Blockers {
		if max(len(b.Process), len(b.Unit), len(b.What), len(b.Remedy)) > maxBlockerText {
			return nil, Refuse(ErrInvalid, "a blocker of container %d is described at too great length", c.ID)
		}
	}
	if old.State != Running || old.Verdict != nil && reflect.DeepEqual(*old.Verdict, c.Verdict) {
		return old, nil
	}
	ct, v := *old, c.Verdict
	ct.Verdict = &v
	s.putContainer(&ct)
	return &ct, nil
}
