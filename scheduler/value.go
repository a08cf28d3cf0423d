package scheduler

import (
	"cmp"
	"math"
	"slices"

	"github.com/vzcluster/vzcluster/cluster"
)

// How the worth of free room is learned. The figures were chosen on public traces; docs/scheduler.md says how.
const (
	cpuCells     = 240   // the grid of the table: cells of the largest host's CPU
	ramCells     = 128   // and of its memory
	learnEvery   = 100   // containers between two tables
	learnAlways  = 20    // the first ones count at once
	forget       = 0.998 // what a container's shape still counts when the next one came
	waitCost     = 0.06  // of waiting for the shape that fills the room, times the square of the mean size
	tooRare      = 0.2   // a shape that costs more to wait for than this part of a host is not waited for
	openCost     = 0.001 // from which waste on an empty host is taken, when little room is open
	openRoom     = 3.0   // hosts' worth of open room that are welcome, per thousand hosts in use
	openEarly    = 0.03  // and while little is known of what comes, as a part of all hosts
	known        = 1500  // containers after which that is a third of it
	supposed     = 3     // containers of each shape that are supposed to have come before the first
	supposedPart = 16    // of the largest host's CPU: their size
	smallCluster = 0.5   // divided by the hosts in use: the waste from which a small cluster takes an empty host
	roundRAM     = 0.3   // the part of a cell that a container's memory may stick out
)

// worth tells how much of a host's CPU will stay unused in the end, for what is free of its CPU and memory: the free
// room is filled with shapes that came often lately, each for the price of waiting for it, so that the least is lost. It
// is what tells room of use from room that nothing will ever fit into.
type worth struct {
	cpu, ram float64 // cells per unit
	table    []float32
	shapes   map[shape]*seen
	list     []*seen // in the order of their first container: sums must not depend on a map
	weight   float64 // of the last container: instead of making all others lighter
	count    int
	size     float64 // sum of the sizes
	total    float64 // sum of the weights
}

// shape is what the table tells apart of a container.
type shape struct{ cpu, ram int64 }

type seen struct {
	shape
	weight float64
}

func newWorth(offers []cluster.Resources) *worth {
	w := &worth{shapes: map[shape]*seen{}, weight: 1}
	var most cluster.Resources
	for _, o := range offers {
		most.MilliCPU, most.RAM = max(most.MilliCPU, o.MilliCPU), max(most.RAM, o.RAM)
	}
	w.cpu, w.ram = cpuCells/float64(max(most.MilliCPU, 1)), ramCells/float64(max(most.RAM, 1))
	w.suppose(most)
	return w
}

// suppose has the table begin with small shapes, of the hosts' own proportion and of half the memory, that are forgotten
// as others come: the first ones may be of one kind, and would else be stacked on hosts where they leave much unused.
func (w *worth) suppose(most cluster.Resources) {
	for _, ram := range []int64{most.RAM, most.RAM / 2} {
		s := &seen{shape: shape{most.MilliCPU / supposedPart, ram / supposedPart}, weight: supposed}
		w.shapes[s.shape], w.list = s, append(w.list, s)
		w.total += supposed
	}
}

// waste is the part of the largest host's CPU that will stay unused of the free room.
func (w *worth) waste(free *cluster.Resources) float64 {
	if w.table == nil {
		return 0
	}
	i, j := int(float64(free.MilliCPU)*w.cpu+1e-9), int(float64(free.RAM)*w.ram+1e-9)
	if i < 0 || j < 0 {
		return 0
	}
	return float64(w.table[min(i, cpuCells)*(ramCells+1)+min(j, ramCells)])
}

// learn counts one more container, and reports whether the table is another now.
func (w *worth) learn(need *cluster.Resources) bool {
	key := shape{need.MilliCPU, need.RAM}
	s := w.shapes[key]
	if s == nil {
		s = &seen{shape: key}
		w.shapes[key], w.list = s, append(w.list, s)
	}
	w.weight /= forget
	s.weight += w.weight
	w.total += w.weight
	w.size += max(float64(key.cpu)*w.cpu/cpuCells, float64(key.ram)*w.ram/ramCells)
	w.count++
	if w.weight > 1e200 {
		for _, s := range w.list {
			s.weight /= w.weight
		}
		w.total, w.weight = w.total/w.weight, 1
	}
	if w.count > learnAlways && w.count%learnEvery != 0 {
		return false
	}
	w.rebuild()
	return true
}

// filler is a shape that room can be filled with, in cells.
type filler struct {
	cpu, ram int
	price    float32
}

func (w *worth) fillers() []filler {
	mean := w.size / float64(w.count)
	var fs []filler
	for _, s := range w.list {
		price := waitCost * mean * mean * w.total / s.weight
		if price >= tooRare || s.cpu <= 0 {
			continue
		}
		fs = append(fs, filler{
			int(math.Ceil(float64(s.cpu)*w.cpu - 1e-6)), int(max(math.Ceil(float64(s.ram)*w.ram-roundRAM), 0)), float32(price),
		})
	}
	slices.SortFunc(fs, func(a, b filler) int {
		return cmp.Or(cmp.Compare(a.cpu, b.cpu), cmp.Compare(a.ram, b.ram), cmp.Compare(a.price, b.price))
	})
	return fs
}

// rebuild fills the table, the smallest room first: what is lost is everything, or the least that is lost of what is
// left when one of the shapes is put in.
func (w *worth) rebuild() {
	if w.table == nil {
		w.table = make([]float32, (cpuCells+1)*(ramCells+1))
	}
	fs := w.fillers()
	const row = ramCells + 1
	for i := 0; i <= cpuCells; i++ {
		out := w.table[i*row : (i+1)*row]
		for j := range out {
			out[j] = float32(i) / cpuCells
		}
		for _, f := range fs {
			if f.cpu > i {
				break
			}
			if f.cpu == 0 {
				continue
			}
			in := w.table[(i-f.cpu)*row : (i-f.cpu+1)*row]
			for j := f.ram; j < row; j++ {
				if v := in[j-f.ram] + f.price; v < out[j] {
					out[j] = v
				}
			}
		}
	}
}
