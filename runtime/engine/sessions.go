package engine

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// hangUpTime is how long a session of exec may take to end when it is hung up.
const hangUpTime = 2 * time.Second

// EndSessions ends what exec has started in a container: it is hung up, as on a terminal that is lost, and killed if it
// does not end within two seconds. Its exit code is 129, or 137 if it had to be killed.
func (e *Engine) EndSessions(ctx context.Context, id int) error {
	if err := e.signalOutsiders(ctx, id, unix.SIGHUP); err != nil {
		return err
	}
	return e.signalOutsiders(ctx, id, unix.SIGKILL)
}

// signalOutsiders signals what exec has started, also what comes to light when that ends, and waits a moment for its end.
func (e *Engine) signalOutsiders(ctx context.Context, id int, sig unix.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, hangUpTime)
	defer cancel()
	told := map[int]bool{}
	for {
		found, err := e.Outsiders(id)
		if err != nil || len(found) == 0 {
			return err
		}
		for _, p := range found {
			if told[p.PID] {
				continue
			}
			told[p.PID] = true
			if err := unix.Kill(p.PID, sig); err != nil && err != unix.ESRCH {
				return fmt.Errorf("end the session %d of container %d: %w", p.PID, id, err)
			}
		}
		select {
		case <-ctx.Done():
			if sig == unix.SIGKILL {
				return fmt.Errorf("the session %d %s of container %d does not end", found[0].PID, found[0].Name, id)
			}
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
}
