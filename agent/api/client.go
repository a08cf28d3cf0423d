package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// Client talks to one agent. It is safe for concurrent use and sets no time limits: the caller's context does.
// Every error that it returns is an *Error, except the context's own when the caller cancelled it.
type Client struct {
	endpoint string // as the user gave it, for sentences
	base     string // http://... or https://...
	http     *http.Client
}

// NewClient returns a client of the agent at endpoint, unix:///path/to/socket or https://host:port; the TLS
// configuration is that of the latter. It does not connect yet.
func NewClient(endpoint string, tlsConfig *tls.Config) (*Client, error) {
	const hint = "write unix:///path/to/agent.sock or https://host:port"
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, Errorf(CodeUsage, hint, "%q is not the address of an agent", endpoint)
	}
	t := &http.Transport{IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 8}
	c := &Client{endpoint: endpoint, http: &http.Client{Transport: t}}
	switch {
	case u.Scheme == "unix" && u.Host == "" && u.Path != "":
		c.base = "http://agent"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", u.Path)
		}
	case u.Scheme == "https" && u.Host != "" && strings.Trim(u.Path, "/") == "":
		c.base = "https://" + u.Host
		t.TLSClientConfig = tlsConfig
		t.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
		t.TLSHandshakeTimeout = 10 * time.Second
	default:
		return nil, Errorf(CodeUsage, hint, "%q is not the address of an agent", endpoint)
	}
	return c, nil
}

// Endpoint is the address that the client was made with.
func (c *Client) Endpoint() string { return c.endpoint }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Call sends in as JSON (nil: no body) to one of the Route constants, whose {placeholders} take the path values in
// order, and decodes the answer into out (nil: it is dropped). The typed methods are made of it.
func (c *Client) Call(ctx context.Context, route string, in, out any, path ...string) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return Errorf(CodeFailed, "", "the request cannot be written as JSON: %v", err)
		}
		body = bytes.NewReader(b)
	}
	return c.send(ctx, request{route: route, path: path, body: body, kind: "application/json"}, out)
}

type request struct {
	route string
	path  []string
	query url.Values
	body  io.Reader
	kind  string // content type of the body
}

func (c *Client) send(ctx context.Context, r request, out any) error {
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is used again
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return c.failure(ctx, fmt.Errorf("its answer cannot be read: %w", err))
	}
	return nil
}

// do returns a response with a good status; the caller closes its body.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	method, target := c.target(r)
	req, err := http.NewRequestWithContext(ctx, method, target, r.body)
	if err != nil {
		return nil, Errorf(CodeFailed, "", "%v", err)
	}
	if r.body != nil {
		req.Header.Set("Content-Type", r.kind)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.failure(ctx, err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, c.refusal(resp)
	}
	return resp, nil
}

// target turns a route and its values into a method and an address.
func (c *Client) target(r request) (method, address string) {
	method, pattern, _ := strings.Cut(r.route, " ")
	values := r.path
	parts := strings.Split(pattern, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, "{") && len(values) > 0 {
			parts[i], values = url.PathEscape(values[0]), values[1:]
		}
	}
	address = c.base + strings.Join(parts, "/")
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	return method, address
}

// refusal reads the Error of a bad status.
func (c *Client) refusal(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	e := &Error{}
	if json.Unmarshal(text, e) == nil && e.Message != "" {
		if e.Code == "" {
			e.Code = CodeFailed
		}
		return e
	}
	said := strings.TrimSpace(string(text))
	if said == "" {
		said = "nothing more"
	}
	hint := ""
	if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed {
		hint = "it may be of another version"
	}
	return Errorf(CodeFailed, hint, "the agent at %s answered %s: %s", c.endpoint, resp.Status, said)
}

// failure turns an error of the connection into one sentence.
func (c *Client) failure(ctx context.Context, err error) error {
	var unknownCA *tls.CertificateVerificationError
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case ctx.Err() != nil:
		return Errorf(CodeTimeout, "", "the agent at %s did not answer in time", c.endpoint)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return Errorf(CodeFailed, "start it with `vzcluster agent` or set VZCLUSTER_HOST", "no agent answers at %s", c.endpoint)
	case errors.Is(err, fs.ErrPermission):
		return Errorf(CodeDenied, "be root or a member of the group vzcluster", "the socket at %s may not be opened", c.endpoint)
	case errors.As(err, &unknownCA):
		return Errorf(CodeDenied, "use the identity of a member of its cluster", "the agent at %s is not trusted: %v", c.endpoint, unknownCA.Err)
	}
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err
	}
	return Errorf(CodeFailed, "", "the agent at %s: %v", c.endpoint, err)
}

// get is Call for the many routes that answer with one value.
func get[T any](ctx context.Context, c *Client, route string, in any, path ...string) (T, error) {
	var out T
	err := c.Call(ctx, route, in, &out, path...)
	return out, err
}

// Status returns the cluster as the asked agent sees it.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, RouteStatus, nil)
}

// Init makes the asked host the first of a new cluster.
func (c *Client) Init(ctx context.Context, r InitRequest) (Status, error) {
	return get[Status](ctx, c, RouteInit, r)
}

// Join makes the asked host join a cluster.
func (c *Client) Join(ctx context.Context, r JoinRequest) (Status, error) {
	return get[Status](ctx, c, RouteJoinCluster, r)
}

// Tokens lists the join tokens, without their secrets.
func (c *Client) Tokens(ctx context.Context) ([]cluster.Token, error) {
	return get[[]cluster.Token](ctx, c, RouteTokens, nil)
}

// CreateToken makes a join token; a ttl of 0 means one hour.
func (c *Client) CreateToken(ctx context.Context, ttl time.Duration) (TokenReply, error) {
	return get[TokenReply](ctx, c, RouteTokenCreate, TokenRequest{TTL: ttl})
}

// RevokeToken makes a token worthless.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.Call(ctx, RouteTokenRevoke, nil, nil, id)
}

// Hosts lists the hosts by name.
func (c *Client) Hosts(ctx context.Context) ([]Host, error) {
	return get[[]Host](ctx, c, RouteHosts, nil)
}

// SetHostState cordons or activates a host.
func (c *Client) SetHostState(ctx context.Context, host string, state cluster.HostState) (Host, error) {
	return get[Host](ctx, c, RouteHostState, HostStateRequest{State: state}, host)
}

// Drain moves everything off a host; it returns the operation that does so, or with DryRun the plan.
func (c *Client) Drain(ctx context.Context, host string, r PlanRequest) (cluster.Operation, error) {
	return get[cluster.Operation](ctx, c, RouteDrain, r, host)
}

// Consolidate frees hosts; it returns the operation that does so, or with DryRun the plan.
func (c *Client) Consolidate(ctx context.Context, r PlanRequest) (cluster.Operation, error) {
	return get[cluster.Operation](ctx, c, RouteConsolidate, r)
}

// Stop ends a drain or a consolidation: the move that is under way is finished, no other one begins.
func (c *Client) Stop(ctx context.Context, id string) (cluster.Operation, error) {
	var out cluster.Operation
	err := c.send(ctx, request{route: RouteStop, path: []string{id}}, &out)
	return out, err
}

// Place explains where a container would be created.
func (c *Client) Place(ctx context.Context, r CreateRequest) (PlaceReply, error) {
	return get[PlaceReply](ctx, c, RoutePlace, r)
}

// Capacity counts how many more containers of a shape fit.
func (c *Client) Capacity(ctx context.Context, r CreateRequest) (CapacityReply, error) {
	return get[CapacityReply](ctx, c, RouteCapacity, r)
}

// WhatIf says what the loss of a host would mean.
func (c *Client) WhatIf(ctx context.Context, host string) (WhatIfReply, error) {
	return get[WhatIfReply](ctx, c, RouteWhatIf, nil, host)
}

// Containers lists the containers by CTID.
func (c *Client) Containers(ctx context.Context) ([]Container, error) {
	return get[[]Container](ctx, c, RouteContainers, nil)
}

// Container returns one container, by CTID or name.
func (c *Client) Container(ctx context.Context, ct string) (Container, error) {
	return get[Container](ctx, c, RouteContainer, nil, ct)
}

// Create creates a container, and starts it if asked to; it returns when that is decided, not when it runs.
func (c *Client) Create(ctx context.Context, r CreateRequest) (Container, error) {
	return get[Container](ctx, c, RouteCreate, r)
}

// CreateMany creates many containers as one plan, all or none; it returns when that is decided.
func (c *Client) CreateMany(ctx context.Context, r CreateManyRequest) ([]Created, error) {
	return get[[]Created](ctx, c, RouteCreateMany, r)
}

// Set changes limits, names and labels of a container.
func (c *Client) Set(ctx context.Context, ct string, r SetRequest) (Container, error) {
	return get[Container](ctx, c, RouteSet, r, ct)
}

// Action starts, stops, restarts, suspends, resumes or destroys a container and waits for the outcome.
func (c *Client) Action(ctx context.Context, ct, action string, r ActionRequest) (Container, error) {
	return get[Container](ctx, c, RouteAction, r, ct, action)
}

// Trash lists the containers that were destroyed and can be brought back.
func (c *Client) Trash(ctx context.Context) ([]Container, error) {
	return get[[]Container](ctx, c, RouteTrash, nil)
}

// Restore takes a container out of the trash.
func (c *Client) Restore(ctx context.Context, ct string, r RestoreRequest) (Container, error) {
	return get[Container](ctx, c, RouteRestore, r, ct)
}

// Snapshot keeps what a container is now.
func (c *Client) Snapshot(ctx context.Context, ct string, r SnapshotRequest) (Container, error) {
	return get[Container](ctx, c, RouteSnapshot, r, ct)
}

// Switch makes a container what it was at a snapshot.
func (c *Client) Switch(ctx context.Context, ct, name string, r TaskRequest) (Container, error) {
	return get[Container](ctx, c, RouteSwitch, r, ct, name)
}

// DropSnapshot deletes a snapshot.
func (c *Client) DropSnapshot(ctx context.Context, ct, name string) (Container, error) {
	return get[Container](ctx, c, RouteSnapshotDrop, nil, ct, name)
}

// Clone makes another container with the same content and returns it.
func (c *Client) Clone(ctx context.Context, ct string, r CloneRequest) (Container, error) {
	return get[Container](ctx, c, RouteClone, r, ct)
}

// Reinstall has a container begin again from a template.
func (c *Client) Reinstall(ctx context.Context, ct string, r ReinstallRequest) (Container, error) {
	return get[Container](ctx, c, RouteReinstall, r, ct)
}

// Migrate starts the migration of a container; follow it with Operation.
func (c *Client) Migrate(ctx context.Context, ct string, r MigrateRequest) (cluster.Operation, error) {
	r.CheckOnly = false
	return get[cluster.Operation](ctx, c, RouteMigrate, r, ct)
}

// Check tells whether a container could be migrated, and what blocks it.
func (c *Client) Check(ctx context.Context, ct string, r MigrateRequest) (Verdict, error) {
	r.CheckOnly = true
	return get[Verdict](ctx, c, RouteMigrate, r, ct)
}

// Logs copies a container's boot log to w; with follow it goes on until the context ends or the container stops.
func (c *Client) Logs(ctx context.Context, ct string, follow bool, w io.Writer) error {
	r := request{route: RouteLogs, path: []string{ct}}
	if follow {
		r.query = url.Values{"follow": {"1"}}
	}
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return c.failure(ctx, fmt.Errorf("the log broke off: %w", err))
	}
	return nil
}

// Templates lists the templates by name.
func (c *Client) Templates(ctx context.Context) ([]cluster.Template, error) {
	return get[[]cluster.Template](ctx, c, RouteTemplates, nil)
}

// Template returns one template.
func (c *Client) Template(ctx context.Context, name string) (cluster.Template, error) {
	return get[cluster.Template](ctx, c, RouteTemplate, nil, name)
}

// PutTemplate streams an archive (tar, maybe compressed) to the cluster and returns the template that it became.
func (c *Client) PutTemplate(ctx context.Context, name string, params url.Values, archive io.Reader) (cluster.Template, error) {
	var out cluster.Template
	err := c.send(ctx, request{RouteTemplatePut, []string{name}, params, archive, "application/x-tar"}, &out)
	return out, err
}

// DropTemplate removes a template that no container uses.
func (c *Client) DropTemplate(ctx context.Context, name string) error {
	return c.Call(ctx, RouteTemplateDrop, nil, nil, name)
}

// Networks lists the networks, the default one first.
func (c *Client) Networks(ctx context.Context) ([]cluster.Network, error) {
	return get[[]cluster.Network](ctx, c, RouteNetworks, nil)
}

// AddNetwork makes a network; parts of its pools that are empty are filled in.
func (c *Client) AddNetwork(ctx context.Context, n cluster.Network) (cluster.Network, error) {
	return get[cluster.Network](ctx, c, RouteNetworkAdd, n)
}

// DropNetwork removes a network that no container is in.
func (c *Client) DropNetwork(ctx context.Context, name string) error {
	return c.Call(ctx, RouteNetworkDrop, nil, nil, name)
}

// AddPool gives a network addresses; parts that are empty are filled in.
func (c *Client) AddPool(ctx context.Context, network string, p cluster.AddressPool) (cluster.Network, error) {
	return get[cluster.Network](ctx, c, RouteNetworkPool, p, network)
}

// Operations lists the operations by their start.
func (c *Client) Operations(ctx context.Context) ([]cluster.Operation, error) {
	return get[[]cluster.Operation](ctx, c, RouteOperations, nil)
}

// Operation returns an operation: at once when it is final, or else after wait (whole seconds, 0: at once).
func (c *Client) Operation(ctx context.Context, id string, wait time.Duration) (cluster.Operation, error) {
	var out cluster.Operation
	r := request{route: RouteOperation, path: []string{id}}
	if wait > 0 {
		r.query = url.Values{"wait": {strconv.Itoa(int(wait.Seconds()))}}
	}
	err := c.send(ctx, r, &out)
	return out, err
}

// Watch returns an operation with how far it is, when it has ended or after wait.
func (c *Client) Watch(ctx context.Context, id string, wait time.Duration) (Operation, error) {
	var out Operation
	q := url.Values{"progress": {"1"}}
	if wait > 0 {
		q.Set("wait", strconv.FormatFloat(wait.Seconds(), 'f', -1, 64))
	}
	err := c.send(ctx, request{route: RouteOperation, path: []string{id}, query: q}, &out)
	return out, err
}

// OperationLog copies what CRIU wrote about a migration that failed, on both hosts, to w.
func (c *Client) OperationLog(ctx context.Context, id string, w io.Writer) error {
	resp, err := c.do(ctx, request{route: RouteOperationLog, path: []string{id}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return c.failure(ctx, fmt.Errorf("the log broke off: %w", err))
	}
	return nil
}

// Shutdown suspends or stops what runs on the asked host, which is going down.
func (c *Client) Shutdown(ctx context.Context, r ShutdownRequest) (ShutdownReply, error) {
	return get[ShutdownReply](ctx, c, RouteShutdown, r)
}

// Doctor returns what the asked host has and lacks.
func (c *Client) Doctor(ctx context.Context) ([]Finding, error) {
	return get[[]Finding](ctx, c, RouteDoctor, nil)
}
