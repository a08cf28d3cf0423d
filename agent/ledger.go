package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/migrate"
)

// ledger implements migrate.Ledger with commands to, and reads from, the leader.
type ledger struct{ a *Agent }

// askTimeout bounds one question; who asks repeats it until there is an answer.
const askTimeout = 3 * time.Second

// Commit implements migrate.Ledger.
func (l *ledger) Commit(ctx context.Context, operation string) (migrate.Fate, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := l.a.Apply(ctx, cluster.CommitMigration{Operation: operation})
	if err == nil {
		return migrate.Committed, nil
	}
	if errors.Is(err, cluster.ErrStale) || errors.Is(err, cluster.ErrNotFound) { // it cannot be committed: see to it that it ends
		return l.Abort(ctx, operation, err.Error())
	}
	return migrate.Undecided, err
}

// Abort implements migrate.Ledger.
func (l *ledger) Abort(ctx context.Context, operation, reason string) (migrate.Fate, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := l.a.Apply(ctx, cluster.AbortMigration{Operation: operation, Reason: reason, At: time.Now().UTC()})
	if err == nil {
		return migrate.Aborted, nil
	}
	if errors.Is(err, cluster.ErrStale) { // it can only be too late for an abort after the commit
		return migrate.Committed, nil
	}
	return migrate.Undecided, err
}

// Read implements migrate.Ledger. An operation's status follows from its container's record: while the operation is
// not final it holds the container's lock, and a commit changes the owner and the generation.
func (l *ledger) Read(ctx context.Context, operation string) (*cluster.Operation, *cluster.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	op, err := l.record(ctx, operation)
	if err != nil {
		return nil, nil, err
	}
	ct, err := l.a.Read(ctx, op.Container)
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
func (l *ledger) record(ctx context.Context, operation string) (*cluster.Operation, error) {
	for {
		changed := l.a.Changed()
		if op := l.a.State().Operation(operation); op != nil {
			return op, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("operation %s is not known: %w", operation, cluster.ErrNotFound)
		}
	}
}

// Restarted implements migrate.Ledger.
func (l *ledger) Restarted(ctx context.Context, operation string, running bool) error {
	op, ct, err := l.Read(ctx, operation)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	report := cluster.ReportContainer{
		ID: ct.ID, Host: l.a.Name(), Generation: ct.Generation, State: cluster.Starting,
		Detail: fmt.Sprintf("restarted from disk after a fault on the move from %s to %s", op.From, op.To),
	}
	if running {
		report.State, report.Restarted = cluster.Running, true
	}
	_, err = l.a.Apply(ctx, report)
	return err
}

// Finish implements migrate.Ledger.
func (l *ledger) Finish(ctx context.Context, operation string, result cluster.MoveResult) error {
	for {
		err := l.finish(ctx, operation, result)
		if err == nil || ctx.Err() != nil || errors.Is(err, cluster.ErrStale) || errors.Is(err, cluster.ErrNotFound) {
			return err
		}
	}
}

func (l *ledger) finish(ctx context.Context, operation string, result cluster.MoveResult) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := l.a.Apply(ctx, cluster.FinishMigration{Operation: operation, Result: result, At: time.Now().UTC()})
	return err
}
