package migrate

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// within runs a migration with a longest downtime, whose container stands still at a point until it is told to go on, and
// returns what the source says.
func within(t *testing.T, most time.Duration, last *cluster.MoveResult, at Point, until func(*run)) (*run, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	r := newRunWithin(t, cluster.ModeLive, most)
	r.last = last
	r.hook = func(p Point, _ string) error {
		if p == at {
			until(r)
		}
		return nil
	}
	r.start(ctx)
	err := <-r.sourceDone
	r.sourceDone <- err
	r.settle(ctx, "")
	r.verify()
	return r, err
}

func quick() *cluster.MoveResult { return &cluster.MoveResult{FixedMS: 1} }

func TestTooLongAPredictionIsRefused(t *testing.T) {
	r, err := within(t, 100*time.Millisecond, &cluster.MoveResult{FixedMS: 900}, PointSourceFreeze, func(*run) {
		t.Error("it was about to be frozen")
	})
	if !errors.Is(err, ErrRefused) || r.container().Host != "a" {
		t.Errorf("it is on %s: %v", r.container().Host, err)
	}
	if r, err = within(t, time.Minute, nil, "", nil); err != nil || r.container().Host != "b" {
		t.Errorf("with time enough it is on %s: %v", r.container().Host, err)
	}
	if result := r.state.LastMove(ctid); result.PredictedMS < 900 || result.FixedMS <= 0 || result.MaxDowntimeMS != 60000 {
		t.Errorf("the result is %+v", result)
	}
}

func TestDeadlineBeforeTheCommitLeadsBack(t *testing.T) {
	r, err := within(t, 100*time.Millisecond, quick(), PointSourceAssert, func(r *run) { <-r.hungUp })
	if !errors.Is(err, ErrRefused) || r.container().Host != "a" {
		t.Errorf("not yet allowed: it is on %s: %v", r.container().Host, err)
	}
	r, err = within(t, 300*time.Millisecond, quick(), PointTargetCommit, func(r *run) { <-r.hungUp })
	if !errors.Is(err, ErrRefused) || r.container().Host != "a" || r.op().Status != cluster.OpAborted {
		t.Errorf("allowed: it is on %s, %s: %v", r.container().Host, r.op().Status, err)
	}
}

func TestDeadlineAfterTheCommitIsReported(t *testing.T) {
	r, err := within(t, 300*time.Millisecond, quick(), PointTargetCommitted, func(*run) { <-time.After(400 * time.Millisecond) })
	if err != nil || r.container().Host != "b" {
		t.Fatalf("it is on %s: %v", r.container().Host, err)
	}
	if result := r.state.LastMove(ctid); result.BlackoutMS < 300 || result.MaxDowntimeMS != 300 {
		t.Errorf("the result is %+v", result)
	}
}

func TestPredictionFollowsTheRounds(t *testing.T) {
	r := &rounds{size: 1 << 30, lastTook: 500 * time.Millisecond, all: 1 << 30, took: time.Second, rest: 10 << 20}
	if got := r.memoryTime().Round(time.Millisecond); got != 1010*time.Millisecond {
		t.Errorf("1 GiB, read in 500 ms and sent in 1 s, with 10 MiB left: %v", got)
	}
	if got := (*rounds)(nil).memoryTime(); got != 0 {
		t.Errorf("without rounds: %v", got)
	}
}
