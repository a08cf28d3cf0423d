package agent

import (
	"slices"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler"
)

// keptRoom is what the hosts have left. It is kept from one placement to the next and told only what has changed, so
// that a placement does not cost in proportion to the containers. member.placing guards it.
type keptRoom struct {
	placer *scheduler.Placer
	at     *cluster.State // what the placer knows; what was placed on it since is its own
}

// room is what the hosts have left, for containers to be placed; m.placing is held. Hosts that are silent take nothing.
func (m *member) room(silent ...string) *scheduler.Placer {
	s := m.store.State()
	hosts := m.hostViews(s)
	for i, h := range hosts {
		hosts[i].Alive = h.Alive && !slices.Contains(silent, h.Name)
	}
	k := &m.kept
	if k.placer == nil || !k.follow(s) || !k.placer.Refresh(hosts, s.Policy()) {
		snap := m.snapshotOf(s, "")
		snap.Hosts = hosts
		k.placer = scheduler.NewPlacer(snap)
	}
	k.at = s
	return k.placer
}

// follow tells the placer which containers have changed.
func (k *keptRoom) follow(s *cluster.State) bool {
	ids, known := s.ChangedSince(k.at)
	for _, id := range ids {
		k.placer.Set(id, s.Container(id))
	}
	return known
}
