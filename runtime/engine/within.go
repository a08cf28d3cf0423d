package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/vzcluster/vzcluster/runtime"
)

// Within hands the root of a container to do: as the container sees it while it runs, else mounted for as long as do takes.
func (e *Engine) Within(ctx context.Context, s runtime.Spec, do func(runtime.Inside) error) (err error) {
	st, err := e.OCI.Status(s.ID)
	if err != nil {
		return err
	}
	path := fmt.Sprintf("/proc/%d/root", st.PID)
	if !st.Running {
		if path, err = e.mount(ctx, s); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, e.Roots.Unmount(s.ID)) }()
	}
	root, err := e.Inside(path, s.UIDBase)
	if err != nil {
		return err
	}
	defer root.Close()
	if st.Running { // the number may have become another process's before it was opened
		now, err := e.OCI.Status(s.ID)
		if err != nil || now.PID != st.PID {
			return errors.Join(err, fmt.Errorf("container %d: %w", s.ID, runtime.ErrNotRunning))
		}
	}
	return do(root)
}
