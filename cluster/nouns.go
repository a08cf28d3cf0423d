// Package cluster holds the nouns of the cluster (hosts, containers, templates, operations), the commands that
// change them, and the pure replicated State that those commands are applied to.
//
// It owns what is true for the whole cluster and nothing of one host's kernel. It has no clock, goroutine, file or
// socket: time and ids travel inside commands. The one rule for callers: what State hands out is shared and must not
// be changed.
package cluster

import (
	"fmt"
	"slices"
	"time"
)

// HostState says whether a host takes new containers. Whether it is alive is an observation, not part of it.
type HostState string

// The states of a host.
const (
	HostActive   HostState = "active"   // takes containers
	HostCordoned HostState = "cordoned" // keeps what it has, takes nothing new
	HostParking  HostState = "parking"  // empty, about to be switched off
	HostParked   HostState = "parked"   // switched off on purpose: it is no loss that it is silent
	HostWaking   HostState = "waking"   // switched on again, not back yet
	HostLeaving  HostState = "leaving"  // empty, about to be forgotten
)

// Host is a member of the cluster. Its name is its identity in raft, in gossip and in its certificate.
type Host struct {
	Name     string    `json:"name"`
	Address  string    `json:"address"` // host:port of API, raft and migration
	Gossip   string    `json:"gossip"`  // host:port of gossip
	State    HostState `json:"state"`
	Voter    bool      `json:"voter"`
	Capacity Resources `json:"capacity"`
	// What the host is not asked to give: kept for itself, and how many containers it takes at most (0: any number).
	Reserve       Resources         `json:"reserve,omitzero"`
	MaxContainers int64             `json:"max_containers,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	Given         map[string]string `json:"given,omitempty"` // of the labels, those that a user gave it; the others are of its configuration
	Power         Power             `json:"power,omitzero"`  // how it is switched off and on
	Since         time.Time         `json:"since,omitzero"`  // of its state
	Detail        string            `json:"detail,omitempty"`
	Serial        string            `json:"serial"` // of the certificate that the cluster issued to it
	Joined        time.Time         `json:"joined"`
	Version       string            `json:"version,omitempty"`
	Boot          string            `json:"boot,omitempty"` // changes when the host boots: who reads it knows all that came before
}

// ContainerState is the last state that the owner reported.
type ContainerState string

// The states of a container.
const (
	Pending    ContainerState = "pending"
	Stopped    ContainerState = "stopped"
	Starting   ContainerState = "starting"
	Running    ContainerState = "running"
	Migrating  ContainerState = "migrating"
	Stopping   ContainerState = "stopping"
	Failed     ContainerState = "failed"
	Suspended  ContainerState = "suspended" // its memory lies on its host's disk
	Destroying ContainerState = "destroying"
	Unknown    ContainerState = "unknown" // its host is lost; never stored, only shown
)

// Desired is what the user wants of a container.
type Desired string

// What can be wanted.
const (
	WantRunning   Desired = "running"
	WantStopped   Desired = "stopped"
	WantDestroyed Desired = "destroyed"
	WantSuspended Desired = "suspended" // not running, its memory kept on disk
)

// Need is what the container reserves on a host; in the trash it is only its disk.
func (c *Container) Need() Resources {
	need := c.Limits.Resources()
	if c.InTrash() {
		return Resources{Disk: need.Disk}
	}
	need.Guaranteed = c.Rules.Guarantee
	return need
}

// Container is one system container: what the user asked for, who owns it, and what the owner reported last.
type Container struct {
	ID         int             `json:"id"` // CTID, from 101 up
	Name       string          `json:"name"`
	Host       string          `json:"host"`       // the owner; empty: it waits for room
	Generation uint64          `json:"generation"` // grows by one at every hand-over
	Desired    Desired         `json:"desired"`
	Epoch      uint64          `json:"epoch"` // grows at every start, stop and restart that a user asks for
	State      ContainerState  `json:"state"`
	Detail     string          `json:"detail,omitempty"` // why it is failed, or was restarted
	Template   string          `json:"template"`
	Digest     string          `json:"digest"` // of the template
	Limits     Limits          `json:"limits"`
	Rules      Rules           `json:"rules,omitzero"`
	Mounts     []Mount         `json:"mounts,omitempty"` // folders of hosts that it has
	Hostname   string          `json:"hostname"`
	Addresses  []string        `json:"addresses"` // CIDR notation
	MAC        string          `json:"mac"`
	Network    string          `json:"network,omitempty"`  // that its first NIC, eth0, is in; empty: the default one
	NICs       []NIC           `json:"nics,omitempty"`     // beside eth0
	Firewall   *Firewall       `json:"firewall,omitempty"` // nil: everything is let through
	Ports      []PublishedPort `json:"ports,omitempty"`    // of every host, that lead to it

	NameServers   []string `json:"name_servers,omitempty"`   // that it asks; empty: those of the cluster
	SearchDomains []string `json:"search_domains,omitempty"` // empty: that of the cluster

	UIDBase   uint32            `json:"uid_base"` // first host uid and gid of its user namespace, 65536 follow
	Labels    map[string]string `json:"labels,omitempty"`
	Operation string            `json:"operation,omitempty"` // that has it locked: a migration or a local one
	Created   time.Time         `json:"created"`
	Restarted int               `json:"restarted,omitempty"`  // times it had to be started from disk after a fault
	Lost      string            `json:"lost,omitempty"`       // the migration that counted the last of them, until the start is reported
	Placement string            `json:"placement,omitempty"`  // why it was put where it was created
	History   []Event           `json:"history,omitempty"`    // what was decided since, the latest last
	Verdict   *Verdict          `json:"verdict,omitempty"`    // the owner's last preflight; nil: not running, or not looked at yet
	GraceMS   int64             `json:"grace_ms,omitempty"`   // how long it may take to end before it is killed; 0: the default
	OnBoot    OnBoot            `json:"onboot,omitempty"`     // what becomes of it when its host boots
	BootOrder int               `json:"boot_order,omitempty"` // the higher, the earlier
	Text      string            `json:"text,omitempty"`       // what it is good for, in the user's words
	Snapshots []Snapshot        `json:"snapshots,omitempty"`  // by their age
	Trashed   time.Time         `json:"trashed,omitzero"`     // when it was destroyed; zero: it was not
}

// Ref names the container in sentences: name (CTID).
func (c *Container) Ref() string { return fmt.Sprintf("%s (%d)", c.Name, c.ID) }

// Template is a root file system that containers start from, known by the digest of its archive.
type Template struct {
	Name     string    `json:"name"`
	Digest   string    `json:"digest"` // sha256:hex of the uncompressed archive
	Size     int64     `json:"size"`   // bytes of the uncompressed archive
	Init     []string  `json:"init"`   // what runs as PID 1
	Systemd  bool      `json:"systemd"`
	Prepared []string  `json:"prepared,omitempty"` // what was changed to make it migratable, one sentence each
	Hosts    []string  `json:"hosts"`              // that have a copy
	Created  time.Time `json:"created"`
}

// OperationKind names what a multi-step operation does.
type OperationKind string

// The kinds of operation.
const (
	OpMigrate     OperationKind = "migrate"
	OpDrain       OperationKind = "drain"
	OpConsolidate OperationKind = "consolidate"
	OpRebalance   OperationKind = "rebalance"
	OpPreempt     OperationKind = "preempt"  // makes room for a container of a higher priority that waits
	OpMaintain    OperationKind = "maintain" // one host after the other: drained, its hook run, filled again
)

// OperationStatus says how far an operation is.
type OperationStatus string

// The statuses of an operation. The last three are final.
const (
	OpProposed  OperationStatus = "proposed" // a plan that waits for somebody to approve it
	OpRunning   OperationStatus = "running"
	OpPaused    OperationStatus = "paused"    // a plan that begins no further move for now
	OpCommitted OperationStatus = "committed" // a migration whose hand-over is decided, not yet finished
	OpDone      OperationStatus = "done"
	OpFailed    OperationStatus = "failed"
	OpAborted   OperationStatus = "aborted"
)

// Operation is the record of something with several steps, kept so that a restarted agent or a new leader can finish
// or undo it.
type Operation struct {
	ID         string          `json:"id"`
	Kind       OperationKind   `json:"kind"`
	Status     OperationStatus `json:"status"`
	Container  int             `json:"container,omitempty"`  // migrate; preempt: the one that waits for room
	Generation uint64          `json:"generation,omitempty"` // migrate: the generation that is handed over
	From       string          `json:"from,omitempty"`
	To         string          `json:"to,omitempty"`
	Mode       string          `json:"mode,omitempty"` // migrate: one of Modes
	// MaxDowntimeMS is the longest blackout that is wanted, zero for any: refused when more is predicted, aborted when it is
	// over before the commit.
	MaxDowntimeMS int64       `json:"max_downtime_ms,omitempty"`
	Force         bool        `json:"force,omitempty"` // migrate: sessions of exec are ended for it
	Parent        string      `json:"parent,omitempty"`
	Why           string      `json:"why,omitempty"`
	Host          string      `json:"host,omitempty"`      // drain; preempt: where room is made
	Steps         []Move      `json:"steps,omitempty"`     // drain, consolidate: the plan
	Width         int         `json:"width,omitempty"`     // of a plan: moves at once; 0 is taken as 1
	Partial       bool        `json:"partial,omitempty"`   // of a plan: what cannot be moved stays, and the rest is moved
	Automatic     bool        `json:"automatic,omitempty"` // of a plan: the cluster made it, nobody asked
	Freed         []string    `json:"freed,omitempty"`     // of a plan: hosts that are empty after it
	Kept          []string    `json:"kept,omitempty"`      // of a plan: what it leaves alone, and why
	Park          bool        `json:"park,omitempty"`      // of a plan: the hosts that it frees are switched off
	Leave         bool        `json:"leave,omitempty"`     // of a drain: its host is no member any more afterwards
	Round         *Round      `json:"round,omitempty"`     // maintain
	Error         string      `json:"error,omitempty"`
	Refused       bool        `json:"refused,omitempty"` // aborted by a preflight or a policy, not by a fault
	Started       time.Time   `json:"started"`
	Ended         time.Time   `json:"ended,omitzero"`
	Result        *MoveResult `json:"result,omitempty"`
	Restarted     bool        `json:"restarted,omitempty"` // migrate: a fault cost the memory, and the container counts it
	Task          *Task       `json:"task,omitempty"`      // of a local operation
}

// Final reports whether the operation has ended.
func (o *Operation) Final() bool {
	return o.Status == OpDone || o.Status == OpFailed || o.Status == OpAborted
}

// Move is one step of a plan.
type Move struct {
	Container int    `json:"container"`
	Name      string `json:"name"`
	From      string `json:"from"`
	To        string `json:"to"`
	Why       string `json:"why"`
	Mode      string `json:"mode,omitempty"`      // offline where it cannot be moved live; empty: live if it runs
	Operation string `json:"operation,omitempty"` // the migration that carries it out
	Status    string `json:"status,omitempty"`    // one of the steps'; empty: it has not begun
	Reason    string `json:"reason,omitempty"`    // why it failed or was withdrawn
	// What it is expected to gain, in points of a hundred of a host, and to cost.
	Gain float64  `json:"gain,omitempty"`
	Cost MoveCost `json:"cost,omitzero"`
}

// MoveCost is what a move is expected to cost.
type MoveCost struct {
	Bytes      int64   `json:"bytes"`
	Seconds    float64 `json:"seconds"`
	BlackoutMS float64 `json:"blackout_ms,omitempty"`
	Assumed    bool    `json:"assumed,omitempty"` // the container has never moved: nothing was measured
}

// What became of a step of a plan.
const (
	StepRunning   = "running"
	StepDone      = "done"
	StepFailed    = "failed"
	StepWithdrawn = "withdrawn" // never begun: the plan ended before, or the step made no sense any more
)

// Round is how far the maintenance of several hosts is.
type Round struct {
	Hosts []string   `json:"hosts"`
	Turn  int        `json:"turn"` // index into Hosts
	Stage RoundStage `json:"stage"`
	Hook  string     `json:"hook,omitempty"` // what is run on the host while it is empty
	Boot  string     `json:"boot,omitempty"` // the kernel that ran on it before the hook
	First int        `json:"first"`          // index into the plan's steps of the first that empties it
	State HostState  `json:"state"`          // of the host before its turn
}

// RoundStage is what is done to the host whose turn it is.
type RoundStage string

// The stages, in their order.
const (
	RoundDrain RoundStage = "drain"
	RoundHook  RoundStage = "hook"
	RoundWait  RoundStage = "return" // the hook has begun, the host shall answer
	RoundFill  RoundStage = "fill"
)

// MoveResult is what a migration measured.
type MoveResult struct {
	From       string  `json:"from"`
	To         string  `json:"to"`
	Mode       string  `json:"mode"`
	BlackoutMS float64 `json:"blackout_ms"`
	TotalMS    float64 `json:"total_ms"`
	Bytes      int64   `json:"bytes"`
	Phases     []Phase `json:"phases"`
	Restarted  bool    `json:"restarted,omitempty"` // a fault cost the memory: started again from disk

	PredictedMS   float64 `json:"predicted_ms,omitempty"`    // blackout, just before the freeze
	FixedMS       float64 `json:"fixed_ms,omitempty"`        // the part of the blackout that does not depend on the memory's size
	MaxDowntimeMS int64   `json:"max_downtime_ms,omitempty"` // that was wanted

	// What the next move is judged by.
	Memory    int64   `json:"memory,omitempty"`     // bytes of memory that it had
	Layer     int64   `json:"layer,omitempty"`      // bytes of its files that were sent
	DirtyRate float64 `json:"dirty_rate,omitempty"` // bytes of memory written per second, while it was copied
}

// Phase is one timed part of a migration.
type Phase struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

// Progress is how far a migration is: the stages that it has begun, the one under way last. Its source knows; it is not
// part of the replicated state.
type Progress struct {
	Stages []Stage `json:"stages"`
}

// Stage is one part of a migration while it goes on.
type Stage struct {
	Name  string `json:"name"`            // for people
	Bytes int64  `json:"bytes,omitempty"` // that it has sent
	Of    int64  `json:"of,omitempty"`    // that it will have sent, about; 0: nobody knows
}

// Token lets one host join once.
type Token struct {
	ID      string    `json:"id"`
	Hash    string    `json:"hash"` // sha256 of the secret, hex
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	UsedBy  string    `json:"used_by,omitempty"`
}

// Settings are the cluster-wide facts laid down by init.
type Settings struct {
	ID        string `json:"id"`
	CACert    []byte `json:"ca_cert"` // PEM
	CAKey     []byte `json:"ca_key"`  // PEM
	GossipKey []byte `json:"gossip_key"`
	Pool      string `json:"pool"`       // CIDR of container addresses
	PoolFirst string `json:"pool_first"` // first address that may be given out automatically
	PoolLast  string `json:"pool_last"`
	Gateway   string `json:"gateway"` // default route of containers, empty: none
	// Pool6 is the pool of IPv6 addresses beside it; nil: there is none.
	Pool6 *AddressPool `json:"pool6,omitempty"`
}

// VotersFor is how many raft voters a cluster of n hosts has: 1, 3 from three hosts, 5 from seven.
func VotersFor(n int) int {
	switch {
	case n >= 7:
		return 5
	case n >= 3:
		return 3
	}
	return min(n, 1)
}

// SortHosts orders hosts by name.
func SortHosts(hs []*Host) {
	slices.SortFunc(hs, func(a, b *Host) int {
		if a.Name < b.Name {
			return -1
		}
		if a.Name > b.Name {
			return 1
		}
		return 0
	})
}
