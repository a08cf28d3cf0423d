package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// snapshotVersion grows when an older version could not read a snapshot rightly.
const snapshotVersion = 1

// snapshot is the State as JSON; lists are sorted, so equal States write equal bytes.
type snapshot struct {
	Version    int                 `json:"version"`
	Settings   *Settings           `json:"settings"`
	Hosts      []*Host             `json:"hosts"`
	Containers []*Container        `json:"containers"`
	Templates  []*Template         `json:"templates"`
	Replaced   []*Template         `json:"replaced"`
	Operations []*Operation        `json:"operations"`
	Tokens     []*Token            `json:"tokens"`
	Moves      map[int]*MoveResult `json:"moves"`
	Policy     Policy              `json:"policy,omitzero"`
	Automation *Automation         `json:"automation,omitempty"`
	Networks   []*Network          `json:"networks,omitempty"`
	NextID     int                 `json:"next_id"`
	HighID     int                 `json:"high_id"`
	Generation uint64              `json:"generation"`
}

// Snapshot writes the whole state; equal states write equal bytes. ReadState is its opposite.
func (s *State) Snapshot(w io.Writer) error {
	err := json.NewEncoder(w).Encode(snapshot{
		Version:    snapshotVersion,
		Settings:   s.settings,
		Hosts:      s.Hosts(),
		Containers: s.Containers(),
		Templates:  s.Templates(),
		Replaced: slices.SortedFunc(maps.Values(s.replaced), func(a, b *Template) int {
			return strings.Compare(a.Digest, b.Digest)
		}),
		Operations: s.Operations(),
		Tokens:     s.Tokens(),
		Moves:      s.moves,
		Policy:     s.policy,
		Automation: s.automation,
		Networks:   s.Networks()[1:],
		NextID:     s.nextID,
		HighID:     s.highID,
		Generation: s.generation,
	})
	if err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	return nil
}

// ReadState reads what Snapshot wrote. A snapshot of a later version is ErrNewer.
func ReadState(r io.Reader) (*State, error) {
	var snap snapshot
	if err := json.NewDecoder(r).Decode(&snap); err != nil {
		return nil, fmt.Errorf("read the snapshot: %w", err)
	}
	switch {
	case snap.Version > snapshotVersion:
		return nil, Refuse(ErrNewer, "the snapshot has version %d, this agent reads up to %d; upgrade this host's agent",
			snap.Version, snapshotVersion)
	case snap.Version < 1:
		return nil, Refuse(ErrInvalid, "the snapshot has no version; it is not one of vzcluster")
	}
	s := NewState()
	s.settings = snap.Settings
	fill(s.hosts, snap.Hosts, func(h *Host) string { return h.Name })
	fill(s.templates, snap.Templates, func(t *Template) string { return t.Name })
	fill(s.replaced, snap.Replaced, func(t *Template) string { return t.Digest })
	fill(s.operations, snap.Operations, func(o *Operation) string { return o.ID })
	s.containers.begin()
	for _, c := range snap.Containers {
		if c != nil {
			s.putContainer(c)
		}
	}
	s.containers.end()
	s.touch()
	fill(s.tokens, snap.Tokens, func(t *Token) string { return t.ID })
	maps.Copy(s.moves, snap.Moves)
	s.policy, s.automation = snap.Policy, snap.Automation
	fill(s.networks, snap.Networks, func(n *Network) string { return n.Name })
	s.hostsChanged()
	s.changed = false
	s.nextID, s.highID, s.generation = max(snap.NextID, FirstCTID), snap.HighID, snap.Generation
	return s, nil
}

func fill[K comparable, V any](m map[K]*V, list []*V, key func(*V) K) {
	for _, v := range list {
		if v != nil {
			m[key(v)] = v
		}
	}
}
