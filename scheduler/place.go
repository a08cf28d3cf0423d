package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/vzcluster/vzcluster/cluster"
)

// templateBonus is what a copy of the template is worth, in parts of a host's capacity: it breaks near-ties and never
// outweighs real room.
const templateBonus = 0.02

// Request asks for room for one container.
type Request struct {
	Need     cluster.Resources
	Template string // digest; HostView.HasTemplate speaks of it
	Pin      string // the only host that may take it; empty: any
	Exclude  string // a host that may not take it: the one that it is to leave
}

// Decision is a placement and its reasons.
type Decision struct {
	Host  string // empty: nowhere
	Why   string // one sentence
	Hosts []HostReason
}

// HostReason is one host's part of a decision.
type HostReason struct {
	Host   string
	Fits   bool
	Score  float64 // higher is better; 0 where it does not fit
	Free   cluster.Resources
	Reason string

	containers int
	topic      string // what Reason says, to be followed by "on HOST"; or a predicate of the host
}

// Place chooses the host with the most room left after placement, measured by its scarcest resource; equals are told
// apart by the number of containers, then by name.
func Place(snap Snapshot, req Request) Decision {
	d := Decision{}
	owned := map[string]int{}
	for _, c := range snap.Containers {
		owned[c.Host]++
	}
	var best *HostReason
	hosts := snap.hosts()
	for _, h := range hosts {
		d.Hosts = append(d.Hosts, judge(h, req, owned[h.Name]))
	}
	fitting := 0
	for i := range d.Hosts {
		if r := &d.Hosts[i]; r.Fits {
			fitting++
			if best == nil || better(*r, *best) < 0 {
				best = r
			}
		}
	}
	switch {
	case best == nil:
		d.Why = nowhere(d.Hosts, req)
	case req.Pin != "":
		d.Host, d.Why = best.Host, fmt.Sprintf("%s was asked for and has room: %s", best.Host, best.Reason)
	case fitting == 1:
		d.Host, d.Why = best.Host, fmt.Sprintf("%s is the only host that can take it: %s", best.Host, best.Reason)
	default:
		d.Host, d.Why = best.Host, fmt.Sprintf("%s has the most room of %d hosts: %s", best.Host, fitting, best.Reason)
	}
	return d
}

// judge runs one host through the filters and scores it.
func judge(h HostView, req Request, containers int) HostReason {
	r := HostReason{Host: h.Name, Free: h.Free(), containers: containers}
	switch {
	case req.Pin != "" && h.Name != req.Pin:
		r.Reason = "another host was asked for"
	case h.Name == req.Exclude:
		r.Reason = "it is there already"
	case h.barred() != "":
		r.topic, r.Reason = h.barred(), "is "+h.barred()
	case !r.Free.Fits(req.Need):
		r.Reason = r.Free.Lacks(req.Need)
		r.topic = r.Reason
	default:
		share, scarcest := freeShare(r.Free.Sub(req.Need), h.Capacity)
		r.Fits, r.Score = true, share
		r.Reason = fmt.Sprintf("%.0f%% of its %s stays free, %s", share*100, scarcest, count(containers, "container"))
		if h.HasTemplate {
			r.Score += templateBonus
			r.Reason += ", has the template"
		}
	}
	return r
}

func better(a, b HostReason) int {
	return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.containers, b.containers), strings.Compare(a.Host, b.Host))
}

// nowhere says in one sentence why no host can take the container, hosts with the same reason together.
func nowhere(hosts []HostReason, req Request) string {
	if req.Pin != "" && req.Pin == req.Exclude {
		return fmt.Sprintf("no host can take it: it is on %s already", req.Pin)
	}
	if req.Pin != "" && !slices.ContainsFunc(hosts, func(r HostReason) bool { return r.Host == req.Pin }) {
		return fmt.Sprintf("no host can take it: there is no host named %s", req.Pin)
	}
	var topics []string
	names := map[string][]string{}
	for _, r := range hosts {
		if r.topic == "" {
			continue
		}
		if names[r.topic] == nil {
			topics = append(topics, r.topic)
		}
		names[r.topic] = append(names[r.topic], r.Host)
	}
	var parts []string
	for _, t := range topics {
		ns := names[t]
		switch {
		case t == "down" || t == "cordoned":
			verb := " is "
			if len(ns) > 1 {
				verb = " are "
			}
			parts = append(parts, list(ns)+verb+t)
		default:
			parts = append(parts, t+" on "+list(ns))
		}
	}
	if len(parts) == 0 && req.Exclude != "" {
		return "no host can take it: there is no other host"
	}
	if len(parts) == 0 {
		return "no host can take it: the cluster has no hosts"
	}
	return "no host can take it: " + strings.Join(parts, "; ")
}
