package cluster

import (
	"cmp"
	"slices"
)

// crowd is what a group has on one host: how many containers, and how many of them have which limit. It is a value:
// a change returns another one.
type crowd struct {
	count            int
	perHost, perZone []limited // by limit
}

// limited counts the containers that have one limit.
type limited struct{ limit, containers int }

// with adds a container, or takes it away again.
func (c crowd) with(r *Rules, by int) crowd {
	return crowd{c.count + by, adjust(c.perHost, r.MaxPerHost, by), adjust(c.perZone, r.MaxPerZone, by)}
}

func adjust(counts []limited, limit, by int) []limited {
	if limit <= 0 {
		return counts
	}
	out := slices.Clone(counts)
	i, found := slices.BinarySearchFunc(out, limit, func(l limited, limit int) int { return cmp.Compare(l.limit, limit) })
	if !found {
		out = slices.Insert(out, i, limited{limit: limit})
	}
	if out[i].containers += by; out[i].containers == 0 {
		out = slices.Delete(out, i, i+1)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func tally(count int, limits []limited) Tally {
	t := Tally{Count: count}
	if len(limits) > 0 {
		t.Max = limits[0].limit
	}
	return t
}

// merge adds another host's part of a zone.
func (t Tally) merge(o Tally) Tally {
	t.Count += o.Count
	if o.Max > 0 && (t.Max == 0 || o.Max < t.Max) {
		t.Max = o.Max
	}
	return t
}

func groupOn(group, host string) []byte { return append(append([]byte(group), 0), host...) }

// crowded adds a container to what its group has on a host, or takes it away.
func (t *table) crowded(c *Container, host string, by int) {
	if c.Rules.Group == "" {
		return
	}
	key := groupOn(c.Rules.Group, host)
	was, _ := t.groups.get(key)
	if now := was.with(&c.Rules, by); now.count > 0 {
		t.groups.put(key, now)
		return
	}
	t.groups.drop(key)
}

// others counts what a container's group has on a host and in its zone, the container itself left out.
func (s *State) others(c *Container, h *Host) (onHost, inZone Tally) {
	group := c.Rules.Group
	if group == "" {
		return Tally{}, Tally{}
	}
	self := s.containers.get(c.ID)
	it := s.containers.groups.root().Iterator()
	prefix := groupOn(group, "")
	it.SeekPrefix(prefix)
	for key, there, ok := it.Next(); ok; key, there, ok = it.Next() {
		host := string(key[len(prefix):])
		if self != nil && !self.InTrash() && self.Host == host && self.Rules.Group == group {
			there = there.with(&self.Rules, -1)
		}
		if host == h.Name {
			onHost = tally(there.count, there.perHost)
		}
		if s.zone(host) == h.Zone() {
			inZone = inZone.merge(tally(there.count, there.perZone))
		}
	}
	return onHost, inZone
}

func (s *State) zone(host string) string {
	if h := s.hosts[host]; h != nil {
		return h.Zone()
	}
	return ""
}

// site is a host as a container sees it that is not there: its own place does not count against it.
func (s *State) site(h *Host, c *Container) Site {
	onHost, inZone := s.others(c, h)
	return Site{Host: h, Free: s.Free(h.Name), OnHost: onHost, InZone: inZone}
}

// Forbids says which of a container's rules keep it off a host that it is not on, or "". Room is not part of it.
func (s *State) Forbids(c *Container, host string) string {
	h := s.hosts[host]
	if h == nil {
		return "there is no such host"
	}
	if why := c.Rules.Bars(h); why != "" {
		return why
	}
	onHost, inZone := s.others(c, h)
	return c.Rules.Crowded(onHost, inZone)
}
