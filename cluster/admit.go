package cluster

import "fmt"

// Tally is how many containers of a group a host or a zone has, and the tightest limit among them.
type Tally struct {
	Count int
	Max   int // 0: none of them has a limit
}

// Add counts one more container, with its own limit.
func (t Tally) Add(limit int) Tally {
	t.Count++
	if limit > 0 && (t.Max == 0 || limit < t.Max) {
		t.Max = limit
	}
	return t
}

// Takes reports whether one more may come: neither its limit nor that of one which is there may be broken.
func (t Tally) Takes(limit int) bool {
	n := t.Count + 1
	return (limit == 0 || n <= limit) && (t.Max == 0 || n <= t.Max)
}

// Site is a host as one container sees it that might come there.
type Site struct {
	Host   *Host
	Free   Resources // of what the host offers
	OnHost Tally     // of the container's group, without the container itself
	InZone Tally
}

// Admit says why a container cannot be on a host, or "". It is the one predicate that the scheduler asks on a snapshot
// and that the state asks again at commit. Whether the host is alive and takes anything at all is not part of it.
func Admit(site Site, r *Rules, need Resources) string {
	if why := r.Bars(site.Host); why != "" {
		return why
	}
	if why := r.Crowded(site.OnHost, site.InZone); why != "" {
		return why
	}
	if site.Free.Fits(need) {
		return ""
	}
	return site.Free.Lacks(need)
}

// Bars says which rule keeps a container off a host whatever else is there, or "".
func (r *Rules) Bars(h *Host) string {
	if r.Pinned != "" && r.Pinned != h.Name {
		return "it is pinned to " + r.Pinned
	}
	for _, c := range r.Constraints {
		if !c.Holds(h) {
			return "constraint " + c.String() + " not met"
		}
	}
	return ""
}

// Crowded says why one more container of the group is too many, or "".
func (r *Rules) Crowded(onHost, inZone Tally) string {
	switch {
	case r.Group == "":
		return ""
	case !onHost.Takes(r.MaxPerHost):
		return fmt.Sprintf("group %s has %d on one host already", r.Group, onHost.Count)
	case !inZone.Takes(r.MaxPerZone):
		return fmt.Sprintf("group %s has %d in one zone already", r.Group, inZone.Count)
	}
	return ""
}
