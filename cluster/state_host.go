package cluster

import (
	"maps"
	"reflect"
	"slices"
)

func (c InitCluster) apply(s *State) (any, error) {
	if s.settings != nil {
		if s.settings.ID == c.Settings.ID && s.hosts[c.Host.Name] != nil {
			return s.hosts[c.Host.Name], nil
		}
		return nil, Refuse(ErrConflict, "this host already belongs to cluster %s; a new cluster needs a host without state", s.settings.ID)
	}
	if c.Settings.ID == "" {
		return nil, Refuse(ErrInvalid, "a cluster needs an id")
	}
	if _, err := parsePools(c.Settings.pools()); err != nil {
		return nil, err
	}
	settings := c.Settings
	s.settings = &settings
	return s.admit(c.Host)
}

func (c AddHost) apply(s *State) (any, error) {
	if s.settings == nil {
		return nil, Refuse(ErrConflict, "there is no cluster yet; run 'vzcluster init' on its first host")
	}
	t := s.tokens[c.TokenID]
	if t == nil {
		return nil, Refuse(ErrToken, "the cluster does not know this token; make one with 'vzcluster token create'")
	}
	if t.UsedBy != "" {
		h := s.hosts[c.Host.Name]
		if t.UsedBy == c.Host.Name && h != nil && h.Serial == c.Host.Serial {
			return h, nil
		}
		return nil, Refuse(ErrToken, "the token was used by host %q already; make another with 'vzcluster token create'", t.UsedBy)
	}
	if !c.At.Before(t.Expires) {
		return nil, Refuse(ErrToken, "the token expired at %s; make another with 'vzcluster token create'",
			t.Expires.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	host := c.Host
	host.Joined = c.At
	h, err := s.admit(host)
	if err != nil {
		return nil, err
	}
	used := *t
	used.UsedBy = h.Name
	put(s, &s.tokens, used.ID, &used)
	return h, nil
}

// admit adds a checked host.
func (s *State) admit(h Host) (*Host, error) {
	if err := CheckName("host", h.Name); err != nil {
		return nil, err
	}
	if s.hosts[h.Name] != nil {
		return nil, Refuse(ErrConflict, "there is a host %q already; join under another name, or remove that host first", h.Name)
	}
	if h.State == "" {
		h.State = HostActive
	}
	if err := checkHost(&h); err != nil {
		return nil, err
	}
	if err := s.checkHostAddress(&h); err != nil {
		return nil, err
	}
	h.Labels = maps.Clone(h.Labels)
	s.putHost(&h)
	return &h, nil
}

func checkHost(h *Host) error {
	if !slices.Contains([]HostState{HostActive, HostCordoned, HostParking, HostParked, HostWaking, HostLeaving}, h.State) {
		return Refuse(ErrInvalid, "%q is no state of a host; use %s or %s", h.State, HostActive, HostCordoned)
	}
	if err := h.Power.Check(); err != nil {
		return err
	}
	if h.Capacity.negative() || h.Capacity.Containers != 0 || h.Capacity.Guaranteed != 0 {
		return Refuse(ErrInvalid, "the capacity of host %q cannot be negative, and counts cpu, memory, disk and network only", h.Name)
	}
	if h.Reserve.negative() || h.Reserve.Containers != 0 || h.Reserve.Guaranteed != 0 || h.MaxContainers < 0 {
		return Refuse(ErrInvalid, "what is kept for host %q cannot be negative, and counts cpu, memory, disk and network only", h.Name)
	}
	return nil
}

func (r Resources) negative() bool { return r.MilliCPU < 0 || r.RAM < 0 || r.Disk < 0 || r.Network < 0 }

func (c SetHost) apply(s *State) (any, error) {
	old, err := s.mustHost(c.Name)
	if err != nil {
		return nil, err
	}
	h := *old
	if c.Reserve != nil {
		h.Reserve = *c.Reserve
	}
	if c.MaxContainers != nil {
		h.MaxContainers = *c.MaxContainers
	}
	if c.Power != nil {
		h.Power = *c.Power
	}
	if len(c.Labels) > 0 {
		h.giveLabels(c.Labels)
	}
	if err := checkHost(&h); err != nil {
		return nil, err
	}
	if !reflect.DeepEqual(h, *old) {
		s.putHost(&h)
	}
	return s.hosts[c.Name], nil
}

// giveLabels sets labels that a user gives a host. An empty value takes one away; if it hid one of the host's
// configuration, that one is back when the host's agent says so next.
func (h *Host) giveLabels(labels map[string]string) {
	h.Given = mergeLabels(h.Given, labels)
	h.Labels = mergeLabels(h.Labels, labels)
	if len(h.Given) == 0 {
		h.Given = nil
	}
}

// LabelsWith are the labels of a host whose configuration names these.
func (h *Host) LabelsWith(configured map[string]string) map[string]string {
	return mergeLabels(maps.Clone(configured), h.Given)
}

func (c UpdateHost) apply(s *State) (any, error) {
	old, err := s.mustHost(c.Name)
	if err != nil {
		return nil, err
	}
	h := *old
	set(&h.Address, c.Address)
	set(&h.Gossip, c.Gossip)
	set(&h.Version, c.Version)
	set(&h.Capacity, c.Capacity)
	set(&h.Boot, c.Boot)
	if c.Labels != nil {
		h.Labels = h.LabelsWith(c.Labels)
	}
	if err := checkHost(&h); err != nil {
		return nil, err
	}
	if err := s.checkHostAddress(&h); err != nil {
		return nil, err
	}
	same := h.Address == old.Address && h.Gossip == old.Gossip && h.Version == old.Version &&
		h.Capacity == old.Capacity && h.Boot == old.Boot && maps.Equal(h.Labels, old.Labels)
	if same {
		return old, nil
	}
	s.putHost(&h)
	return &h, nil
}

// set takes a value over unless it is the zero one.
func set[T comparable](to *T, v T) {
	var zero T
	if v != zero {
		*to = v
	}
}

func (c SetHostState) apply(s *State) (any, error) {
	old, err := s.mustHost(c.Name)
	if err != nil {
		return nil, err
	}
	h := *old
	h.State = c.State
	if err := checkHost(&h); err != nil {
		return nil, err
	}
	if (c.State == HostParking || c.State == HostParked) && c.State != old.State {
		if err := s.checkParking(old); err != nil {
			return nil, err
		}
	}
	if c.State == HostLeaving {
		if err := s.checkLeaving(old); err != nil {
			return nil, err
		}
	}
	if h.State == old.State && (c.Detail == "" || c.Detail == old.Detail) {
		return old, nil
	}
	h.Since, h.Detail = c.At, c.Detail
	s.putHost(&h)
	return &h, nil
}

// checkParking says whether a host can be switched off without a loss: nothing is on it, and enough hosts stay for a
// quorum that survives one of them.
func (s *State) checkParking(h *Host) error {
	if s.Reserved(h.Name) != (Resources{}) {
		return Refuse(ErrConflict, "host %q is not empty, it cannot be parked; drain it first with 'vzcluster host drain %s'", h.Name, h.Name)
	}
	awake := 0
	for _, o := range s.hosts {
		if o.Name != h.Name && o.State.Awake() {
			awake++
		}
	}
	if least := min(VotersFor(len(s.hosts)), 3); awake < least {
		return Refuse(ErrConflict, "host %q cannot be parked: a cluster of %d hosts keeps at least %d on, or it would not survive the loss of one", h.Name, len(s.hosts), least)
	}
	return nil
}

// checkLeaving says whether nothing would be lost with a host that leaves.
func (s *State) checkLeaving(h *Host) error {
	if len(s.hosts) == 1 {
		return Refuse(ErrConflict, "host %q is the last one of the cluster", h.Name)
	}
	if owned := s.CountOn(h.Name); owned > 0 {
		return Refuse(ErrConflict, "host %q still has %d containers; move them away with 'vzcluster host drain %s'", h.Name, owned, h.Name)
	}
	return nil
}

// Awake reports whether a host in this state is on and stays, or should be.
func (s HostState) Awake() bool {
	return s != HostParking && s != HostParked && s != HostWaking && s != HostLeaving
}

func (c SetVoter) apply(s *State) (any, error) {
	old, err := s.mustHost(c.Name)
	if err != nil {
		return nil, err
	}
	if old.Voter != c.Voter {
		h := *old
		h.Voter = c.Voter
		s.putHost(&h)
	}
	return s.hosts[c.Name], nil
}

func (c RemoveHost) apply(s *State) (any, error) {
	h, err := s.mustHost(c.Name)
	if err != nil {
		return nil, err
	}
	for _, op := range s.Operations() {
		if op.Kind != OpMigrate || op.Final() || op.From != c.Name && op.To != c.Name {
			continue
		}
		if !c.Force || op.Status != OpCommitted {
			return nil, Refuse(ErrConflict, "host %q is part of the migration of container %d; wait until it has ended", c.Name, op.Container)
		}
		done := *op // the host cannot clean up any more; whose container it is was decided
		done.Status, done.Ended, done.Error = OpDone, c.At, "host "+c.Name+" was forgotten before it had cleaned up"
		s.unlock(&done, func(*Container) {})
		s.end(&done)
	}
	if c.Force && len(s.hosts) > 1 {
		for _, ct := range s.On(c.Name) {
			s.remove(ct)
		}
	}
	if err := s.checkLeaving(h); err != nil {
		return nil, err
	}
	drop(s, &s.hosts, c.Name)
	s.hostsChanged()
	s.forgetCopies(c.Name)
	return nil, nil
}

func (c AddToken) apply(s *State) (any, error) {
	t := c.Token
	switch {
	case t.ID == "" || t.Hash == "":
		return nil, Refuse(ErrInvalid, "a token needs an id and the hash of its secret")
	case !t.Expires.After(t.Created):
		return nil, Refuse(ErrInvalid, "a token must live longer than nothing; choose a longer time")
	case s.tokens[t.ID] != nil:
		return nil, Refuse(ErrConflict, "there is a token %q already; make another", t.ID)
	}
	limit := t.Created.AddDate(0, 0, -1)
	var old []string
	for id, o := range s.tokens {
		if o.Expires.Before(limit) {
			old = append(old, id)
		}
	}
	drop(s, &s.tokens, old...)
	put(s, &s.tokens, t.ID, &t)
	return &t, nil
}

func (c RevokeToken) apply(s *State) (any, error) {
	if s.tokens[c.ID] == nil {
		return nil, Refuse(ErrNotFound, "there is no token %q; 'vzcluster token ls' shows the tokens", c.ID)
	}
	drop(s, &s.tokens, c.ID)
	return nil, nil
}

// forgetCopies takes a removed host out of the templates' lists of copies.
func (s *State) forgetCopies(host string) {
	for _, m := range []*map[string]*Template{&s.templates, &s.replaced} {
		for key, t := range *m {
			if !slices.Contains(t.Hosts, host) {
				continue
			}
			n := *t
			n.Hosts = slices.DeleteFunc(slices.Clone(t.Hosts), func(h string) bool { return h == host })
			put(s, m, key, &n)
		}
	}
}
