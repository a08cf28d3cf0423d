package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/vzcluster/vzcluster/cluster"
)

// State returns the state as this replica knows it; it costs nothing. On a follower, and on a new leader before its
// first Barrier, it may be older than what the cluster has agreed on.
func (s *Store) State() *cluster.State { return s.fsm.state.Load() }

// Changed returns a channel that is closed at the next change of the State. To miss nothing, take the channel before
// reading the State.
func (s *Store) Changed() <-chan struct{} { return s.fsm.watch() }

// Apply commits a command and returns its result and its error (of package cluster, or ErrNotLeader,
// ErrUnknownOutcome). Only the leader can. Without a deadline in ctx it gives up after Config.CallTimeout.
func (s *Store) Apply(ctx context.Context, command cluster.Command) (any, error) {
	entry, err := cluster.Encode(command)
	if err != nil {
		return nil, err
	}
	if len(entry) > maxCommand {
		return nil, cluster.Refuse(cluster.ErrInvalid, "the request is too large: %d bytes, at most %d", len(entry), maxCommand)
	}
	if _, err := cluster.Decode(entry); err != nil { // what the replicas cannot read must not get into the log
		return nil, err
	}
	if err := s.fsm.at("raft.asked." + commandName(command)); err != nil {
		return nil, err
	}
	future, err := await(ctx, s, func(timeout time.Duration) raft.ApplyFuture { return s.raft.Apply(entry, timeout) })
	if err != nil {
		return nil, err
	}
	answer := future.Response().(applied)
	return answer.result, answer.err
}

// Barrier returns when this replica leads and has applied everything that was committed before the call. It is
// itself an entry that a quorum must take, so it needs no other proof of leadership.
func (s *Store) Barrier(ctx context.Context) error {
	_, err := await(ctx, s, s.raft.Barrier)
	if errors.Is(err, ErrUnknownOutcome) {
		return fmt.Errorf("no quorum confirmed that this host leads: %w", ErrNotLeader) // a barrier changes nothing
	}
	return err
}

// await runs one request to raft and waits for it no longer than ctx allows.
func await[F raft.Future](ctx context.Context, s *Store, request func(timeout time.Duration) F) (F, error) {
	var none F
	if err := s.fsm.err(); err != nil {
		return none, err
	}
	if err := ctx.Err(); err != nil {
		return none, fmt.Errorf("nothing was changed: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	// Raft takes no context. The goroutine ends when raft knows the outcome, at the latest at shutdown.
	type outcome struct {
		future F
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		f := request(max(time.Until(deadline), time.Millisecond))
		done <- outcome{f, f.Error()}
	}()
	select {
	case o := <-done:
		return o.future, outcomeOf(o.err)
	case <-ctx.Done():
		return none, fmt.Errorf("%w: %w", ErrUnknownOutcome, context.Cause(ctx))
	}
}

// outcomeOf translates raft's errors. What it does not say for certain did not happen is unknown.
func outcomeOf(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrNotLeader
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("nothing was changed, the leader is too busy: %w", context.DeadlineExceeded)
	}
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}

// IsLeader reports whether this replica leads, as far as it knows.
func (s *Store) IsLeader() bool { return s.raft.State() == raft.Leader }

// Leader returns name and address of the leader, empty when this replica knows of none.
func (s *Store) Leader() (name, address string) {
	a, id := s.raft.LeaderWithID()
	return string(id), string(a)
}

// LeaderCh tells when this replica gains (true) and loses (false) leadership; it is closed when the replica stops.
// A slow reader misses only gains that were lost again. It is meant for one reader.
func (s *Store) LeaderCh() <-chan bool { return s.leader }

// StepDown hands leadership to another voter, as far as there is one.
func (s *Store) StepDown() error {
	if err := s.raft.LeadershipTransfer().Error(); err != nil {
		return fmt.Errorf("hand over leadership: %w", err)
	}
	return nil
}

// Snapshot writes a snapshot now and shortens the log; raft does so by itself from time to time.
func (s *Store) Snapshot() error {
	if err := s.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("snapshot the replicated state: %w", err)
	}
	return nil
}

// Failed is closed when the replica had to stop by itself, because it met a log entry that it cannot read; Err then
// says why. Upgrade and restart the agent.
func (s *Store) Failed() <-chan struct{} { return s.fsm.failed }

// Err returns why the replica stopped, nil while it runs.
func (s *Store) Err() error { return s.fsm.err() }

// Close stops the replica and waits until it has stopped. It may be called again.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.stop)
		s.relayed.Wait()
		s.closeErr = s.closeParts()
	})
	return s.closeErr
}

func (s *Store) closeParts() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
