package migrate

import (
	"context"
	"io"

	"github.com/vzcluster/vzcluster/migrate/transfer"
)

// Layers copies private layers with package transfer.
type Layers struct{ Limits transfer.Limits }

// Send implements Copier.
func (l Layers) Send(ctx context.Context, w io.Writer, root string, prev *transfer.Manifest, last bool) (*transfer.Manifest, transfer.Stats, error) {
	if last {
		return transfer.SendFinal(ctx, w, root, prev)
	}
	return transfer.Send(ctx, w, root, prev)
}

// Receive implements Copier.
func (l Layers) Receive(ctx context.Context, r io.Reader, root string, have *transfer.Manifest) (*transfer.Manifest, transfer.Stats, error) {
	return transfer.Receive(ctx, r, root, have, l.Limits)
}
