package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// Member is a replica as raft's configuration knows it.
type Member struct {
	Name    string
	Address string
	Voter   bool
}

// Bootstrap makes this empty replica the first and only voter of a new cluster. Repeating it changes nothing; a
// replica that already belongs to another cluster is refused.
func (s *Store) Bootstrap(name, address string) error {
	err := s.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{
		{ID: raft.ServerID(name), Address: raft.ServerAddress(address), Suffrage: raft.Voter},
	}}).Error()
	if errors.Is(err, raft.ErrCantBootstrap) {
		if _, member := s.member(name); member {
			return nil
		}
		return fmt.Errorf("the state in %s belongs to another cluster already: %w", s.cfg.Dir, err)
	}
	if err != nil {
		return fmt.Errorf("bootstrap the replicated state: %w", err)
	}
	return nil
}

// Members returns the replicas of the latest configuration, which may not be committed yet.
func (s *Store) Members() []Member {
	f := s.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	var members []Member
	for _, srv := range f.Configuration().Servers {
		members = append(members, Member{string(srv.ID), string(srv.Address), srv.Suffrage == raft.Voter})
	}
	return members
}

func (s *Store) member(name string) (Member, bool) {
	for _, m := range s.Members() {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}

// SetMember makes a host a replica, with or without a vote, or changes its address or vote. Leader only; repeating it
// changes nothing. Errors are those of Apply.
func (s *Store) SetMember(name, address string, voter bool) error {
	id, addr := raft.ServerID(name), raft.ServerAddress(address)
	m, member := s.member(name)
	switch {
	case member && m == Member{name, address, voter}:
		return nil
	case voter:
		return s.configure(func(t time.Duration) raft.IndexFuture { return s.raft.AddVoter(id, addr, 0, t) })
	case member && m.Voter:
		err := s.configure(func(t time.Duration) raft.IndexFuture { return s.raft.DemoteVoter(id, 0, t) })
		if err != nil || m.Address == address {
			return err
		}
	}
	return s.configure(func(t time.Duration) raft.IndexFuture { return s.raft.AddNonvoter(id, addr, 0, t) })
}

// Remove takes a host out of the configuration. Leader only; repeating it changes nothing. Errors are those of Apply.
func (s *Store) Remove(name string) error {
	if _, member := s.member(name); !member {
		return nil
	}
	return s.configure(func(t time.Duration) raft.IndexFuture { return s.raft.RemoveServer(raft.ServerID(name), 0, t) })
}

func (s *Store) configure(request func(time.Duration) raft.IndexFuture) error {
	_, err := await(context.Background(), s, request)
	if err != nil {
		return fmt.Errorf("change the replicas: %w", err)
	}
	return nil
}
