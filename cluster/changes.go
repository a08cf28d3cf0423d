package cluster

// keptChanges bounds how far back it is known which containers have changed.
const keptChanges = 1 << 14

// change is one container that was recorded or removed. A State has the last one, which leads to those before it.
type change struct {
	id     int
	count  int
	before *change
}

func (s *State) noteChange(id int) {
	last := &change{id: id, count: s.last.count + 1}
	if last.count%keptChanges != 0 {
		last.before = s.last
	}
	s.last = last
}

// ChangedSince returns the containers that were recorded or removed since an earlier State, some maybe twice. It does not
// know when that was too long ago, or when s does not come from it; then all may have changed.
func (s *State) ChangedSince(earlier *State) (ids []int, known bool) {
	for c := s.last; c != earlier.last; c = c.before {
		if c == nil {
			return nil, false
		}
		ids = append(ids, c.id)
	}
	return ids, true
}
