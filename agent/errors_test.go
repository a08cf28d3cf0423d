package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/raftstore"
)

// TestErrorsSurviveTheWire sends errors through an answer and reads them as another agent does.
func TestErrorsSurviveTheWire(t *testing.T) {
	for _, kind := range []error{
		cluster.ErrNotFound, cluster.ErrConflict, cluster.ErrNoFit, cluster.ErrInvalid, cluster.ErrStale, cluster.ErrLocked,
		cluster.ErrToken, raftstore.ErrNotLeader, context.DeadlineExceeded,
	} {
		w := httptest.NewRecorder()
		respond(w, nil, fmt.Errorf("a sentence: %w", kind))
		got := readError(w.Result())
		if !errors.Is(got, kind) || got.Error() != "a sentence: "+kind.Error() {
			t.Errorf("%v came back as %v", kind, got)
		}
	}
	w := httptest.NewRecorder()
	respond(w, nil, api.Errorf(api.CodeRefused, "do this", "no"))
	if got := readError(w.Result()); api.CodeOf(got) != api.CodeRefused || got.Error() != "no; do this" || w.Code != http.StatusPreconditionFailed {
		t.Errorf("a refusal came back as %v with status %d", got, w.Code)
	}
}

func TestRetryable(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{raftstore.ErrNotLeader, true},
		{fmt.Errorf("lost: %w", raftstore.ErrUnknownOutcome), true},
		{errors.New("connection reset"), true},
		{fmt.Errorf("host: %w", errDial), true},
		{errNoQuorum(), true},
		{cluster.ErrStale, false},
		{fromAPI(&api.Error{Code: api.CodeStale, Message: "no"}), false},
		{fromAPI(&api.Error{Code: api.CodeNoQuorum, Message: "no leader"}), true},
		{fromAPI(&api.Error{Code: api.CodeDenied, Message: "who are you"}), false},
	} {
		if got := retryable(c.err); got != c.want {
			t.Errorf("retryable(%v) is %v, want %v", c.err, got, c.want)
		}
	}
}

// TestApplyWithoutLeaderIsKnownToHaveFailed tells the two ways in which Apply gives up apart.
func TestApplyWithoutLeaderIsKnownToHaveFailed(t *testing.T) {
	_, hosts := newCluster(t, 2)
	follower := hosts[1]
	hosts[0].stop()
	ctx, cancel := context.WithTimeout(t.Context(), 2*testTick)
	defer cancel()
	_, err := follower.agent.Apply(ctx, cluster.TemplateOn{Digest: "none", Host: "host2"})
	if err == nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("without a leader: %v", err)
	}
	if errors.Is(err, raftstore.ErrUnknownOutcome) {
		t.Errorf("nobody can have committed it, but the error says that it is not known: %v", err)
	}
}
