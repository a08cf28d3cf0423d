package cluster

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"
)

// Command is one change of the replicated State. The set is closed: every command is in this file.
type Command interface {
	// Kind is the command's number in the log.
	Kind() Kind
	// apply changes s, which nobody else sees yet; after an error s is thrown away.
	apply(s *State) (result any, err error)
}

// Kind is a command's number in the log. Numbers are only ever appended, never reused.
type Kind uint16

// Ignorable marks a kind that an older version may skip without its State going wrong.
const Ignorable Kind = 1 << 15

// The kinds of command.
const (
	kindInitCluster      Kind = 1
	kindAddHost          Kind = 2
	kindUpdateHost       Kind = 3
	kindSetHostState     Kind = 4
	kindSetVoter         Kind = 5
	kindRemoveHost       Kind = 6
	kindAddToken         Kind = 7
	kindRevokeToken      Kind = 8
	kindPutTemplate      Kind = 9
	kindTemplateOn       Kind = 10
	kindDropTemplate     Kind = 11
	kindCreateContainer  Kind = 12
	kindSetDesired       Kind = 13
	kindSetContainer     Kind = 14
	kindReportContainer  Kind = 15
	kindRemoveContainer  Kind = 16
	kindBeginMigration   Kind = 17
	kindCommitMigration  Kind = 18
	kindAbortMigration   Kind = 19
	kindFinishMigration  Kind = 20
	kindBeginPlan        Kind = 21
	kindStepPlan         Kind = 22
	kindEndPlan          Kind = 23
	kindReportVerdict    Kind = 24 | Ignorable // an older version plans as if nothing was known
	kindSetPolicy        Kind = 25
	kindSetHost          Kind = 26
	kindBeginTask        Kind = 27
	kindEndTask          Kind = 28
	kindTrashContainer   Kind = 29
	kindRestoreContainer Kind = 30
	kindCreateMany       Kind = 31
	kindPlaceContainer   Kind = 32
	kindSetPlan          Kind = 33
	kindExtendPlan       Kind = 34
	kindSetAutomation    Kind = 35
	kindAddNetwork       Kind = 36
	kindDropNetwork      Kind = 37
	kindAddPool          Kind = 38
	kindTemplateOff      Kind = 39
)

// InitCluster lays down the settings and the first host. Result: *Host. Repeating it with the same cluster ID changes
// nothing; another ID is ErrConflict.
type InitCluster struct {
	Settings Settings
	Host     Host
}

// AddHost admits a host and uses up its token. Result: *Host. The same host may repeat it with the same token and
// certificate serial; a name or address that is taken is ErrConflict, a bad token ErrToken.
type AddHost struct {
	Host    Host
	TokenID string
	At      time.Time
}

// UpdateHost changes what a host says about itself. Result: *Host. Empty fields stay as they are; Labels that are not
// nil replace the old ones. Less capacity than is reserved is accepted: it is a fact, and nothing new will fit.
type UpdateHost struct {
	Name     string
	Address  string
	Gossip   string
	Version  string
	Capacity Resources
	Labels   map[string]string
	Boot     string `json:",omitempty"` // a word of its agent's for the boot of the machine
}

// SetHostState cordons, activates, parks or wakes a host. Result: *Host. ErrConflict when it is to be parked and still
// has containers.
type SetHostState struct {
	Name   string
	State  HostState
	Detail string    `json:",omitempty"` // why, for people
	At     time.Time `json:",omitzero"`
}

// SetVoter records whether a host votes in raft. Result: *Host.
type SetVoter struct {
	Name  string
	Voter bool
}

// RemoveHost forgets a host; ErrConflict while it owns containers (unless forced) or is part of a migration
// (unless forced, and it is committed).
type RemoveHost struct {
	Name  string
	Force bool      `json:",omitempty"` // its containers are lost: they are forgotten with it
	At    time.Time `json:",omitzero"`
}

// AddToken keeps a join token and drops those that expired more than a day before it. Result: *Token.
type AddToken struct{ Token Token }

// RevokeToken forgets a token.
type RevokeToken struct{ ID string }

// PutTemplate makes a template known; its Hosts say who has it. Result: *Template. A new digest under an old name
// replaces it; the old record stays reachable by digest while a container uses it.
type PutTemplate struct{ Template Template }

// TemplateOn records that one more host has a template. Result: *Template. Idempotent.
type TemplateOn struct {
	Digest string
	Host   string
}

// TemplateOff says that a host is about to delete its copy of a template. Idempotent, also for one that is not known.
// ErrConflict while the host needs it, or when it is the last copy of one that has a name or is used elsewhere.
type TemplateOff struct {
	Digest string
	Host   string
}

// DropTemplate forgets a template by name; ErrConflict while containers use it.
type DropTemplate struct{ Name string }

// CreateContainer makes a container owned by Container.Host. Result: *Container. ID 0 takes the next free CTID, an
// empty Name becomes ct<ID>. IP is "none", or, between commas, "auto" (one of every pool of the network, also for empty),
// "auto4", "auto6", and addresses of the pools with or without their length.
// The state fills in addresses, MAC, uid range, generation and epoch.
type CreateContainer struct {
	Container Container
	IP        string
}

// CreateContainers makes many containers in one entry. Result: []Created, one for each item. What is wrong with one of
// them is no business of those of other parts, but of its own part none is made. Names and CTIDs are as in
// CreateContainer. A container that is wanted stopped is so from the start; there is nothing that its owner has to do.
type CreateContainers struct {
	Specs []Container // what items have in common
	Items []NewContainer
	Parts []int `json:",omitempty"` // how many items each part has; none: each item is a part
	At    time.Time
}

// NewContainer is one container of a batch.
type NewContainer struct {
	Spec     int    // index into Specs
	ID       int    `json:",omitempty"`
	Name     string `json:",omitempty"`
	Hostname string `json:",omitempty"` // empty: that of the specification, or the name
	IP       string `json:",omitempty"`
	Host     string `json:",omitempty"`
	Why      string `json:",omitempty"`
	Waits    bool   `json:",omitempty"` // no host has room: it waits for one
}

// Created is what became of one container of a batch.
type Created struct {
	Container *Container
	Err       error
}

// PlaceContainer gives a container that waits a host, or without one says why it still waits. Result: *Container.
// ErrStale when it waits no more, ErrNoFit when it does not fit.
type PlaceContainer struct {
	ID   int
	Host string
	Why  string
	At   time.Time
}

// SetDesired says what the user wants of a container. Result: *Container. Restart (only with WantRunning) or a change
// increases the epoch. ErrConflict when it is being destroyed, ErrLocked while it migrates, unless nothing changes.
type SetDesired struct {
	ID      int
	Desired Desired
	Restart bool
	GraceMS int64 `json:",omitempty"` // how long it may take to end before it is killed, 0: the default
}

// SetContainer changes what is not nil, all or nothing. Result: *Container. Labels are merged, an empty value removes
// one. Growth that does not fit on the owner is ErrNoFit, as are rules that do not allow the container where it is.
type SetContainer struct {
	ID        int
	Limits    *Limits
	Name      *string
	Hostname  *string
	Text      *string
	OnBoot    *OnBoot `json:",omitempty"`
	BootOrder *int    `json:",omitempty"`
	Labels    map[string]string
	Rules     *Rules `json:",omitempty"`

	IP    *string  `json:",omitempty"` // as for CreateContainer: all of the first NIC's addresses, those it has are kept for auto
	IPAdd []string `json:",omitempty"` // beside those that it has
	IPDel []string `json:",omitempty"` // taken away before others are added

	Firewall *Firewall `json:",omitempty"` // replaces all of it

	NameServers   []string `json:",omitempty"` // replace all that it has; DefaultDNS alone: it has none of its own
	SearchDomains []string `json:",omitempty"` // the same

	NICDel    []string        `json:",omitempty"` // names; taken away before others are added
	NICAdd    []NIC           `json:",omitempty"` // name, network and, as addresses, words as in IP; index 0: a free one
	Unpublish []PublishedPort `json:",omitempty"`
	Publish   []PublishedPort `json:",omitempty"`
}

// ReportContainer is the owner's observation. Result: *Container. ErrStale when Host and Generation are not the owner's.
type ReportContainer struct {
	ID         int
	Host       string
	Generation uint64
	State      ContainerState
	Detail     string
	Restarted  bool   // it has to be started from disk after a fault
	Resumed    bool   // it could not be suspended, and is wanted running again
	Halted     bool   `json:",omitempty"` // it ended by its own will, or is not to be started at boot: it is wanted stopped
	Booted     bool   `json:",omitempty"` // its host has booted, and it is to be started then
	Operation  string // the migration that met the fault: its restart is counted once, however often it is reported; empty: its host went down
}

// RemoveContainer says that the owner has deleted a container that was to be destroyed.
type RemoveContainer struct {
	ID         int
	Host       string
	Generation uint64
}

// BeginMigration locks a container and reserves its room on the target. Result: *Operation. From and Generation must
// be the owner's (ErrStale).
type BeginMigration struct{ Operation Operation }

// CommitMigration hands the container over: To owns it with the next generation. Result: *Container. Idempotent;
// ErrStale after an abort.
type CommitMigration struct{ Operation string }

// AbortMigration gives up a migration that is not committed. Result: *Operation. Idempotent; ErrStale after a commit.
type AbortMigration struct {
	Operation string
	Reason    string
	At        time.Time
	Refused   bool // nothing had been frozen, or the wanted longest downtime was over
}

// FinishMigration ends a committed migration and unlocks the container. Result: *Operation. Idempotent.
type FinishMigration struct {
	Operation string
	Result    MoveResult
	At        time.Time
}

// BeginPlan records a plan: a drain, a consolidation, a rebalancing or a maintenance. Result: *Operation. It is carried
// out at once unless its status is OpProposed. ErrConflict while another plan is under way, except that different hosts
// can be drained at the same time.
type BeginPlan struct{ Operation Operation }

// StepPlan records what became of one step of a plan. Result: *Operation. An empty Migration keeps the one recorded.
type StepPlan struct {
	Operation string
	Step      int // index into Steps
	Migration string
	Status    string
	Reason    string `json:",omitempty"`
}

// SetPlan has a proposed plan carried out, pauses one, or has it go on. Result: *Operation. ErrConflict as in BeginPlan.
type SetPlan struct {
	Operation string
	Status    OperationStatus // OpRunning or OpPaused
	Why       string          `json:",omitempty"` // it is paused; empty: somebody wanted it
}

// ExtendPlan adds steps to a plan that is carried out, and says how far its round is. Result: *Operation. ErrStale unless
// the plan has Known steps: a former leader may have added them.
type ExtendPlan struct {
	Operation string
	Known     int
	Steps     []Move
	Round     *Round `json:",omitempty"`
}

// SetAutomation says what the cluster does by itself. Result: *Automation.
type SetAutomation struct{ Automation Automation }

// EndPlan ends a plan with a final status; steps that have not begun are withdrawn. Result: *Operation. Repeating the same
// end changes nothing.
type EndPlan struct {
	Operation string
	Status    OperationStatus
	Error     string
	At        time.Time
}

// ReportVerdict is what the owner's preflight found of a running container. Result: *Container. ErrStale when Host and
// Generation are not the owner's; a container that does not run keeps none.
type ReportVerdict struct {
	ID         int
	Host       string
	Generation uint64
	Verdict    Verdict
}

// SetPolicy changes how the cluster places containers. Result: *Policy. What is there already stays where it is, even if
// it is more than the new policy offers.
type SetPolicy struct{ Policy Policy }

// SetHost changes what is kept back on a host. Result: *Host. Nil leaves a part as it is. Less room than is reserved
// is accepted: nothing new will fit.
type SetHost struct {
	Name          string
	Reserve       *Resources
	MaxContainers *int64
	Labels        map[string]string `json:",omitempty"` // merged; an empty value gives the label of the host's configuration back
	Power         *Power            `json:",omitempty"`
}

// BeginTask locks a container for a local operation, which its owner carries out. Result: *Operation. From and Generation
// must be the owner's (ErrStale). A clone makes the new container, on the same host, and locks it too.
type BeginTask struct {
	Operation Operation
	Clone     Container // the new one, as in CreateContainer; host and template are the old one's
	IP        string
}

// EndTask ends a local operation and unlocks. Result: *Operation. Idempotent. After an error, what a clone has made is
// destroyed.
type EndTask struct {
	Operation string
	Error     string
	Bytes     int64 // of a snapshot
	At        time.Time
}

// TrashContainer stops a container and hides it; its name is free again. Result: *Container. Idempotent.
type TrashContainer struct {
	ID int
	At time.Time
}

// RestoreContainer takes a container out of the trash. Result: *Container. Idempotent. Name, if not empty, is a new one:
// ErrConflict when the old one was given to another container meanwhile; ErrNoFit when its host has no room any more.
type RestoreContainer struct {
	ID   int
	Name string
}

// AddNetwork makes a network known. Result: *Network. The same one again changes nothing.
type AddNetwork struct{ Network Network }

// DropNetwork forgets a network; ErrConflict while containers are in it.
type DropNetwork struct{ Name string }

// AddPool gives a network addresses of a kind that it has none of. Result: *Network.
type AddPool struct {
	Network string // empty: the default one
	Pool    AddressPool
}

// ignored stands for a command that this version does not know and may skip.
type ignored struct{ kind Kind }

func (c ignored) Kind() Kind              { return c.kind }
func (ignored) apply(*State) (any, error) { return nil, nil }
func (InitCluster) Kind() Kind            { return kindInitCluster }
func (AddHost) Kind() Kind                { return kindAddHost }
func (UpdateHost) Kind() Kind             { return kindUpdateHost }
func (SetHostState) Kind() Kind           { return kindSetHostState }
func (SetVoter) Kind() Kind               { return kindSetVoter }
func (RemoveHost) Kind() Kind             { return kindRemoveHost }
func (AddToken) Kind() Kind               { return kindAddToken }
func (RevokeToken) Kind() Kind            { return kindRevokeToken }
func (PutTemplate) Kind() Kind            { return kindPutTemplate }
func (TemplateOn) Kind() Kind             { return kindTemplateOn }
func (TemplateOff) Kind() Kind            { return kindTemplateOff }
func (DropTemplate) Kind() Kind           { return kindDropTemplate }
func (CreateContainer) Kind() Kind        { return kindCreateContainer }
func (SetDesired) Kind() Kind             { return kindSetDesired }
func (SetContainer) Kind() Kind           { return kindSetContainer }
func (ReportContainer) Kind() Kind        { return kindReportContainer }
func (RemoveContainer) Kind() Kind        { return kindRemoveContainer }
func (BeginMigration) Kind() Kind         { return kindBeginMigration }
func (CommitMigration) Kind() Kind        { return kindCommitMigration }
func (AbortMigration) Kind() Kind         { return kindAbortMigration }
func (FinishMigration) Kind() Kind        { return kindFinishMigration }
func (BeginPlan) Kind() Kind              { return kindBeginPlan }
func (StepPlan) Kind() Kind               { return kindStepPlan }
func (EndPlan) Kind() Kind                { return kindEndPlan }
func (ReportVerdict) Kind() Kind          { return kindReportVerdict }
func (SetPolicy) Kind() Kind              { return kindSetPolicy }
func (SetHost) Kind() Kind                { return kindSetHost }
func (BeginTask) Kind() Kind              { return kindBeginTask }
func (EndTask) Kind() Kind                { return kindEndTask }
func (TrashContainer) Kind() Kind         { return kindTrashContainer }
func (RestoreContainer) Kind() Kind       { return kindRestoreContainer }
func (CreateContainers) Kind() Kind       { return kindCreateMany }
func (PlaceContainer) Kind() Kind         { return kindPlaceContainer }
func (SetPlan) Kind() Kind                { return kindSetPlan }
func (ExtendPlan) Kind() Kind             { return kindExtendPlan }
func (SetAutomation) Kind() Kind          { return kindSetAutomation }
func (AddNetwork) Kind() Kind             { return kindAddNetwork }
func (DropNetwork) Kind() Kind            { return kindDropNetwork }
func (AddPool) Kind() Kind                { return kindAddPool }

// Encode writes a command as a log entry: its kind in two bytes, then JSON.
func Encode(c Command) ([]byte, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode command %d: %w", c.Kind(), err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(c.Kind())), body...), nil
}

// Decode reads a log entry. A kind that is not known is ErrNewer, unless it may be ignored: then the command changes
// nothing. After ErrNewer the replica must stop: its State would differ from the others'.
func Decode(entry []byte) (Command, error) {
	if len(entry) < 2 {
		return nil, Refuse(ErrInvalid, "a log entry of %d bytes is no command", len(entry))
	}
	kind, body := Kind(binary.BigEndian.Uint16(entry)), entry[2:]
	decode := decoder(kind)
	switch {
	case decode != nil:
		c, err := decode(body)
		if err != nil {
			return nil, fmt.Errorf("decode command %d: %w", kind, err)
		}
		return c, nil
	case kind&Ignorable != 0:
		return ignored{kind}, nil
	}
	return nil, Refuse(ErrNewer, "command %d is not known to this version; upgrade this host's agent", kind)
}

func decodeAs[C Command](body []byte) (Command, error) {
	var c C
	err := json.Unmarshal(body, &c)
	return c, err
}

// decoder returns what reads the JSON of a kind, nil for a kind that is not known.
func decoder(k Kind) func([]byte) (Command, error) {
	return map[Kind]func([]byte) (Command, error){
		kindInitCluster:      decodeAs[InitCluster],
		kindAddHost:          decodeAs[AddHost],
		kindUpdateHost:       decodeAs[UpdateHost],
		kindSetHostState:     decodeAs[SetHostState],
		kindSetVoter:         decodeAs[SetVoter],
		kindRemoveHost:       decodeAs[RemoveHost],
		kindAddToken:         decodeAs[AddToken],
		kindRevokeToken:      decodeAs[RevokeToken],
		kindPutTemplate:      decodeAs[PutTemplate],
		kindTemplateOn:       decodeAs[TemplateOn],
		kindDropTemplate:     decodeAs[DropTemplate],
		kindCreateContainer:  decodeAs[CreateContainer],
		kindSetDesired:       decodeAs[SetDesired],
		kindSetContainer:     decodeAs[SetContainer],
		kindReportContainer:  decodeAs[ReportContainer],
		kindRemoveContainer:  decodeAs[RemoveContainer],
		kindBeginMigration:   decodeAs[BeginMigration],
		kindCommitMigration:  decodeAs[CommitMigration],
		kindAbortMigration:   decodeAs[AbortMigration],
		kindFinishMigration:  decodeAs[FinishMigration],
		kindBeginPlan:        decodeAs[BeginPlan],
		kindStepPlan:         decodeAs[StepPlan],
		kindEndPlan:          decodeAs[EndPlan],
		kindReportVerdict:    decodeAs[ReportVerdict],
		kindSetPolicy:        decodeAs[SetPolicy],
		kindSetHost:          decodeAs[SetHost],
		kindBeginTask:        decodeAs[BeginTask],
		kindEndTask:          decodeAs[EndTask],
		kindTrashContainer:   decodeAs[TrashContainer],
		kindRestoreContainer: decodeAs[RestoreContainer],
		kindCreateMany:       decodeAs[CreateContainers],
		kindPlaceContainer:   decodeAs[PlaceContainer],
		kindSetPlan:          decodeAs[SetPlan],
		kindExtendPlan:       decodeAs[ExtendPlan],
		kindSetAutomation:    decodeAs[SetAutomation],
		kindAddNetwork:       decodeAs[AddNetwork],
		kindDropNetwork:      decodeAs[DropNetwork],
		kindAddPool:          decodeAs[AddPool],
		kindTemplateOff:      decodeAs[TemplateOff],
	}[k]
}
