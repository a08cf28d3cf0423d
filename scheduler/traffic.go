package scheduler

import "github.com/vzcluster/vzcluster/cluster"

// Traffic says which moves of a plan may be under way together.
type Traffic struct {
	Zone  map[string]string // of each host
	Group map[int]string    // of the containers that have one
	// PerHost is how many moves a host may be part of, HostRate and Rate how many bytes a second may go from or to one host,
	// and in all; 0: any number. One move is always allowed.
	PerHost        int
	HostRate, Rate float64
}

// Traffic is that of a plan which is made of the snapshot.
func (s Snapshot) Traffic() Traffic {
	t := Traffic{
		Zone: map[string]string{}, Group: map[int]string{},
		PerHost: s.Policy.MovesPerHost, HostRate: float64(s.Policy.HostMoveRate) / 8, Rate: float64(s.Policy.MoveRate) / 8,
	}
	for _, h := range s.Hosts {
		t.Zone[h.Name] = h.Labels[cluster.ZoneLabel]
	}
	for _, c := range s.Containers {
		if c.Rules.Group != "" {
			t.Group[c.ID] = c.Rules.Group
		}
	}
	return t
}

// Next returns the first step that has not begun and may begin: it waits for none, and there is bandwidth for it. So every
// host is at any time as full as in the plan's order, or less. -1 means none.
func (t Traffic) Next(steps []cluster.Move, begun, ended []bool) int {
	var under []cluster.Move
	for i := range steps {
		if begun[i] && !ended[i] {
			under = append(under, steps[i])
		}
	}
	for i, step := range steps {
		if begun[i] || !t.room(step, under) {
			continue
		}
		free := true
		for j, earlier := range steps[:i] {
			if !ended[j] && t.waits(step, earlier) {
				free = false
				break
			}
		}
		if free {
			return i
		}
	}
	return -1
}

// waits reports whether a step must not begin before an earlier one has ended: that moves the same container, or makes room
// where this one goes, on the host or in the zone of its group.
func (t Traffic) waits(step, earlier cluster.Move) bool {
	group := t.Group[step.Container]
	return earlier.Container == step.Container || earlier.From == step.To ||
		group != "" && group == t.Group[earlier.Container] && t.Zone[earlier.From] == t.Zone[step.To]
}

// room reports whether there is bandwidth for one more move.
func (t Traffic) room(step cluster.Move, under []cluster.Move) bool {
	total := rate(step)
	for _, host := range []string{step.From, step.To} {
		moves, bytes := 0, rate(step)
		for _, u := range under {
			if u.From == host || u.To == host {
				moves, bytes = moves+1, bytes+rate(u)
			}
		}
		if t.PerHost > 0 && moves >= t.PerHost || t.HostRate > 0 && moves > 0 && bytes > t.HostRate {
			return false
		}
	}
	for _, u := range under {
		total += rate(u)
	}
	return t.Rate <= 0 || len(under) == 0 || total <= t.Rate
}

// rate is how many bytes a second a move is expected to send.
func rate(m cluster.Move) float64 {
	if m.Cost.Seconds <= 0 {
		return assumedRate
	}
	return float64(m.Cost.Bytes) / m.Cost.Seconds
}
