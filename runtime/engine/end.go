package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// WaitEnd is Wait, and says how it ended: init is ended by the kernel with a signal of its own when it reboots or halts.
// The kernel tells the parent only, which is this process, if it was made one (package orphans), for what it has started
// or restored itself.
func (e *Engine) WaitEnd(ctx context.Context, id int) (runtime.End, error) {
	st, err := e.OCI.Status(id)
	if err != nil || !st.Running {
		return "", err
	}
	status, err := waitStatus(ctx, st.PID)
	if err != nil || !status.Signaled() {
		return "", err
	}
	switch status.Signal() {
	case unix.SIGHUP:
		return runtime.Rebooted, nil
	case unix.SIGINT:
		return runtime.Halted, nil
	}
	return "", nil
}

// lastWordsSize is how much of the end of a boot log is looked at.
const lastWordsSize = 4 << 10

// LastWords says how a container that does not run has ended by what its init wrote last into the boot log. It is for
// those whose end nobody here was told of.
func (e *Engine) LastWords(id int) (runtime.End, error) {
	f, err := e.Log(id)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read the boot log of container %d: %w", id, err)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(0, st.Size()-lastWordsSize), lastWordsSize))
	if err != nil {
		return "", fmt.Errorf("read the boot log of container %d: %w", id, err)
	}
	return endIn(b), nil
}

// endIn finds the last of the words with which systemd and busybox announce what they are about to ask the kernel for.
func endIn(log []byte) (end runtime.End) {
	at := -1
	for words, means := range map[string]runtime.End{
		"systemd-shutdown[1]: Rebooting":      runtime.Rebooted,
		"systemd-shutdown[1]: Powering off":   runtime.Halted,
		"systemd-shutdown[1]: Halting system": runtime.Halted,
		"Requesting system reboot":            runtime.Rebooted,
		"Requesting system poweroff":          runtime.Halted,
		"Requesting system halt":              runtime.Halted,
	} {
		if i := bytes.LastIndex(log, []byte(words)); i > at {
			at, end = i, means
		}
	}
	return end
}
