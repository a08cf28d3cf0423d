package api

import (
	"context"
	"time"
)

// Routes of what deletes copies of templates that their hosts do not need.
const (
	RouteCollect = "POST /v1/templates/gc"       // CollectRequest -> CollectResult, of all hosts that answer
	RouteOwnerGC = "POST /v1/local/templates/gc" // hosts only: CollectRequest -> []TemplateCopy, of this host
)

// CollectRequest asks for copies to be deleted.
type CollectRequest struct {
	OlderMS int64 `json:"older_ms"`          // only copies that have not been used for so long
	DryRun  bool  `json:"dry_run,omitempty"` // say which, and delete none
}

// CollectResult is what became of the copies.
type CollectResult struct {
	Copies []TemplateCopy `json:"copies"`
	Failed []HostFailure  `json:"failed,omitempty"` // hosts that did not do it
}

// HostFailure says why a host did not do what it was asked for.
type HostFailure struct {
	Host  string `json:"host"`
	Error string `json:"error"`
}

// TemplateCopy is the copy of a template that a host has.
type TemplateCopy struct {
	Host   string    `json:"host"`
	Name   string    `json:"name,omitempty"` // empty: the cluster does not know it any more
	Digest string    `json:"digest"`
	Bytes  int64     `json:"bytes"`          // of the unpacked tree and the archive, about
	Used   time.Time `json:"used"`           // when it came, or a container was last made real or deleted with it
	Kept   string    `json:"kept,omitempty"` // why it stays; empty: it is gone, or would be
}

// Collect deletes the copies of templates that their hosts do not need.
func (c *Client) Collect(ctx context.Context, r CollectRequest) (CollectResult, error) {
	var out CollectResult
	err := c.Call(ctx, RouteCollect, r, &out)
	return out, err
}
