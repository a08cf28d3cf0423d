// Package api is the agent's wire format: routes, requests, answers, errors with their codes, and the client that the
// CLI and the agents themselves use. It owns no behaviour of the cluster.
//
// The one rule for callers: any agent answers any request; what only the leader or the owner of a container can do is
// passed on by the agent that was asked.
package api

import (
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// Routes. {ct} is a CTID or a name. Bodies are JSON unless said otherwise; errors are an Error with its HTTP status.
const (
	RouteInit         = "POST /v1/init"                                    // InitRequest -> Status        (local socket only)
	RouteJoinCluster  = "POST /v1/join-cluster"                            // JoinRequest -> Status        (local socket only: this host joins)
	RouteEnroll       = "POST /v1/enroll"                                  // EnrollRequest -> EnrollReply (no client certificate: the token is the proof)
	RouteStatus       = "GET /v1/status"                                   // -> Status
	RouteTokens       = "GET /v1/tokens"                                   // -> []cluster.Token
	RouteTokenCreate  = "POST /v1/tokens"                                  // TokenRequest -> TokenReply
	RouteTokenRevoke  = "DELETE /v1/tokens/{id}"                           // -> {}
	RouteHosts        = "GET /v1/hosts"                                    // -> []Host
	RouteHostState    = "PUT /v1/hosts/{host}/state"                       // HostStateRequest -> Host
	RouteDrain        = "POST /v1/hosts/{host}/drain"                      // PlanRequest -> cluster.Operation (with dry_run: a plan, not started)
	RouteConsolidate  = "POST /v1/consolidate"                             // PlanRequest -> cluster.Operation
	RoutePlace        = "POST /v1/place"                                   // CreateRequest -> PlaceReply
	RouteCapacity     = "POST /v1/capacity"                                // CreateRequest -> CapacityReply
	RouteWhatIf       = "GET /v1/hosts/{host}/whatif"                      // -> WhatIfReply: what its loss would mean
	RouteContainers   = "GET /v1/containers"                               // -> []Container
	RouteCreate       = "POST /v1/containers"                              // CreateRequest -> Container
	RouteContainer    = "GET /v1/containers/{ct}"                          // -> Container
	RouteSet          = "PATCH /v1/containers/{ct}"                        // SetRequest -> Container
	RouteAction       = "POST /v1/containers/{ct}/{action}"                // action: start stop restart suspend resume destroy; ActionRequest -> Container
	RouteTrash        = "GET /v1/trash"                                    // -> []Container
	RouteRestore      = "POST /v1/trash/{ct}/restore"                      // RestoreRequest -> Container
	RouteSnapshot     = "POST /v1/containers/{ct}/snapshots"               // SnapshotRequest -> Container
	RouteSwitch       = "POST /v1/containers/{ct}/snapshots/{name}/switch" // TaskRequest -> Container
	RouteSnapshotDrop = "DELETE /v1/containers/{ct}/snapshots/{name}"      // -> Container
	RouteClone        = "POST /v1/containers/{ct}/clone"                   // CloneRequest -> Container, the new one
	RouteReinstall    = "POST /v1/containers/{ct}/reinstall"               // ReinstallRequest -> Container
	RouteMigrate      = "POST /v1/containers/{ct}/migrate"                 // MigrateRequest -> cluster.Operation (or, check_only, a Verdict)
	RouteExec         = "GET /v1/containers/{ct}/exec"                     // websocket, see Exec
	RouteLogs         = "GET /v1/containers/{ct}/logs"                     // ?follow=1 -> text/plain
	RouteFiles        = "GET /v1/containers/{ct}/files"                    // ?path=/etc/hosts -> tar; errors on the way: trailer X-Vz-Error
	RouteFilesPut     = "PUT /v1/containers/{ct}/files"                    // body: tar; ?path=/srv&rename=1&root=1 -> {}
	RouteInside       = "POST /v1/containers/{ct}/inside"                  // InsideRequest -> {}
	RouteProcesses    = "GET /v1/containers/{ct}/processes"                // -> []Running
	RouteWhich        = "GET /v1/pids/{pid}"                               // -> Which, of the asked host
	RouteTemplates    = "GET /v1/templates"                                // -> []cluster.Template
	RouteTemplate     = "GET /v1/templates/{name}"                         // -> cluster.Template
	RouteTemplatePut  = "PUT /v1/templates/{name}"                         // body: tar, maybe gzip, xz or zstd; ?systemd=auto&source=... -> cluster.Template
	RouteTemplateDrop = "DELETE /v1/templates/{name}"                      // -> {}
	RouteOperations   = "GET /v1/operations"                               // -> []cluster.Operation
	RouteStop         = "POST /v1/operations/{id}/stop"                    // a drain or consolidation: no further move -> cluster.Operation
	RouteOperation    = "GET /v1/operations/{id}"                          // ?wait=SECONDS&progress=1 -> Operation, at once when final
	RouteOperationLog = "GET /v1/operations/{id}/log"                      // -> text/plain: what CRIU wrote about a migration that failed
	RouteBlob         = "GET /v1/blobs/{digest}"                           // hosts only: the template's archive, zstd
	RouteApply        = "POST /v1/apply"                                   // hosts only: a cluster command -> its result
	RouteRead         = "GET /v1/read/{id}"                                // hosts only: a container's record, read from the leader after a barrier
	RouteBecomeVoter  = "POST /v1/raft/rejoin"                             // hosts only
	RouteOwnerExec    = "GET /v1/local/containers/{id}/exec"               // hosts only: exec on the owner
	RouteOwnerLogs    = "GET /v1/local/containers/{id}/logs"               // hosts only: logs on the owner
	RouteOwnerFiles   = "GET /v1/local/containers/{id}/files"              // hosts only: files on the owner
	RouteOwnerPut     = "PUT /v1/local/containers/{id}/files"              // hosts only: files to the owner
	RouteOwnerInside  = "POST /v1/local/containers/{id}/inside"            // hosts only: changes inside on the owner
	RouteOwnerProcs   = "GET /v1/local/containers/{id}/processes"          // hosts only: processes on the owner
	RouteOwnerCheck   = "POST /v1/local/containers/{id}/check"             // hosts only: preflight on the owner -> Verdict
	RouteShutdown     = "POST /v1/shutdown"                                // ShutdownRequest -> ShutdownReply (local socket only)
	RouteEvents       = "GET /v1/events"                                   // ?ct= -> []LimitEvent: limits that were met
	RouteBeans        = "GET /v1/containers/{ct}/beans"                    // -> []Bean
	RouteOwnerEvents  = "GET /v1/local/events"                             // hosts only: those noted on the asked host
	RouteOwnerBeans   = "GET /v1/local/containers/{id}/beans"              // hosts only: counted on the owner
	RouteDoctor       = "GET /v1/doctor"                                   // -> []Finding of the asked host
	RouteNetworks     = "GET /v1/networks"                                 // -> []cluster.Network
	RouteNetworkAdd   = "POST /v1/networks"                                // cluster.Network -> cluster.Network
	RouteNetworkDrop  = "DELETE /v1/networks/{name}"                       // -> {}
	RouteNetworkPool  = "POST /v1/networks/{name}/pools"                   // cluster.AddressPool -> cluster.Network
)

// Host is a host with what is observed of it.
type Host struct {
	cluster.Host
	Leader     bool              `json:"leader"`
	Alive      bool              `json:"alive"`
	Reserved   cluster.Resources `json:"reserved"`
	Containers int               `json:"containers"`
}

// KeptLayer is the private layer of a container that has left a host, kept there for a while in case it comes back.
type KeptLayer struct {
	Container int       `json:"container"`
	Disk      int64     `json:"disk"` // bytes
	Since     time.Time `json:"since"`
}

// Container is a container with what is observed of it.
type Container struct {
	cluster.Container
	LastMove *cluster.MoveResult `json:"last_move,omitempty"`
	Notes    []string            `json:"notes,omitempty"`    // what the user should know of what was just done, one sentence each
	Progress *cluster.Progress   `json:"progress,omitempty"` // of its migration, when one is under way
}

// Operation is an operation with what is observed of it.
type Operation struct {
	cluster.Operation
	Progress *cluster.Progress `json:"progress,omitempty"` // of a migration, as long as its source remembers
}

// Status is the cluster on one screen.
type Status struct {
	Host       string              `json:"host"`   // that answered
	Joined     bool                `json:"joined"` // false: this host belongs to no cluster yet
	Leader     string              `json:"leader"` // empty: none is known
	Quorum     bool                `json:"quorum"`
	Version    string              `json:"version"`
	Hosts      []Host              `json:"hosts"`
	Containers []Container         `json:"containers"`
	Operations []cluster.Operation `json:"operations"` // not final ones
}

// InitRequest makes the first host of a new cluster.
type InitRequest struct {
	Pool      string `json:"pool"` // CIDR of container addresses; empty: the agent's configuration
	PoolFirst string `json:"pool_first"`
	PoolLast  string `json:"pool_last"`
	Gateway   string `json:"gateway"`
}

// JoinRequest makes the asked host join a cluster.
type JoinRequest struct {
	Address string `json:"address"` // host:port of any member
	Token   string `json:"token"`
}

// EnrollRequest is what a joining host sends to a member.
type EnrollRequest struct {
	Token    string            `json:"token"`
	Name     string            `json:"name"`
	Address  string            `json:"address"`
	Gossip   string            `json:"gossip"`
	CSR      []byte            `json:"csr"` // PEM
	Capacity cluster.Resources `json:"capacity"`
	Labels   map[string]string `json:"labels,omitempty"`
	Version  string            `json:"version"`
}

// EnrollReply makes the joining host a member.
type EnrollReply struct {
	Cert      []byte   `json:"cert"` // PEM, the host's own
	CACert    []byte   `json:"ca_cert"`
	GossipKey []byte   `json:"gossip_key"`
	Gossip    []string `json:"gossip"` // of members
	Hosts     []string `json:"hosts"`  // API addresses of members
}

// TokenRequest asks for a join token.
type TokenRequest struct {
	TTL time.Duration `json:"ttl"` // nanoseconds; 0: one hour
}

// TokenReply carries the secret, once.
type TokenReply struct {
	Token   string    `json:"token"`
	ID      string    `json:"id"`
	Expires time.Time `json:"expires"`
}

// HostStateRequest cordons or activates a host.
type HostStateRequest struct {
	State cluster.HostState `json:"state"`
}

// PlanRequest asks for a drain or a consolidation.
type PlanRequest struct {
	DryRun bool `json:"dry_run"`
	// Offline has containers that cannot be moved live stopped, moved and started again; else they stay.
	Offline bool `json:"offline,omitempty"`
	Max     int  `json:"max,omitempty"` // consolidate: free at most so many hosts, 0: as many as possible
	// Parallel is how many moves are made at once where they do not depend on each other; 0: DefaultParallel.
	Parallel int `json:"parallel,omitempty"`
	// Save keeps the plan for somebody to approve, instead of carrying it out.
	Save bool `json:"save,omitempty"`
	// Partial has what cannot be moved stay where it is and the rest moved; else nothing is.
	Partial   bool     `json:"partial,omitempty"`
	Park      bool     `json:"park,omitempty"`      // consolidate: switch the freed hosts off
	Imbalance int      `json:"imbalance,omitempty"` // rebalance: by how many points of a hundred hosts may differ; 0: 10
	Hosts     []string `json:"hosts,omitempty"`     // maintain: these, one after the other; none: all
	Hook      string   `json:"hook,omitempty"`      // maintain: what is run on each while it is empty
	// Steps is a plan that was saved, to be carried out as it is; empty: a new one is made.
	Steps []cluster.Move `json:"steps,omitempty"`
}

// How many moves of a plan are made at once.
const (
	DefaultParallel = 2
	MaxParallel     = 16
)

// CreateRequest asks for a container.
type CreateRequest struct {
	ID       int               `json:"id,omitempty"`   // 0: the next free one
	Name     string            `json:"name,omitempty"` // empty: ct<ID>
	Template string            `json:"template"`
	Limits   cluster.Limits    `json:"limits"`
	Hostname string            `json:"hostname,omitempty"`
	IP       string            `json:"ip,omitempty"`   // "none", or between commas "auto" (default), "auto4", "auto6" and addresses of the pools
	Host     string            `json:"host,omitempty"` // pin; empty: the leader places
	Labels   map[string]string `json:"labels,omitempty"`
	Rules    cluster.Rules     `json:"rules,omitzero"`
	Mounts   []cluster.Mount   `json:"mounts,omitempty"` // one that is not shared needs Host

	NameServers   []string `json:"name_servers,omitempty"`   // empty: those of the cluster
	SearchDomains []string `json:"search_domains,omitempty"` // empty: that of the cluster

	Start bool `json:"start"`
	// WaitForRoom has it wait where no host has room; else it is refused.
	WaitForRoom bool `json:"wait_for_room,omitempty"`
	Count       int  `json:"count,omitempty"` // in a CreateManyRequest: so many, named NAME-1 and so on; 0: one
}

// ActionRequest goes with start, stop, restart, suspend, resume and destroy.
type ActionRequest struct {
	Wait  time.Duration `json:"wait"`            // how long to wait for the outcome, 0: the default of 60 s
	Force bool          `json:"force"`           // stop, destroy: kill at once; stop: throw the memory of a suspended one away; suspend: end the sessions of exec
	Now   bool          `json:"now,omitempty"`   // destroy: not into the trash
	Grace time.Duration `json:"grace,omitempty"` // stop, restart: how long it may take to end before it is killed, 0: 30 s
}

// ShutdownRequest suspends or stops what runs on the asked host, because that is going down.
type ShutdownRequest struct {
	How string `json:"how,omitempty"` // suspend or stop; empty: as the host is configured
}

// ShutdownReply says how many containers it was about.
type ShutdownReply struct {
	Containers int `json:"containers"`
}

// TaskRequest says how long to wait for something that a container's host does with its disk; the container is locked
// until it has ended, also if nobody waits for it.
type TaskRequest struct {
	Wait time.Duration `json:"wait,omitempty"` // 0: ten minutes
}

// SnapshotRequest keeps what a container is now.
type SnapshotRequest struct {
	TaskRequest
	Name   string `json:"name,omitempty"` // empty: after the time
	Text   string `json:"text,omitempty"`
	Memory bool   `json:"memory,omitempty"` // with what runs
}

// CloneRequest makes another container with the same content, on the same host.
type CloneRequest struct {
	TaskRequest
	ID       int               `json:"id,omitempty"`   // 0: the next free one
	Name     string            `json:"name,omitempty"` // empty: ct<ID>
	Hostname string            `json:"hostname,omitempty"`
	IP       string            `json:"ip,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`   // beside those of the old one
	Snapshot string            `json:"snapshot,omitempty"` // empty: as it is now
	Start    bool              `json:"start,omitempty"`
}

// ReinstallRequest has a container begin again from a template.
type ReinstallRequest struct {
	TaskRequest
	Template string   `json:"template,omitempty"` // empty: its own
	Keep     []string `json:"keep,omitempty"`     // paths inside that stay
}

// RestoreRequest takes a container out of the trash.
type RestoreRequest struct {
	Name string `json:"name,omitempty"` // a new one; empty: the old one
}

// MigrateRequest moves a container.
type MigrateRequest struct {
	To   string `json:"to,omitempty"`   // empty: the scheduler chooses
	Mode string `json:"mode,omitempty"` // live (default), near-live, offline, auto
	// MaxDowntimeMS is the longest downtime that is wanted, zero for any: the migration is refused when more is predicted,
	// and given up when it is over before the hand-over.
	MaxDowntimeMS int64 `json:"max_downtime_ms,omitempty"`
	CheckOnly     bool  `json:"check_only,omitempty"`
	Force         bool  `json:"force,omitempty"` // end the sessions of exec that are in the way
}

// ModeAuto has the leader choose: live, or near-live where something is in the way of it.
const ModeAuto = "auto"

// Modes are those that a MigrateRequest may name.
func Modes() []string { return append(cluster.Modes(), ModeAuto) }

// Verdict says whether a container can be migrated live.
type Verdict struct {
	OK       bool      `json:"ok"`
	To       string    `json:"to,omitempty"`
	Blockers []Blocker `json:"blockers"`
	Notes    []string  `json:"notes,omitempty"` // what a live move would lose without failing
}

// Blocker is one thing that keeps a container from being moved live.
type Blocker = cluster.Blocker

// PlaceReply explains a placement.
type PlaceReply struct {
	Host  string      `json:"host"` // empty: nowhere
	Why   string      `json:"why"`
	Hosts []PlaceHost `json:"hosts"` // every host and its reason
	// When it fits nowhere, but moves of containers of a lower priority make room: where, and which.
	RoomOn string         `json:"room_on,omitempty"`
	Moves  []cluster.Move `json:"moves,omitempty"`
}

// PlaceHost is one host's part of a placement decision.
type PlaceHost struct {
	Host   string            `json:"host"`
	Fits   bool              `json:"fits"`
	Score  float64           `json:"score"`
	Free   cluster.Resources `json:"free"`
	Reason string            `json:"reason"`
}

// CapacityReply is how many more containers of a shape fit.
type CapacityReply struct {
	Now       int    `json:"now"`
	AfterLoss int    `json:"after_loss"` // with any one host dead, its protected containers placed elsewhere
	Worst     string `json:"worst"`      // the host whose loss leaves so little
}

// WhatIfReply is what the loss of a host would mean.
type WhatIfReply struct {
	Host      string         `json:"host"`
	Why       string         `json:"why"`       // in one sentence
	Protected int            `json:"protected"` // containers on it that count
	Homes     []cluster.Move `json:"homes"`     // where they would fit
	Unplaced  []Unplaced     `json:"unplaced"`  // those that would fit nowhere
}

// Unplaced is a container for which there would be no room.
type Unplaced struct {
	Container int    `json:"container"`
	Name      string `json:"name"`
	Why       string `json:"why"`
}

// Finding is one line of the doctor.
type Finding struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Found   string `json:"found"`
	Costs   string `json:"costs,omitempty"`  // the feature that is lost without it
	Remedy  string `json:"remedy,omitempty"` // the command that mends it
	Warning bool   `json:"warning,omitempty"`
}

// Exec is the first websocket message (text) of an exec session. After it, binary messages carry one channel byte and
// data: 0 stdin, 1 stdout, 2 stderr, 3 resize (JSON Resize), 4 end of stdin, 6 signal (its number as text); the last message is 5
// with ExecExit as JSON.
type Exec struct {
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"`
	User string   `json:"user,omitempty"` // "name", "uid", or either with ":group"; empty: root
	Dir  string   `json:"dir,omitempty"`  // to begin in; empty: the user's home
	TTY  bool     `json:"tty"`
	Rows uint16   `json:"rows,omitempty"`
	Cols uint16   `json:"cols,omitempty"`
}

// Channels of an exec session.
const (
	ExecStdin byte = iota
	ExecStdout
	ExecStderr
	ExecResize
	ExecStdinEnd
	ExecDone
	ExecSignal
)

// Resize is a terminal's new size.
type Resize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// ExecExit ends an exec session.
type ExecExit struct {
	Code  int    `json:"code"`
	Error *Error `json:"error,omitempty"`
}
