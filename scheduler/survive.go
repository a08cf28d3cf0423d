package scheduler

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/vzcluster/vzcluster/cluster"
)

// Loss is what the cluster could not do if a host died.
type Loss struct {
	Host     string
	Protects int        // containers on it that are protected
	Unplaced []Unplaced // those of them that would fit nowhere
}

// WhatIf says where the protected containers of a host would go if it died, and which would fit nowhere.
func WhatIf(snap Snapshot, host string) (Loss, []cluster.Move) {
	b, cs := snap.board()
	h := b.Find(host)
	if h < 0 {
		return Loss{Host: host}, nil
	}
	loss := Loss{Host: host}
	var moves []cluster.Move
	homes := b.lose(h)
	for _, i := range b.mourned(h) {
		loss.Protects++
		c := cs[i]
		if to, ok := homes[i]; ok {
			moves = append(moves, cluster.Move{Container: c.ID, Name: c.Name, From: host, To: b.Name(to), Why: host + " died"})
			continue
		}
		loss.Unplaced = append(loss.Unplaced, Unplaced{c.ID, c.Name, "no host has room for it after the others of " + host})
	}
	return loss, moves
}

// Losses says of which hosts the loss could not be survived.
func Losses(snap Snapshot) []Loss {
	var losses []Loss
	for _, v := range snap.hosts() {
		if loss, _ := WhatIf(snap, v.Name); len(loss.Unplaced) > 0 {
			losses = append(losses, loss)
		}
	}
	return losses
}

// mourned lists the protected containers of a host, the biggest first.
func (b *Board) mourned(host int) []int {
	var is []int
	for _, i := range b.items[host] {
		if b.all[i].Rules.Protected() {
			is = append(is, int(i))
		}
	}
	slices.SortFunc(is, func(x, y int) int {
		p, q := &b.all[x], &b.all[y]
		return cmp.Or(cmp.Compare(q.Rules.Priority, p.Rules.Priority), cmp.Compare(b.size(q), b.size(p)), cmp.Compare(x, y))
	})
	return is
}

// size is a container's largest part of a host of the largest kind.
func (b *Board) size(it *Item) float64 {
	return max(float64(it.Need.MilliCPU)*b.worth.cpu/cpuCells, float64(it.Need.RAM)*b.worth.ram/ramCells)
}

// lose finds new homes for the protected containers of a host that dies: each goes where it fits tightest. The board
// is afterwards as before.
func (b *Board) lose(host int) map[int]int {
	homes := map[int]int{}
	is := b.mourned(host)
	free, shut := b.free[host], b.shut[host]
	b.shut[host] = down
	for _, i := range is {
		b.Take(i)
		if to := b.tightest(&b.all[i], host); to >= 0 {
			b.Put(i, to)
			homes[i] = to
		}
	}
	for _, i := range is {
		if b.Host(i) >= 0 {
			b.Take(i)
		}
		b.Put(i, host)
	}
	b.free[host], b.shut[host] = free, shut
	return homes
}

// tightest returns the host with the least free memory and CPU that takes a container, -1 for none.
func (b *Board) tightest(it *Item, without int) int {
	best, least := -1, 0.0
	ok := b.may(it.Rules)
	for h := range b.free {
		if h == without || b.shut[h] != "" || !b.free[h].Fits(it.Need) || ok != nil && !ok[h] || !b.takes(it.Rules, h) {
			continue
		}
		left := float64(b.free[h].MilliCPU)*b.worth.cpu/cpuCells + float64(b.free[h].RAM)*b.worth.ram/ramCells
		if best < 0 || left < least || left == least && b.rank[h] < b.rank[best] {
			best, least = h, left
		}
	}
	return best
}

// Room is how many more containers of a shape fit.
type Room struct {
	Now      int
	AfterAny int    // with the worst host dead, its protected containers placed elsewhere
	Worst    string // that host
}

// roomMost bounds what is counted: a shape that asks for nothing would fit for ever.
const roomMost = 1_000_000

// Capacity says how many more containers like the request fit, now and after the loss of any one host.
func Capacity(snap Snapshot, req Request) Room {
	b, _ := snap.board()
	room := Room{Now: b.count(req, -1)}
	room.AfterAny = room.Now
	for h := range b.hosts {
		if b.shut[h] != "" {
			continue
		}
		b, _ := snap.board()
		homes := b.lose(h)
		b.shut[h] = down
		for _, i := range b.mourned(h) {
			if to, ok := homes[i]; ok {
				b.Take(i)
				b.Put(i, to)
			}
		}
		if n := b.count(req, h); n < room.AfterAny || room.Worst == "" {
			room.AfterAny, room.Worst = min(n, room.AfterAny), b.Name(h)
		}
	}
	return room
}

// count puts containers on the board until no more fit.
func (b *Board) count(req Request, dead int) (n int) {
	for n < roomMost {
		i := b.Add(Item{Need: req.Need, Rules: &req.Rules})
		h := b.tightest(&b.all[i], dead)
		if h < 0 {
			return n
		}
		b.Put(i, h)
		n++
		if k := b.more(h, req); k > 1 && req.Rules.Group == "" {
			k = min(k, roomMost-n)
			b.free[h] = b.free[h].Sub(times(req.Need, int64(k)))
			n += k
		}
	}
	return n
}

// more is how many more of a shape fit on one host.
func (b *Board) more(h int, req Request) int {
	n := int64(roomMost)
	for _, part := range [][2]int64{
		{b.free[h].MilliCPU, req.Need.MilliCPU},
		{b.free[h].RAM, req.Need.RAM},
		{b.free[h].Disk, req.Need.Disk},
		{int64(b.free[h].Network), int64(req.Need.Network)},
		{b.free[h].Containers, req.Need.Containers},
		{b.free[h].Guaranteed, req.Need.Guaranteed},
	} {
		if part[1] > 0 {
			n = min(n, part[0]/part[1])
		}
	}
	return int(max(n, 0))
}

func times(r cluster.Resources, n int64) cluster.Resources {
	return cluster.Resources{
		MilliCPU: r.MilliCPU * n, RAM: r.RAM * n, Disk: r.Disk * n,
		Network: r.Network * cluster.BitRate(n), Containers: r.Containers * n, Guaranteed: r.Guaranteed * n,
	}
}

func (l Loss) String() string {
	if len(l.Unplaced) == 0 {
		return fmt.Sprintf("the loss of %s would be survived: its %s fit elsewhere", l.Host, count(l.Protects, "protected container"))
	}
	return fmt.Sprintf("after the loss of %s %s would fit nowhere: %s", l.Host, count(len(l.Unplaced), "container"), stay(l.Unplaced))
}
