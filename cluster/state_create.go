package cluster

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

func (c CreateContainer) apply(s *State) (any, error) {
	ct := c.Container
	ct.State = Pending
	if err := s.create(&ct, c.IP, false); err != nil {
		return nil, err
	}
	return &ct, nil
}

func (c CreateContainers) apply(s *State) (any, error) {
	parts := c.Parts
	if len(parts) == 0 {
		parts = slices.Repeat([]int{1}, len(c.Items))
	}
	out, from := make([]Created, len(c.Items)), 0
	for _, n := range parts {
		if n < 1 || n > len(c.Items)-from {
			return nil, Refuse(ErrInvalid, "the parts of the batch are not those of its %d containers", len(c.Items))
		}
		if err := c.create(s, from, out[from:from+n]); err != nil {
			return nil, err
		}
		from += n
	}
	if from < len(c.Items) {
		return nil, Refuse(ErrInvalid, "%d of the %d containers of the batch belong to no part of it", len(c.Items)-from, len(c.Items))
	}
	return out, nil
}

// create makes the containers of one part, or none of them. The error is of the command, not of a container.
func (c CreateContainers) create(s *State, from int, out []Created) error {
	before := *s
	if len(out) > 1 {
		s.containers.begin()
	}
	for i := range out {
		item := &c.Items[from+i]
		if item.Spec < 0 || item.Spec >= len(c.Specs) {
			return Refuse(ErrInvalid, "container %d of the batch is like specification %d, there are %d", from+i+1, item.Spec, len(c.Specs))
		}
		ct := c.Specs[item.Spec]
		ct.ID, ct.Name, ct.Host, ct.Placement, ct.Created = item.ID, item.Name, item.Host, item.Why, c.At
		if item.Hostname != "" {
			ct.Hostname = item.Hostname
		}
		ct.State = Pending
		if ct.Desired != WantRunning && !item.Waits {
			ct.State = Stopped
		}
		if err := s.create(&ct, item.IP, item.Waits); err != nil {
			*s = before
			for i := range out {
				out[i] = Created{Err: err}
			}
			return nil
		}
		out[i].Container = &ct
	}
	if len(out) > 1 {
		s.containers.end()
		s.touch()
	}
	return nil
}

// create records a new container in the state that it has. One that waits has no host yet.
func (s *State) create(ct *Container, ip string, waits bool) error {
	if ct.Limits.CPUUnits == 0 {
		ct.Limits.CPUUnits = 1024
	}
	if err := ct.Limits.Check(); err != nil {
		return err
	}
	if err := checkRules(&ct.Rules, ct.Limits); err != nil {
		return err
	}
	if err := ct.checkMounts(); err != nil {
		return err
	}
	if err := ct.setDNS(ct.NameServers, ct.SearchDomains); err != nil {
		return err
	}
	if err := s.chooseID(ct); err != nil {
		return err
	}
	if err := s.nameContainer(ct); err != nil {
		return err
	}
	if err := s.resolveTemplate(ct); err != nil {
		return err
	}
	switch ct.Desired {
	case "":
		ct.Desired = WantStopped
	case WantRunning, WantStopped:
	default:
		return Refuse(ErrInvalid, "a new container can be wanted %s or %s, not %q", WantRunning, WantStopped, ct.Desired)
	}
	ct.Detail, ct.Operation, ct.Restarted, ct.Lost, ct.History = "", "", 0, "", nil
	ct.Snapshots, ct.Trashed = nil, time.Time{}
	if waits {
		ct.Host, ct.Detail, ct.Placement = "", ct.Placement, ""
	} else if err := s.checkRoom(ct.Host, ct); err != nil {
		return err
	}
	if err := s.allocate(ct, ip); err != nil {
		return err
	}
	ct.Generation, ct.Epoch = 1, 1
	if ct.ID <= s.highID {
		// The CTID may have been used before; a forgotten copy must not look newer than the new container.
		ct.Generation = s.generation + 1
	}
	ct.Labels = maps.Clone(ct.Labels)
	maps.DeleteFunc(ct.Labels, func(_, v string) bool { return v == "" })
	s.highID = max(s.highID, ct.ID)
	s.putContainer(ct)
	return nil
}

func (c PlaceContainer) apply(s *State) (any, error) {
	old, err := s.mustContainer(c.ID)
	if err != nil {
		return nil, err
	}
	if !old.Waits() {
		return nil, Refuse(ErrStale, "%s does not wait for room any more, it is on %s", old.Ref(), old.Host)
	}
	ct := *old
	if c.Host == "" {
		if ct.Detail = c.Why; ct.Detail == old.Detail {
			return old, nil
		}
		s.putContainer(&ct)
		return &ct, nil
	}
	if err := s.checkRoom(c.Host, old); err != nil {
		return nil, err
	}
	ct.Host, ct.Detail, ct.Placement = c.Host, "", c.Why
	ct.Generation++
	ct.note(Event{At: c.At, What: EventPlaced, To: c.Host, Why: fmt.Sprintf("it waited: %s", old.Detail)})
	s.putContainer(&ct)
	return &ct, nil
}
