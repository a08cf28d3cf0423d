package scheduler

// Waves says which moves may run together: the number of the wave of each, from 0 up. A move waits for every earlier
// one that moves the same container or makes room where it goes, in the host or in the zone of its group. So no host
// is at any time fuller than when the moves are made one after the other. Of one wave, a host is part of so many moves
// at most.
func (b *Board) Waves(steps []Step, perHost int) []int {
	waves := make([]int, len(steps))
	left, moved := map[int]int{}, map[int]int{} // the first wave after those that leave a host, or move a container
	type part struct {
		zone  int
		group string
	}
	zones := map[part]int{}
	busy := map[[2]int]int{}
	for k, s := range steps {
		w := max(left[s.To], moved[s.Item])
		group := b.all[s.Item].Rules.Group
		if g := b.groups[group]; group != "" && g != nil && g.limited {
			w = max(w, zones[part{b.zone[s.To], group}])
		}
		for busy[[2]int{w, s.From}] >= perHost || busy[[2]int{w, s.To}] >= perHost {
			w++
		}
		busy[[2]int{w, s.From}]++
		busy[[2]int{w, s.To}]++
		waves[k] = w
		left[s.From] = max(left[s.From], w+1)
		moved[s.Item] = w + 1
		if from := (part{b.zone[s.From], group}); group != "" {
			zones[from] = max(zones[from], w+1)
		}
	}
	return waves
}

// Lightest returns the hosts in use with the least on them, those that can be emptied only.
func (b *Board) Lightest(n int) []int {
	var out []int
	for h := range b.hosts {
		if len(b.items[h]) == 0 || b.stuckOn(h) {
			continue
		}
		at := len(out)
		for at > 0 && b.lighter(h, out[at-1]) {
			at--
		}
		if at < n {
			out = append(out, 0)
			copy(out[at+1:], out[at:])
			out[at] = h
			out = out[:min(len(out), n)]
		}
	}
	return out
}

func (b *Board) lighter(x, y int) bool {
	f, g := b.free[x].MilliCPU*b.offer[y].MilliCPU, b.free[y].MilliCPU*b.offer[x].MilliCPU
	return f > g || f == g && b.rank[x] < b.rank[y]
}
