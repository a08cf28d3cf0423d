package simulate

import (
	"slices"

	"github.com/vzcluster/vzcluster/cluster"
)

// bound tells the fewest hosts that could hold a demand, if containers could be cut into pieces: for each resource the
// largest hosts until they hold it, and the most of these numbers.
type bound struct{ sums [3][]int64 }

func parts(r cluster.Resources) [3]int64 { return [3]int64{r.MilliCPU, r.RAM, r.Disk} }

func newBound(hosts []*cluster.Host) *bound {
	b := &bound{}
	for k := range b.sums {
		var sizes []int64
		for _, h := range hosts {
			sizes = append(sizes, min(parts(h.Capacity)[k], 1<<48)) // what is not counted must not overflow
		}
		slices.SortFunc(sizes, func(x, y int64) int { return int(max(min(y-x, 1), -1)) })
		sum := int64(0)
		for _, s := range sizes {
			sum += s
			b.sums[k] = append(b.sums[k], sum)
		}
	}
	return b
}

func (b *bound) hosts(demand cluster.Resources) int {
	most := 0
	for k, need := range parts(demand) {
		n, exact := slices.BinarySearch(b.sums[k], need)
		if need <= 0 {
			continue
		}
		_ = exact
		most = max(most, n+1)
	}
	return most
}
