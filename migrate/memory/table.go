package memory

import (
	"maps"
	"slices"
)

// table keeps a value for pages of a space; the zero value means none.
type table[V comparable] struct {
	regions map[uint64]*[regionPages]V
}

// regionPages is how many neighbouring pages are kept together.
const regionPages = 512

func newTable[V comparable]() *table[V] { return &table[V]{map[uint64]*[regionPages]V{}} }

func (t *table[V]) get(page uint64) (v V) {
	if r := t.regions[page/regionPages]; r != nil {
		return r[page%regionPages]
	}
	return v
}

// set keeps a value, and says whether that took memory for a new region.
func (t *table[V]) set(page uint64, v V) (grown bool) {
	r := t.regions[page/regionPages]
	if r == nil {
		r, grown = new([regionPages]V), true
		t.regions[page/regionPages] = r
	}
	r[page%regionPages] = v
	return grown
}

// all calls f for every page that has a value, in ascending order.
func (t *table[V]) all(f func(page uint64, v V)) {
	var none V
	for _, at := range slices.Sorted(maps.Keys(t.regions)) {
		for i, v := range t.regions[at] {
			if v != none {
				f(at*regionPages+uint64(i), v)
			}
		}
	}
}
