package api

import (
	"context"
	"time"
)

// Routes of what containers use.
const (
	RouteStats      = "GET /v1/stats"       // -> []Stats, of all hosts that answer
	RouteOwnerStats = "GET /v1/local/stats" // hosts only: of this host -> []Stats
)

// Stats is what a running container uses at one moment.
type Stats struct {
	ID       int       `json:"id"`
	Name     string    `json:"name"`
	Host     string    `json:"host"`
	At       time.Time `json:"at"`        // by the host's clock
	CPUUsec  int64     `json:"cpu_usec"`  // CPU time since it came to its host, microseconds
	MilliCPU int64     `json:"milli_cpu"` // its limit in thousandths of a core; 0: none
	RAM      int64     `json:"ram"`       // bytes, without cache that is not in use
	RAMLimit int64     `json:"ram_limit"` // bytes; 0: none
	PIDs     int64     `json:"pids"`
	OOMKills int64     `json:"oom_kills"`
}

// Stats returns what the running containers use, by CTID. Those of hosts that do not answer are missing.
func (c *Client) Stats(ctx context.Context) ([]Stats, error) {
	return get[[]Stats](ctx, c, RouteStats, nil)
}
