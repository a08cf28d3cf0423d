package api

import (
	"context"
	"strconv"
	"time"
)

// Running is a process of a container.
type Running struct {
	PID     int           `json:"pid"`    // on its host
	Inside  int           `json:"inside"` // pid in the container
	State   string        `json:"state"`  // as in ps: R, S, D, T, Z
	CPU     time.Duration `json:"cpu"`    // processor time so far, nanoseconds
	RAM     int64         `json:"ram"`    // resident, bytes
	Threads int           `json:"threads"`
	Command string        `json:"command"`
}

// Which is a process with the container that it belongs to.
type Which struct {
	Container int     `json:"container"`
	Name      string  `json:"name,omitempty"`
	Host      string  `json:"host"`
	Process   Running `json:"process"`
}

// Processes lists the processes of a running container.
func (c *Client) Processes(ctx context.Context, ct string) ([]Running, error) {
	return get[[]Running](ctx, c, RouteProcesses, nil, ct)
}

// Which says which container of the asked host a process belongs to.
func (c *Client) Which(ctx context.Context, pid int) (Which, error) {
	return get[Which](ctx, c, RouteWhich, nil, strconv.Itoa(pid))
}
