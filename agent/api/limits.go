package api

import (
	"context"
	"net/url"
	"time"
)

// LimitEvent tells that a container has met one of its limits.
type LimitEvent struct {
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Host      string    `json:"host"` // that noted it
	Container int       `json:"container"`
	Name      string    `json:"name"`
	Resource  string    `json:"resource"` // as user beancounters call it
	What      string    `json:"what"`
	Times     int64     `json:"times"`
}

// Bean is one resource of a container, named and counted as user beancounters do. Without bounds Barrier and Limit are -1.
type Bean struct {
	Name     string `json:"name"`
	Held     int64  `json:"held"`
	MaxHeld  int64  `json:"maxheld"`
	Barrier  int64  `json:"barrier"`
	Limit    int64  `json:"limit"`
	Failures int64  `json:"failcnt"`
}

// LimitEvents returns which limits were met, by all containers or by one, the latest last.
func (c *Client) LimitEvents(ctx context.Context, ct string) ([]LimitEvent, error) {
	var out []LimitEvent
	q := url.Values{}
	if ct != "" {
		q.Set("ct", ct)
	}
	err := c.send(ctx, request{route: RouteEvents, query: q}, &out)
	return out, err
}

// Beans counts what a container uses and how often it met a limit.
func (c *Client) Beans(ctx context.Context, ct string) ([]Bean, error) {
	return get[[]Bean](ctx, c, RouteBeans, nil, ct)
}
