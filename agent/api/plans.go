package api

import (
	"context"

	"github.com/vzcluster/vzcluster/cluster"
)

// Routes of plans and of what a cluster does by itself.
const (
	RouteRebalance     = "POST /v1/rebalance"           // PlanRequest -> cluster.Operation
	RouteMaintain      = "POST /v1/maintain"            // PlanRequest -> cluster.Operation
	RoutePlanAction    = "POST /v1/plans/{id}/{action}" // action: approve reject pause resume stop -> cluster.Operation
	RouteHostSet       = "PATCH /v1/hosts/{host}"       // HostSetRequest -> Host
	RouteHostRemove    = "DELETE /v1/hosts/{host}"      // it is down for good, its containers are lost -> {}
	RouteLeave         = "POST /v1/hosts/{host}/leave"  // PlanRequest -> cluster.Operation
	RouteHostPower     = "POST /v1/hosts/{host}/power"  // PowerRequest -> Host
	RouteSettings      = "GET /v1/settings"             // -> Settings
	RouteSettingsWrite = "PUT /v1/settings"             // Settings -> Settings
)

// Settings are how the cluster places containers, and what it does by itself.
type Settings struct {
	Policy     cluster.Policy     `json:"policy"`
	Automation cluster.Automation `json:"automation"`
}

// HostSetRequest changes a host; nil fields stay as they are.
type HostSetRequest struct {
	Reserve       *cluster.Resources `json:"reserve,omitempty"`
	MaxContainers *int64             `json:"max_containers,omitempty"`
	Labels        map[string]string  `json:"labels,omitempty"` // an empty value takes a label away
	Power         *cluster.Power     `json:"power,omitempty"`
}

// PowerRequest switches a host off or on.
type PowerRequest struct {
	On bool `json:"on"`
}

// Rebalance evens out how full hosts are; it returns the operation that does so, or with DryRun the plan.
func (c *Client) Rebalance(ctx context.Context, r PlanRequest) (cluster.Operation, error) {
	return get[cluster.Operation](ctx, c, RouteRebalance, r)
}

// Maintain drains hosts one after the other, has a hook run on each, and fills it again.
func (c *Client) Maintain(ctx context.Context, r PlanRequest) (cluster.Operation, error) {
	return get[cluster.Operation](ctx, c, RouteMaintain, r)
}

// ActOnPlan approves, rejects, pauses, resumes or stops a plan.
func (c *Client) ActOnPlan(ctx context.Context, id, action string) (cluster.Operation, error) {
	return get[cluster.Operation](ctx, c, RoutePlanAction, nil, id, action)
}

// SetHost changes what is kept back on a host, its labels, and how it is switched off and on.
func (c *Client) SetHost(ctx context.Context, host string, r HostSetRequest) (Host, error) {
	return get[Host](ctx, c, RouteHostSet, r, host)
}

// Power parks a host or wakes it.
func (c *Client) Power(ctx context.Context, host string, on bool) (Host, error) {
	return get[Host](ctx, c, RouteHostPower, PowerRequest{On: on}, host)
}

// Leave empties a host and takes it out of the cluster; it returns the operation that does so, or with DryRun the plan.
func (c *Client) Leave(ctx context.Context, host string, r PlanRequest) (cluster.Operation, error) {
	return get[cluster.Operation](ctx, c, RouteLeave, r, host)
}

// RemoveHost forgets a host that is down, and its containers.
func (c *Client) RemoveHost(ctx context.Context, host string) error {
	return c.send(ctx, request{route: RouteHostRemove, path: []string{host}}, nil)
}

// Settings returns how the cluster places containers and what it does by itself.
func (c *Client) Settings(ctx context.Context) (Settings, error) {
	return get[Settings](ctx, c, RouteSettings, nil)
}

// WriteSettings replaces them.
func (c *Client) WriteSettings(ctx context.Context, s Settings) (Settings, error) {
	return get[Settings](ctx, c, RouteSettingsWrite, s)
}
