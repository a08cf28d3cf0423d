package memory

import (
	"math/rand/v2"
	"testing"
)

// TestMissing compares the runs of missing pages with a plain map of pages, over random changes.
func TestMissing(t *testing.T) {
	const room = 64
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		m, want := missing{{page: 8, n: 20, origin: 8}, {page: 40, n: 10, origin: 40}}, map[uint64]uint64{}
		for _, g := range m {
			for i := range g.n {
				want[g.page+i] = g.origin + i
			}
		}
		for range 40 {
			first, n, to := random.Uint64N(room), 1+random.Uint64N(12), random.Uint64N(room)
			if random.IntN(2) == 0 {
				m.take(first, first+n)
				for page := first; page < first+n; page++ {
					delete(want, page)
				}
			} else if to+n <= first || first+n <= to { // the kernel moves nothing onto itself
				moved := map[uint64]uint64{}
				for page := first; page < first+n; page++ {
					if origin, lacks := want[page]; lacks {
						moved[page-first+to] = origin
					}
					delete(want, page)
					delete(want, page-first+to)
				}
				m.move(first, to, n)
				for page, origin := range moved {
					want[page] = origin
				}
			}
			compare(t, seed, m, want, 2*room)
		}
	}
}

func compare(t *testing.T, seed uint64, m missing, want map[uint64]uint64, room uint64) {
	t.Helper()
	for page := range room {
		g, lacks := m.find(page)
		if origin, does := want[page]; lacks != does || does && g.origin != origin {
			t.Fatalf("seed %d: page %d of %v: %v %v, want %d %v", seed, page, m, g, lacks, origin, does)
		}
		found := 0
		for _, g := range m.of(page, page+1) {
			if want[g.page] != page || g.n != 1 {
				t.Fatalf("seed %d: %v is not page %d of the source", seed, g, page)
			}
			found++
		}
		for _, origin := range want {
			if origin == page {
				found--
			}
		}
		if found != 0 {
			t.Fatalf("seed %d: page %d of the source is found %d times too often in %v, want %v", seed, page, found, m, want)
		}
	}
}

func FuzzDecodeWant(f *testing.F) {
	f.Add(Want{ProcessSpace(1), 16, 8}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := DecodeWant(b)
		if err == nil && string(w.Encode()) != string(b[:wantSize]) {
			t.Errorf("%x is understood as %+v", b, w)
		}
	})
}
