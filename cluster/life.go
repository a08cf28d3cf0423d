package cluster

import "time"

// The kinds of operation that the owner of a container carries out by itself, while it has the container locked.
const (
	OpSnapshot     OperationKind = "snapshot"      // keep the layer, and with Memory what runs
	OpSwitch       OperationKind = "switch"        // make a container what it was at a snapshot
	OpDropSnapshot OperationKind = "drop-snapshot" // delete one
	OpClone        OperationKind = "clone"         // copy the layer into another container of the same host
	OpReinstall    OperationKind = "reinstall"     // begin again from the template
)

func localKinds() []OperationKind {
	return []OperationKind{OpSnapshot, OpSwitch, OpDropSnapshot, OpClone, OpReinstall}
}

// Local says whether the owner of the container carries the operation out by itself.
func (k OperationKind) Local() bool {
	for _, l := range localKinds() {
		if k == l {
			return true
		}
	}
	return false
}

// Task is what a local operation is to do.
type Task struct {
	Snapshot string   `json:"snapshot,omitempty"` // the name of one; clone: copy that, not what is now
	Text     string   `json:"text,omitempty"`     // snapshot: what it is good for
	Memory   bool     `json:"memory,omitempty"`   // snapshot: what runs is kept too
	Clone    int      `json:"clone,omitempty"`    // CTID of the new container
	Digest   string   `json:"digest,omitempty"`   // reinstall: of the template to begin from
	Template string   `json:"template,omitempty"` // reinstall: its name
	Keep     []string `json:"keep,omitempty"`     // reinstall: absolute paths of files and folders that stay
}

// Snapshot is what a container was at one moment; it lies beside its layer and moves with it.
type Snapshot struct {
	Name    string    `json:"name"`
	Text    string    `json:"text,omitempty"`
	Memory  bool      `json:"memory,omitempty"` // with what ran
	Bytes   int64     `json:"bytes"`
	Digest  string    `json:"digest"` // of the template that the layer lies on
	Created time.Time `json:"created"`
}

// MaxSnapshots is how many a container may have.
const MaxSnapshots = 64

// Snapshot returns the container's snapshot of a name, nil when there is none.
func (c *Container) Snapshot(name string) *Snapshot {
	for i := range c.Snapshots {
		if c.Snapshots[i].Name == name {
			return &c.Snapshots[i]
		}
	}
	return nil
}

// InTrash says whether the container was destroyed and can still be brought back.
func (c *Container) InTrash() bool { return !c.Trashed.IsZero() }

// OnBoot says what becomes of a container when its host boots.
type OnBoot string

// What can become of it.
const (
	BootAsBefore OnBoot = ""    // what ran runs again
	BootYes      OnBoot = "yes" // it is started
	BootNo       OnBoot = "no"  // it stays stopped
)

// MaxBootOrder bounds the order in which containers are started.
const MaxBootOrder = 1000

func checkBoot(c *Container) error {
	if c.OnBoot != BootAsBefore && c.OnBoot != BootYes && c.OnBoot != BootNo {
		return Refuse(ErrInvalid, "%q is nothing that can be done at boot; use yes, no or as-before", c.OnBoot)
	}
	if c.BootOrder < -MaxBootOrder || c.BootOrder > MaxBootOrder {
		return Refuse(ErrInvalid, "the boot order must lie between -%d and %d, 0 is normal", MaxBootOrder, MaxBootOrder)
	}
	return nil
}
