package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// nothing is a state machine that does nothing with what it is given.
type nothing struct{}

func (nothing) Apply(*raft.Log) any { return nil }
func (nothing) Snapshot() (raft.FSMSnapshot, error) {
	return nil, errors.New("there is nothing to keep")
}
func (nothing) Restore(r io.ReadCloser) error { return r.Close() }

// bareVoters is the floor of what is committed durably: three voters on this machine with logs like ours and a network that
// costs nothing. It returns how long entries of a size took, in ms.
func bareVoters(dir string, size, entries int) (took []float64, err error) {
	if dir, err = os.MkdirTemp(dir, "voters-"); err != nil {
		return nil, fmt.Errorf("make a folder for bare voters: %w", err)
	}
	var voters []*raft.Raft
	var conf raft.Configuration
	var networks []*raft.InmemTransport
	for i := range 3 {
		name := fmt.Sprintf("voter%d", i)
		_, network := raft.NewInmemTransport(raft.ServerAddress(name))
		log, err := raftboltdb.New(raftboltdb.Options{
			Path: filepath.Join(dir, name), BoltOptions: &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType},
		})
		if err != nil {
			return nil, fmt.Errorf("make the log of a bare voter: %w", err)
		}
		defer log.Close()
		for _, other := range networks {
			other.Connect(network.LocalAddr(), network)
			network.Connect(other.LocalAddr(), other)
		}
		networks = append(networks, network)
		conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(name), Address: network.LocalAddr()})
		c := raft.DefaultConfig()
		c.LocalID, c.LogOutput = raft.ServerID(name), io.Discard
		voter, err := raft.NewRaft(c, nothing{}, log, log, raft.NewDiscardSnapshotStore(), network)
		if err != nil {
			return nil, fmt.Errorf("start a bare voter: %w", err)
		}
		defer func() { _ = voter.Shutdown().Error() }()
		voters = append(voters, voter)
	}
	if err := voters[0].BootstrapCluster(conf).Error(); err != nil {
		return nil, fmt.Errorf("bootstrap the bare voters: %w", err)
	}
	leader, err := leads(voters)
	if err != nil {
		return nil, err
	}
	for range entries {
		begin := time.Now()
		if err := leader.Apply(make([]byte, size), patience).Error(); err != nil {
			return nil, fmt.Errorf("commit through bare voters: %w", err)
		}
		took = append(took, ms(time.Since(begin)))
	}
	return took, nil
}

// leads waits until one of the voters leads.
func leads(voters []*raft.Raft) (*raft.Raft, error) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, v := range voters {
			if v.State() == raft.Leader {
				return v, nil
			}
		}
	}
	return nil, errors.New("none of the bare voters leads")
}
