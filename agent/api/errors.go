package api

import (
	"errors"
	"fmt"
	"net/http"
)

// Code classifies an error across processes; the CLI turns it into its exit code.
type Code string

// The codes. What has none is CodeFailed.
const (
	CodeFailed   Code = "failed"
	CodeUsage    Code = "usage"
	CodeNotFound Code = "not_found"
	CodeConflict Code = "conflict" // a name, CTID or address is taken; something else is under way
	CodeNoFit    Code = "cannot_be_placed"
	CodeNoQuorum Code = "no_quorum"
	CodeTimeout  Code = "timed_out"
	CodeRefused  Code = "refused" // by preflight or policy
	CodeDenied   Code = "denied"
	CodeStale    Code = "stale"  // not the owner, generation or operation any more
	CodeLocked   Code = "locked" // an operation on the container is under way
)

// Error is one clear sentence with its code; Hint says what to do next.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Error returns the sentence, and what to do next behind it.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + "; " + e.Hint
}

// Errorf makes an Error; the hint may be empty.
func Errorf(code Code, hint, format string, args ...any) *Error {
	return &Error{code, fmt.Sprintf(format, args...), hint}
}

// CodeOf returns the code that an error carries.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeFailed
}

// Exit returns the CLI's exit code.
func (c Code) Exit() int {
	switch c {
	case CodeUsage:
		return 2
	case CodeNotFound:
		return 3
	case CodeNoFit:
		return 4
	case CodeNoQuorum:
		return 5
	case CodeTimeout:
		return 6
	case CodeRefused:
		return 7
	}
	return 1
}

// HTTP returns the status code that carries the error.
func (c Code) HTTP() int {
	switch c {
	case CodeUsage:
		return http.StatusBadRequest
	case CodeNotFound:
		return http.StatusNotFound
	case CodeConflict, CodeStale, CodeLocked:
		return http.StatusConflict
	case CodeNoFit:
		return http.StatusUnprocessableEntity
	case CodeNoQuorum:
		return http.StatusServiceUnavailable
	case CodeTimeout:
		return http.StatusGatewayTimeout
	case CodeRefused:
		return http.StatusPreconditionFailed
	case CodeDenied:
		return http.StatusForbidden
	}
	return http.StatusInternalServerError
}
