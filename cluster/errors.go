package cluster

import (
	"errors"
	"fmt"
)

// What an error of this package is about; test with errors.Is. The text of the error itself is a whole sentence.
var (
	ErrNotFound = errors.New("not found")
	ErrConflict = errors.New("conflict")          // a name, CTID, address or digest is taken
	ErrNoFit    = errors.New("does not fit")      // the host lacks the capacity, or takes nothing new
	ErrInvalid  = errors.New("invalid")           // the request makes no sense, whatever the state
	ErrStale    = errors.New("stale")             // not the owner, generation or operation any more
	ErrLocked   = errors.New("locked")            // an operation is under way
	ErrToken    = errors.New("token not valid")   // unknown, used or expired
	ErrNewer    = errors.New("newer than we are") // a command or snapshot of a later version
)

// refusal is a sentence for the user that errors.Is recognises as its kind.
type refusal struct {
	kind error
	text string
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.kind }

// Refuse makes an error whose text is the given sentence and that errors.Is recognises as kind.
func Refuse(kind error, format string, args ...any) error {
	return &refusal{kind, fmt.Sprintf(format, args...)}
}
