package vzctl

import (
	"errors"
	"fmt"

	"github.com/vzcluster/vzcluster/agent/api"
)

// Exit codes of vzctl, with the numbers that its manual gives them.
const (
	codeSystem        = 3
	codeResources     = 6   // not enough system resources: no host has room
	codeCommand       = 8   // a command in the container returned non-zero
	codeLocked        = 9   // an operation on the container is under way
	codeNoScript      = 11  // a script does not exist
	codeAccess        = 12  // permission denied
	codeNoConfig      = 14  // there is no such container
	codeExecTimeout   = 15  //
	codeSuspend       = 16  // it cannot be suspended
	codeResume        = 17  // it cannot be resumed
	codeSyntax        = 20  // command or option unknown, or misused
	codeValue         = 21  // value of a command or an option
	codeNoTemplate    = 29  // no template is named
	codeNotRunning    = 31  //
	codeRunning       = 32  //
	codeStop          = 33  // it cannot be stopped
	codeNotMounted    = 40  //
	codeMounted       = 41  //
	codeExists        = 44  // its private area exists already
	codeMount         = 50  //
	codeUmount        = 51  //
	codeDestroy       = 52  // the private area cannot be deleted
	codeBadIP         = 71  //
	codePassword      = 74  // it cannot be changed
	codeIPInUse       = 78  //
	codeIPNotOurs     = 89  // it is not among the addresses of containers
	codeBadTemplate   = 91  // there is no such template
	codePloop         = 99  // ploop and its images do not exist here
	codeDisabled      = 105 // the container may not be started
	codeApplyConfig   = 109 // there is no such sample configuration
	codeName          = 131 // the name is taken
	codeWait          = 133 // waiting for the start failed
	codeSnapCreate    = 156 //
	codeSnapDelete    = 158 //
	codeSnapSwitch    = 159 //
	codeSnapMount     = 160 //
	codeSnapUmount    = 161 //
	codeSnapshotsList = 167 //
)

// failure ends a tool with a sentence and an exit code; without a sentence all has been said.
type failure struct {
	code int
	text string
}

func (f *failure) Error() string { return f.text }

func fail(code int, format string, args ...any) error {
	return &failure{code, fmt.Sprintf(format, args...)}
}

// exitOf returns the exit code that an error carries, or otherwise for those that carry none.
func exitOf(err error, otherwise int) int {
	var f *failure
	if errors.As(err, &f) {
		return f.code
	}
	return otherwise
}

// classify gives an answer of the cluster the exit code that vzctl has for it, or otherwise the one of what was tried.
func classify(err error, otherwise int) error {
	if err == nil {
		return nil
	}
	code := otherwise
	switch api.CodeOf(err) {
	case api.CodeLocked:
		return fail(codeLocked, "Container already locked: %v", err)
	case api.CodeNoFit:
		code = codeResources
	case api.CodeDenied:
		code = codeAccess
	case api.CodeUsage:
		code = codeValue
	case api.CodeNotFound:
		code = codeNoConfig
	}
	return fail(code, "%v", err)
}
