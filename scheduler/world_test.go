package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/vzcluster/vzcluster/cluster"
)

// world checks plans by what the words of the rules say: it counts for itself and calls nothing of the planner.
type world struct {
	snap       Snapshot
	hosts      map[string]*HostView
	containers map[int]*cluster.Container
	at         map[int]string // where each container is
	coming     map[int]string // where it is on its way to: it has its room there too
	foreign    map[string]cluster.Resources
}

func newWorld(s Snapshot) *world {
	w := &world{
		snap: s, hosts: map[string]*HostView{}, containers: map[int]*cluster.Container{}, at: map[int]string{}, coming: map[int]string{},
		foreign: map[string]cluster.Resources{},
	}
	for _, h := range s.Hosts {
		w.hosts[h.Name] = &h
		w.foreign[h.Name] = h.Reserved
	}
	for _, c := range s.Containers {
		w.containers[c.ID], w.at[c.ID] = &c, c.Host
		w.foreign[c.Host] = w.foreign[c.Host].Sub(c.Need())
	}
	return w
}

func (w *world) ids() []int {
	var ids []int
	for id := range w.containers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// excess is by how much each thing that must not be is so: overcommitted resources, limits of groups, constraints.
func (w *world) excess() map[string]int64 {
	out := map[string]int64{}
	over := func(what string, by int64) {
		if by > 0 {
			out[what] = by
		}
	}
	type crowdKey struct{ place, group string }
	count, most := map[crowdKey]int64{}, map[crowdKey]int64{}
	limit := func(k crowdKey, n int) {
		count[k]++
		if n > 0 && (most[k] == 0 || int64(n) < most[k]) {
			most[k] = int64(n)
		}
	}
	for name, h := range w.hosts {
		used := w.foreign[name]
		for id, c := range w.containers {
			if w.at[id] == name || w.coming[id] == name {
				used = used.Add(c.Need())
			}
			if to := w.heading(id); to == name {
				if c.Rules.Group != "" {
					limit(crowdKey{"host " + name, c.Rules.Group}, c.Rules.MaxPerHost)
					limit(crowdKey{"zone " + h.Labels["zone"], c.Rules.Group}, c.Rules.MaxPerZone)
				}
				for _, k := range c.Rules.Constraints {
					if !holds(k, h) {
						over(fmt.Sprintf("%s is on %s against %s", c.Name, name, k), 1)
					}
				}
				if c.Rules.Pinned != "" && c.Rules.Pinned != name {
					over(fmt.Sprintf("%s is on %s and pinned to %s", c.Name, name, c.Rules.Pinned), 1)
				}
			}
		}
		over(name+" cpu", used.MilliCPU-h.Capacity.MilliCPU)
		over(name+" ram", used.RAM-h.Capacity.RAM)
		over(name+" disk", used.Disk-h.Capacity.Disk)
		over(name+" guaranteed", used.Guaranteed-h.Capacity.Guaranteed)
		over(name+" containers", used.Containers-h.Capacity.Containers)
	}
	for k, n := range count {
		if most[k] > 0 {
			over(fmt.Sprintf("group %s in %s", k.group, k.place), n-most[k])
		}
	}
	return out
}

// heading is the host that a container's rules are asked of.
func (w *world) heading(id int) string {
	if to := w.coming[id]; to != "" {
		return to
	}
	return w.at[id]
}

// holds is what a constraint means, of the kinds that are drawn.
func holds(k cluster.Constraint, h *HostView) bool {
	value, ok := h.Labels[k.Key]
	switch k.Op {
	case cluster.OpIn:
		return ok && slices.Contains(k.Values, value)
	case cluster.OpNotIn:
		return !slices.Contains(k.Values, value)
	case cluster.OpExists:
		return ok
	}
	return !ok
}

// survivable says of every host that takes containers whether its protected containers could go elsewhere, by trying
// every way; empty hosts can be left out.
func (w *world) survivable(withoutEmpty bool, drained string) map[string]bool {
	out := map[string]bool{}
	for name, h := range w.hosts {
		if !h.Alive || h.State != cluster.HostActive || name == drained {
			continue
		}
		var mourned []int
		for _, id := range w.ids() {
			if w.at[id] == name && w.containers[id].Rules.Priority >= 0 {
				mourned = append(mourned, id)
			}
		}
		out[name] = w.rehome(name, mourned, withoutEmpty, drained)
	}
	return out
}

func (w *world) rehome(dead string, mourned []int, withoutEmpty bool, drained string) bool {
	if len(mourned) == 0 {
		return true
	}
	id := mourned[0]
	used := map[string]bool{}
	for _, host := range w.at {
		used[host] = true
	}
	for _, h := range w.snap.Hosts {
		if h.Name == dead || h.Name == drained || !h.Alive || h.State != cluster.HostActive || withoutEmpty && !used[h.Name] {
			continue
		}
		from := w.at[id]
		w.at[id] = h.Name
		if w.keeps(id) && w.rehome(dead, mourned[1:], withoutEmpty, drained) {
			w.at[id] = from
			return true
		}
		w.at[id] = from
	}
	return false
}

// keeps reports whether nothing that a container is part of is more than it may be.
func (w *world) keeps(id int) bool {
	c, host := w.containers[id], w.at[id]
	zone, group := w.hosts[host].Labels["zone"], c.Rules.Group
	for what := range w.excess() {
		if strings.HasPrefix(what, host+" ") || strings.HasPrefix(what, c.Name+" is on ") ||
			group != "" && (what == "group "+group+" in host "+host || what == "group "+group+" in zone "+zone) {
			return false
		}
	}
	return true
}

// worse names something that is more so than before.
func worse(before, now map[string]int64) string {
	var names []string
	for what, by := range now {
		if by > before[what] {
			names = append(names, fmt.Sprintf("%s: %d over, %d before", what, by, before[what]))
		}
	}
	slices.Sort(names)
	return fmt.Sprint(names)[1:][:max(len(fmt.Sprint(names))-2, 0)]
}

// drawRuled draws a cluster with rules of every kind, some of them broken already.
func drawRuled(t *rapid.T) Snapshot {
	some := func(name string, n int) bool { return rapid.IntRange(0, n).Draw(t, name) == 0 }
	s := Snapshot{Now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), Moves: map[int]*cluster.MoveResult{}, Seed: uint64(rapid.IntRange(0, 3).Draw(t, "seed"))}
	s.Policy = cluster.Policy{
		Placement: rapid.SampledFrom(cluster.Placements()).Draw(t, "placement"), Survive: some("survive", 1),
		RAMPercent: rapid.SampledFrom([]int64{0, 150}).Draw(t, "overcommit"),
	}
	names := []string{"host1", "host2", "host3", "host4", "host5"}[:rapid.IntRange(1, 5).Draw(t, "hosts")]
	id := 100
	for _, name := range names {
		host := cluster.Host{Name: name, Capacity: cluster.Resources{MilliCPU: rapid.Int64Range(4, 10).Draw(t, "cpu"), RAM: 100 * rapid.Int64Range(4, 16).Draw(t, "ram"), Disk: 20}}
		host.MaxContainers = rapid.Int64Range(0, 6).Draw(t, "most")
		h := HostView{Name: name, State: cluster.HostActive, Alive: !some("dead", 9), Labels: map[string]string{}, Capacity: s.Policy.Offer(&host)}
		if zone := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone"); zone != "" {
			h.Labels["zone"] = zone
		}
		if some("ssd", 1) {
			h.Labels["ssd"] = "yes"
		}
		if some("cordoned", 9) {
			h.State = cluster.HostCordoned
		}
		for range rapid.IntRange(0, 4).Draw(t, "containers") {
			id++
			c := drawContainer(t, id, name, names)
			if !h.Free().Fits(c.Need()) {
				continue
			}
			h.Reserved = h.Reserved.Add(c.Need())
			s.Containers = append(s.Containers, c)
			if some("moved", 2) {
				s.Moves[c.ID] = &cluster.MoveResult{BlackoutMS: float64(rapid.IntRange(50, 500).Draw(t, "blackout")), TotalMS: 9000, Bytes: c.Limits.RAM, Memory: c.Limits.RAM / 2}
			}
		}
		s.Hosts = append(s.Hosts, h)
	}
	return s
}

func drawContainer(t *rapid.T, id int, host string, hosts []string) cluster.Container {
	some := func(name string, n int) bool { return rapid.IntRange(0, n).Draw(t, name) == 0 }
	c := ct(id, fmt.Sprintf("ct%d", id), host, cluster.Resources{
		MilliCPU: rapid.Int64Range(0, 3).Draw(t, "c"), RAM: 100 * rapid.Int64Range(1, 6).Draw(t, "r"), Disk: rapid.Int64Range(0, 6).Draw(t, "d"),
	})
	c.State = rapid.SampledFrom([]cluster.ContainerState{cluster.Running, cluster.Running, cluster.Running, cluster.Stopped, cluster.Suspended}).Draw(t, "state")
	r := &c.Rules
	r.Priority = rapid.SampledFrom([]int{0, 0, 5, -1}).Draw(t, "priority")
	if some("group", 1) {
		r.Group = rapid.SampledFrom([]string{"web", "db"}).Draw(t, "of")
		r.MaxPerHost, r.MaxPerZone = rapid.IntRange(0, 2).Draw(t, "per host"), rapid.IntRange(0, 3).Draw(t, "per zone")
	}
	if some("constraint", 4) {
		r.Constraints = []cluster.Constraint{rapid.SampledFrom([]cluster.Constraint{
			{Key: "zone", Op: cluster.OpIn, Values: []string{"a"}}, {Key: "zone", Op: cluster.OpNotIn, Values: []string{"b"}}, {Key: "ssd", Op: cluster.OpExists},
		}).Draw(t, "which")}
	}
	if some("affinity", 4) {
		r.Affinities = []cluster.Affinity{{Constraint: cluster.Constraint{Key: cluster.GroupKey, Op: cluster.OpIn, Values: []string{"web"}}, Weight: rapid.SampledFrom([]int{-60, 60}).Draw(t, "weight")}}
	}
	r.Policy = rapid.SampledFrom([]cluster.Placement{"", "", cluster.Pack, cluster.Balanced}).Draw(t, "policy")
	r.Stay = some("stay", 9)
	if some("pin", 9) {
		r.Pinned = rapid.SampledFrom(hosts).Draw(t, "to")
	}
	if some("window", 9) {
		r.Window = cluster.Window{From: 60, To: 120} // it is noon
	}
	if some("budget", 7) {
		r.MaxDowntimeMS = 200
	}
	if some("guarantee", 4) {
		r.Guarantee = c.Limits.RAM
	}
	if some("busy", 15) {
		c.Operation = "op"
	}
	if some("blocked", 15) {
		v := cluster.NewVerdict([]cluster.Blocker{{What: "a thing is in the way", Remedy: "end it"}})
		c.Verdict = &v
	}
	return c
}
