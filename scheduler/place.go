package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/vzcluster/vzcluster/cluster"
)

// emptyLast is what an empty host is worth less when containers are packed.
const emptyLast = 1

// templateBonus is what a copy of the template is worth, in parts of a host's capacity: it breaks near-ties and never
// outweighs real room.
const templateBonus = 0.02

// Request asks for room for one container.
type Request struct {
	Need     cluster.Resources
	Rules    cluster.Rules
	ID       int    // of the container, when it is there already: it is not counted among those of its group
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
	rank       int32
	topic      string // what Reason says, to be followed by "on HOST"; or a predicate of the host
}

// Place chooses the host that suits a container best: with the policy spread the one with the most room left after
// placement, measured by its scarcest resource; equals are told apart by the number of containers, then by name.
func Place(snap Snapshot, req Request) Decision {
	b, cs := snap.board()
	if req.Rules.Policy == cluster.Pack {
		b.LearnAll()
	}
	for i := range cs {
		if req.ID != 0 && cs[i].ID == req.ID && b.Host(i) >= 0 {
			host := b.Host(i)
			free := b.free[host]
			b.Take(i)
			b.free[host] = free // its room stays taken until it has left
		}
	}
	b.guard()
	return b.place(snap.hosts(), req)
}

func (b *Board) place(views []HostView, req Request) Decision {
	d := Decision{}
	item := b.Add(Item{Need: req.Need, Rules: &req.Rules})
	for h, v := range views {
		d.Hosts = append(d.Hosts, b.judge(item, h, v, req))
	}
	best, fitting := b.bestOf(item, d.Hosts)
	switch {
	case best == nil:
		d.Why = nowhere(d.Hosts, req)
	case req.Pin != "":
		d.Host, d.Why = best.Host, fmt.Sprintf("%s was asked for and has room: %s", best.Host, best.Reason)
	case fitting == 1:
		d.Host, d.Why = best.Host, fmt.Sprintf("%s is the only host that can take it: %s", best.Host, best.Reason)
	default:
		d.Host, d.Why = best.Host, fmt.Sprintf("%s %s of %d hosts: %s", best.Host, b.praise(&req.Rules), fitting, best.Reason)
	}
	return d
}

// bestOf returns the best of the hosts that take a container, and how many do. If losses of hosts are to be survived, those
// that are better but would spoil that are noted as not fitting.
func (b *Board) bestOf(item int, hosts []HostReason) (best *HostReason, fitting int) {
	for {
		best, fitting = nil, 0
		for i := range hosts {
			if r := &hosts[i]; r.Fits {
				fitting++
				if best == nil || better(*r, *best) < 0 {
					best = r
				}
			}
		}
		if best == nil {
			return nil, 0
		}
		why := b.risk(item, b.Find(best.Host))
		if why == "" {
			return best, fitting
		}
		best.Fits, best.Score, best.topic, best.Reason = false, 0, why, why
	}
}

// praise says what the chosen host has over the others.
func (b *Board) praise(r *cluster.Rules) string {
	if len(r.Affinities) > 0 {
		return "suits best"
	}
	switch b.placement(r) {
	case cluster.Pack:
		return "is where least is lost"
	case cluster.Balanced:
		return "is used most evenly"
	}
	return "has the most room"
}

// judge runs one host through the filters and scores it.
func (b *Board) judge(item, host int, h HostView, req Request) HostReason {
	containers := len(b.items[host])
	r := HostReason{Host: h.Name, Free: b.free[host], containers: containers, rank: b.rank[host]}
	switch {
	case req.Pin != "" && h.Name != req.Pin:
		r.Reason = "another host was asked for"
	case h.Name == req.Exclude:
		r.Reason = "it is there already"
	case h.barred() != "":
		r.topic, r.Reason = h.barred(), "is "+h.barred()
	case b.Why(item, host) != "":
		r.Reason = b.Why(item, host)
		r.topic = r.Reason
	default:
		share, scarcest := freeShare(r.Free.Sub(req.Need), h.Capacity)
		r.Fits, r.Score = true, share
		r.Reason = fmt.Sprintf("%.0f%% of its %s stays free, %s", share*100, scarcest, count(containers, "container"))
		if policy := b.placement(&req.Rules); policy != cluster.Spread {
			r.Score = b.score(host, &req.Need, policy)
			if policy == cluster.Pack && containers == 0 {
				r.Score -= emptyLast
			}
		}
		if wishes := b.wishes(&req.Rules, host); wishes != 0 {
			r.Score += wishes
			r.Reason += fmt.Sprintf(", affinity %+.0f", wishes*cluster.MaxWeight/2)
		}
		if h.HasTemplate {
			r.Score += templateBonus
			r.Reason += ", has the template"
		}
	}
	return r
}

func better(a, b HostReason) int {
	return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.containers, b.containers), cmp.Compare(a.rank, b.rank), strings.Compare(a.Host, b.Host))
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
