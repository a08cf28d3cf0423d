package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vzcluster/vzcluster/runtime/cgroup"
)

// mountPoints are the directories that must exist on the machine for a host's own to be mounted there.
func mountPoints() []string { return []string{dataDir, configDir} }

// made lists those that were made for labs, wherever their directory is.
const made = DefaultDir + "/.made"

// makeMountPoints makes what is missing and writes down what it made. The lab's cgroup must exist already: it keeps
// the end of another lab from removing them again.
func makeMountPoints() error {
	for _, d := range mountPoints() {
		if _, err := os.Stat(d); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(made), 0o711); err != nil {
			return err
		}
		f, err := os.OpenFile(made, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(f, d)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("cannot make a mount point: %w", err)
		}
	}
	return nil
}

// removeMountPoints removes them with the last lab of the machine. Removing one earlier would unmount it in the hosts
// that use it.
func removeMountPoints(tree cgroup.Tree) {
	for _, dir := range tree.Dirs() {
		if labs, err := filepath.Glob(filepath.Join(dir, groupPrefix+"*")); err != nil || len(labs) > 0 {
			return
		}
	}
	b, err := os.ReadFile(made)
	if err != nil {
		return
	}
	for _, d := range strings.Fields(string(b)) {
		if slices.Contains(mountPoints(), d) {
			if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
				continue // used for something else by now
			}
		}
	}
	_ = os.Remove(made)
	_ = os.Remove(DefaultDir) // unless it holds something
}
