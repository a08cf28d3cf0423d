package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/raftstore"
	"github.com/vzcluster/vzcluster/runtime"
)

// errorCodes pairs what packages return with what travels between processes. The first match wins on the way out; on
// the way in the first sentinel of a code does.
func errorCodes() []struct {
	is   error
	code api.Code
} {
	return []struct {
		is   error
		code api.Code
	}{
		{cluster.ErrNotFound, api.CodeNotFound},
		{cluster.ErrConflict, api.CodeConflict},
		{cluster.ErrNoFit, api.CodeNoFit},
		{cluster.ErrInvalid, api.CodeUsage},
		{cluster.ErrStale, api.CodeStale},
		{cluster.ErrLocked, api.CodeLocked},
		{cluster.ErrToken, api.CodeDenied},
		{raftstore.ErrNotLeader, api.CodeNoQuorum},
		{raftstore.ErrUnknownOutcome, api.CodeNoQuorum},
		{runtime.ErrNotFound, api.CodeNotFound},
		{runtime.ErrNotRunning, api.CodeConflict},
		{context.DeadlineExceeded, api.CodeTimeout},
	}
}

// toAPI gives an error the code that travels with it.
func toAPI(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	for _, c := range errorCodes() {
		if errors.Is(err, c.is) {
			return &api.Error{Code: c.code, Message: err.Error()}
		}
	}
	return &api.Error{Code: api.CodeFailed, Message: err.Error()}
}

// remoteError is another agent's error; it is the sentinel again that it was there.
type remoteError struct {
	said *api.Error
	kind error // may be nil
}

func (e *remoteError) Error() string { return e.said.Error() }

func (e *remoteError) Unwrap() []error {
	if e.kind == nil {
		return []error{e.said}
	}
	return []error{e.said, e.kind}
}

// fromAPI is the opposite of toAPI.
func fromAPI(e *api.Error) error {
	for _, c := range errorCodes() {
		if c.code == e.Code {
			return &remoteError{e, c.is}
		}
	}
	return &remoteError{e, nil}
}

// respond writes a JSON answer, or the error instead of it.
func respond(w http.ResponseWriter, value any, err error) {
	status := http.StatusOK
	if err != nil {
		e := toAPI(err)
		value, status = e, e.Code.HTTP()
	}
	if value == nil {
		value = struct{}{}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // the peer has gone: nobody to tell
}

// errNoQuorum is what a request gets when no leader answered for it in time.
func errNoQuorum() error {
	return api.Errorf(api.CodeNoQuorum, "check with 'vzcluster status' which hosts are up, and try again",
		"no leader: most of the voting hosts are down or cannot be reached")
}
