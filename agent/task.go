package agent

import (
	"context"
	"errors"

	"github.com/vzcluster/vzcluster/cluster"
)

// task carries out the local operation that has a container locked, from its beginning, whatever a former agent has done
// of it; and says how it ended.
func (r *reconciler) task(ctx context.Context, s *cluster.State, c *cluster.Container) error {
	return errors.New("no local operation is known")
}
