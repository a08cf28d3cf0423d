package scheduler

import (
	"fmt"
	"maps"
	"slices"

	"github.com/vzcluster/vzcluster/cluster"
)

// survival knows for every host of a board where its protected containers would go if it died, so that the question
// whether one more container spoils that costs little. The answer is a sufficient one: homes that are not found count as
// homes that there are not.
type survival struct {
	b     *Board
	homes []map[int32]int32             // by host: the new homes of its protected containers
	load  []map[int32]cluster.Resources // by host: what the loss of each other host would bring to it
	lost  []int                         // by host: protected containers that have no new home
}

// newSurvival looks at every host that takes containers. What is on one that does not is on its way elsewhere, and finds
// there what it needs.
func newSurvival(b *Board) *survival {
	n := len(b.hosts)
	s := &survival{b: b, homes: make([]map[int32]int32, n), load: make([]map[int32]cluster.Resources, n), lost: make([]int, n)}
	for h := range b.hosts {
		if b.shut[h] == "" {
			homes, lost := s.rehome(h)
			s.set(h, homes, lost)
		}
	}
	return s
}

// rehome finds new homes for what is on a host: quickly on the hosts that follow it, or else as lose does.
func (s *survival) rehome(host int) (homes map[int32]int32, lost int) {
	mourned := s.b.mourned(host)
	if len(mourned) == 0 {
		return nil, 0
	}
	if homes := s.walk(host, mourned); homes != nil {
		return homes, 0
	}
	homes = map[int32]int32{}
	for i, h := range s.b.lose(host) {
		homes[int32(i)] = int32(h)
	}
	if len(homes) < len(mourned) && len(s.b.hosts) <= exactHosts {
		if exact := s.search(host, mourned); exact != nil {
			homes = exact
		}
	}
	return homes, len(mourned) - len(homes)
}

// search looks at every way to bring a host's containers elsewhere, within bounds; nil when there is none.
func (s *survival) search(host int, mourned []int) map[int32]int32 {
	b := s.b
	free := b.free[host]
	defer func() { b.free[host] = free }()
	if !b.pack(mourned, func(h int) bool { return h != host }) {
		return nil
	}
	homes := make(map[int32]int32, len(mourned))
	for _, i := range mourned {
		homes[int32(i)] = int32(b.Host(i))
		b.Take(i)
		b.Put(i, host)
	}
	return homes
}

// walk gives each container the first host with room, from where the last one found it; nil when one finds none. The
// board is afterwards as before.
func (s *survival) walk(host int, mourned []int) map[int32]int32 {
	b, n := s.b, len(s.b.hosts)
	homes := make(map[int32]int32, len(mourned))
	free := b.free[host]
	at, complete := (host+1)%n, true
	for _, i := range mourned {
		b.Take(i)
		found := -1
		for k := range n {
			if h := (at + k) % n; h != host && b.free[h].Fits(b.all[i].Need) && b.Why(i, h) == "" {
				found = h
				break
			}
		}
		if found < 0 {
			b.Put(i, host)
			complete = false
			break
		}
		b.Put(i, found)
		homes[int32(i)], at = int32(found), found
	}
	for _, i := range mourned {
		if at := b.Host(i); at != host {
			b.Take(i)
			b.Put(i, host)
		}
	}
	b.free[host] = free
	if !complete {
		return nil
	}
	return homes
}

func (s *survival) set(host int, homes map[int32]int32, lost int) {
	for i, x := range s.homes[host] {
		s.carry(host, int(x), cluster.Resources{}.Sub(s.b.all[i].Need))
	}
	for i, x := range homes {
		s.carry(host, int(x), s.b.all[i].Need)
	}
	s.homes[host], s.lost[host] = homes, lost
}

// carry changes what the loss of a host would bring to another one.
func (s *survival) carry(dead, to int, by cluster.Resources) {
	if s.load[to] == nil {
		s.load[to] = map[int32]cluster.Resources{}
	}
	if sum := s.load[to][int32(dead)].Add(by); sum != (cluster.Resources{}) {
		s.load[to][int32(dead)] = sum
	} else {
		delete(s.load[to], int32(dead))
	}
}

// finding is new homes for what is on one host.
type finding struct {
	host  int
	homes map[int32]int32
	lost  int
}

// admit says whether every loss is survived as well as before now that an item has come to a host. The findings are to be
// kept if it stays there. Else it names a host whose loss is worse: the lowest one, so that it is always the same.
func (s *survival) admit(item int) (found []finding, worse int) {
	b, host := s.b, s.b.Host(item)
	ask := map[int32]bool{}
	for h, load := range s.load[host] {
		if !b.free[host].Fits(load) {
			ask[h] = true
		}
	}
	if g := b.groups[b.all[item].Rules.Group]; g != nil {
		for h := range g.onHost {
			ask[int32(h)] = true // its limits count in new homes too
		}
	}
	delete(ask, int32(host))
	for _, h := range slices.Sorted(maps.Keys(ask)) { // in order: what is done to the board leaves traces in its sums
		if b.shut[h] != "" {
			continue
		}
		homes, lost := s.rehome(int(h))
		if lost > s.lost[h] {
			return nil, int(h)
		}
		found = append(found, finding{int(h), homes, lost})
	}
	if b.shut[host] == "" && b.all[item].Rules.Protected() {
		f := s.extend(host, item)
		if f.lost > s.lost[host] {
			return nil, host
		}
		found = append(found, f)
	}
	return found, -1
}

// extend finds a home for one more container of a host, the others keep theirs if that suffices.
func (s *survival) extend(host, item int) finding {
	b := s.b
	if b.all[item].Rules.Group == "" && s.lost[host] == 0 {
		gone := map[int32]cluster.Resources{}
		for _, x := range s.homes[host] {
			gone[x] = s.load[x][int32(host)]
		}
		for x, load := range gone {
			b.free[x] = b.free[x].Sub(load)
		}
		to := b.tightest(&b.all[item], host)
		for x, load := range gone {
			b.free[x] = b.free[x].Add(load)
		}
		if to >= 0 {
			homes := maps.Clone(s.homes[host])
			if homes == nil {
				homes = map[int32]int32{}
			}
			homes[int32(item)] = int32(to)
			return finding{host, homes, 0}
		}
	}
	homes, lost := s.rehome(host)
	return finding{host, homes, lost}
}

func (s *survival) keep(found []finding) {
	for _, f := range found {
		s.set(f.host, f.homes, f.lost)
	}
}

// left notes that an item is no longer on a host.
func (s *survival) left(item, host int) {
	home, ok := s.homes[host][int32(item)]
	switch {
	case ok:
		delete(s.homes[host], int32(item))
		s.carry(host, int(home), cluster.Resources{}.Sub(s.b.all[item].Need))
	case s.b.shut[host] == "" && s.b.all[item].Rules.Protected():
		s.lost[host]--
	}
}

// risk says why a container that is nowhere should not come to a host where it has room, or "".
func (b *Board) risk(item, host int) string {
	if b.safe == nil {
		return ""
	}
	b.Put(item, host)
	_, worse := b.safe.admit(item)
	b.Take(item)
	return b.riskOf(worse)
}

func (b *Board) riskOf(worse int) string {
	if worse < 0 {
		return ""
	}
	return fmt.Sprintf("the cluster could not survive the loss of %s with it", b.Name(worse))
}

// settle puts a container that is nowhere on a host, and has the board know what that means for losses of hosts.
func (b *Board) settle(item, host int) {
	b.Put(item, host)
	if b.safe == nil {
		return
	}
	if found, worse := b.safe.admit(item); worse < 0 {
		b.safe.keep(found)
		return
	}
	b.safe = newSurvival(b)
}

// unsettle takes a container off its host again.
func (b *Board) unsettle(item int) {
	host := b.Host(item)
	b.Take(item)
	if b.safe != nil {
		b.safe.left(item, host)
	}
}

// guard has the board know what the loss of a host would mean, if the policy wants that to be survived.
func (b *Board) guard() {
	if b.policy.Survive {
		b.safe = newSurvival(b)
	}
}
