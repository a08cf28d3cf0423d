package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// Cluster is how a ClusterLedger reaches the replicated state. An error that is none of package cluster's refusals
// means that nothing is known.
type Cluster interface {
	// Apply has the leader commit a command and returns what it returned.
	Apply(ctx context.Context, c cluster.Command) (any, error)
	// Read returns a container as the leader has it after a barrier.
	Read(ctx context.Context, container int) (*cluster.Container, error)
	// State is this host's replica; it may be behind.
	State() *cluster.State
	// Changed returns a channel that is closed at the next change of State.
	Changed() <-chan struct{}
}

// ClusterLedger implements Ledger with commands to, and reads from, the leader.
type ClusterLedger struct {
	Host    string // this one
	Cluster Cluster
}

// askTimeout bounds one question; who asks repeats it until there is an answer.
const askTimeout = 3 * time.Second

// Commit implements Ledger.
func (l *ClusterLedger) Commit(ctx context.Context, operation string) (Fate, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := l.Cluster.Apply(ctx, cluster.CommitMigration{Operation: operation})
	if err == nil {
		return Committed, nil
	}
	if errors.Is(err, cluster.ErrStale) || errors.Is(err, cluster.ErrNotFound) { // it cannot be committed: see to it that it ends
		return l.Abort(ctx, operation, err.Error())
	}
	return Undecided, err
}

// Abort implements Ledger.
func (l *ClusterLedger) Abort(ctx context.Context, operation, reason string) (Fate, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := l.Cluster.Apply(ctx, cluster.AbortMigration{
		Operation: operation, Reason: reason, Refused: strings.HasPrefix(reason, ErrRefused.Error()), At: time.Now().UTC(),
	})
	if err == nil {
		return Aborted, nil
	}
	if errors.Is(err, cluster.ErrStale) { // it can only be too late for an abort after the commit
		return Committed, nil
	}
	return Undecided, err
}

// Read implements Ledger. An operation's status follows from its container's record: while the operation is
// not final it holds the container's lock, and a commit changes the owner and the generation.
func (l *ClusterLedger) Read(ctx context.Context, operation string) (*cluster.Operation, *cluster.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	op, err := l.record(ctx, operation)
	if err != nil {
		return nil, nil, err
	}
	ct, err := l.Cluster.Read(ctx, op.Container)
	if err != nil {
		return nil, nil, err
	}
	now := *op
	handedOver := ct.Generation > op.Generation
	switch {
	case ct.Operation == op.ID && handedOver:
		now.Status = cluster.OpCommitted
	case ct.Operation == op.ID:
		now.Status = cluster.OpRunning
	case handedOver:
		now.Status = cluster.OpDone
	default:
		now.Status = cluster.OpAborted
	}
	return &now, ct, nil
}

// record waits for the replica to have the operation; what it says of its status may be old.
func (l *ClusterLedger) record(ctx context.Context, operation string) (*cluster.Operation, error) {
	for {
		changed := l.Cluster.Changed()
		if op := l.Cluster.State().Operation(operation); op != nil {
			return op, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("operation %s is not known: %w", operation, cluster.ErrNotFound)
		}
	}
}

// Restarted implements Ledger.
func (l *ClusterLedger) Restarted(ctx context.Context, operation string, running bool) error {
	op, ct, err := l.Read(ctx, operation)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	report := cluster.ReportContainer{
		ID: ct.ID, Host: l.Host, Generation: ct.Generation, State: cluster.Starting, Restarted: true, Operation: op.ID,
		Detail: fmt.Sprintf("restarted from disk after a fault on the move from %s to %s", op.From, op.To),
	}
	if running {
		report.State = cluster.Running
	}
	_, err = l.Cluster.Apply(ctx, report)
	return err
}

// Finish implements Ledger.
func (l *ClusterLedger) Finish(ctx context.Context, operation string, result cluster.MoveResult) error {
	for {
		err := l.finish(ctx, operation, result)
		if err == nil || ctx.Err() != nil || errors.Is(err, cluster.ErrStale) || errors.Is(err, cluster.ErrNotFound) {
			return err
		}
	}
}

func (l *ClusterLedger) finish(ctx context.Context, operation string, result cluster.MoveResult) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := l.Cluster.Apply(ctx, cluster.FinishMigration{Operation: operation, Result: result, At: time.Now().UTC()})
	return err
}
