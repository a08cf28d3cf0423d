package scheduler

import (
	"cmp"
	"slices"
	"strings"

	"github.com/vzcluster/vzcluster/cluster"
)

// packBudget bounds how many placements one packing may try, so that a plan is made in milliseconds.
const packBudget = 2000

// pack finds a host for every item (the biggest come first), best fit first, going back when it gets stuck. It reports
// false when there is none, or none was found within the budget. The i-th name belongs to the i-th item.
func pack(items []cluster.Container, hosts []HostView) (to []string, ok bool) {
	p := packing{items: items, hosts: hosts, to: make([]string, len(items)), budget: packBudget}
	var free cluster.Resources
	for _, h := range hosts {
		f := h.Free()
		p.free = append(p.free, f)
		free = free.Add(f.Positive())
	}
	if !free.Fits(sum(items)) {
		return nil, false
	}
	return p.to, p.place(0)
}

type packing struct {
	items  []cluster.Container
	hosts  []HostView
	free   []cluster.Resources // of each host, with the items placed so far
	to     []string
	budget int
}

func (p *packing) place(i int) bool {
	if i == len(p.items) {
		return true
	}
	need := p.items[i].Need()
	for _, h := range p.candidates(need) {
		if p.budget--; p.budget < 0 {
			return false
		}
		p.free[h] = p.free[h].Sub(need)
		p.to[i] = p.hosts[h].Name
		if p.place(i + 1) {
			return true
		}
		p.free[h] = p.free[h].Add(need)
	}
	return false
}

// candidates returns the hosts that fit, the one that would be fullest first; of hosts that look alike only one.
func (p *packing) candidates(need cluster.Resources) []int {
	type candidate struct {
		host int
		left float64
	}
	var cs []candidate
	for h := range p.hosts {
		if !p.free[h].Fits(need) || slices.ContainsFunc(cs, func(c candidate) bool {
			return p.free[c.host] == p.free[h] && p.hosts[c.host].Capacity == p.hosts[h].Capacity
		}) {
			continue
		}
		left, _ := freeShare(p.free[h].Sub(need), p.hosts[h].Capacity)
		cs = append(cs, candidate{h, left})
	}
	slices.SortFunc(cs, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.left, b.left), strings.Compare(p.hosts[a.host].Name, p.hosts[b.host].Name))
	})
	out := make([]int, len(cs))
	for i, c := range cs {
		out[i] = c.host
	}
	return out
}
