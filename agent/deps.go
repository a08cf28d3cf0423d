package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/raftstore"
	"github.com/vzcluster/vzcluster/migrate"
	"github.com/vzcluster/vzcluster/runtime"
	"github.com/vzcluster/vzcluster/runtime/image"
)

// Engine makes one host's containers real.
type Engine interface {
	Keeper
	// Setup prepares the host: bridge, cgroup parent (idempotent).
	Setup(ctx context.Context) error
	// Start prepares root, cgroup and network and starts the container; nil when it runs already.
	Start(ctx context.Context, spec runtime.Spec) error
	// Stop asks init to end, kills what is left after timeout, and frees mounts, cgroup and NIC; it keeps the layer.
	// Stopping what does not run frees what is left of it.
	Stop(ctx context.Context, id int, systemd bool, timeout time.Duration) error
	// Kill ends every process at once and leaves the rest to Stop.
	Kill(ctx context.Context, id int) error
	// Suspend writes the memory of a running container to disk and ends its processes; Start lets it go on. After an error
	// it runs as before; runtime.ErrBroken: it cannot. Idempotent.
	Suspend(ctx context.Context, spec runtime.Spec) error
	// EndSessions ends what exec has started in a container.
	EndSessions(ctx context.Context, id int) error
	// Suspension says whether the memory of a container lies on disk.
	Suspension(id int) (runtime.Suspension, error)
	// DropMemory deletes the memory of a container that does not run (idempotent).
	DropMemory(ctx context.Context, id int) error
	// Destroy removes everything of a container, running or not (idempotent).
	Destroy(ctx context.Context, id int) error
	// Update changes the limits of a running container, all or nothing.
	Update(id int, l runtime.Limits) error
	// Connect makes the NICs of a running container these (idempotent). What was done before an error stays.
	Connect(id int, nics []runtime.NIC) error
	// Reach tells the host's network where containers are, and which ports lead to them (idempotent).
	Reach(r runtime.Reach) error
	// Status says what the kernel knows; an unknown container is simply not running.
	Status(id int) (runtime.Status, error)
	// List returns the CTIDs that leave any trace on this host: a layer, a cgroup.
	List() ([]int, error)
	// WaitEnd returns when the container's init has ended, and how, or the context's error.
	WaitEnd(ctx context.Context, id int) (runtime.End, error)
	// LastWords says how a container that does not run has ended, as far as its init has said so.
	LastWords(id int) (runtime.End, error)
	// Within hands the root of a container to do, which may run or not. It must not be started or ended meanwhile.
	Within(ctx context.Context, spec runtime.Spec, do func(runtime.Inside) error) error
	// Processes lists those of a running container; Which finds the container of this host that a process is in, 0: none.
	Processes(id int) ([]runtime.Running, error)
	Which(pid int) (id int, p runtime.Running, err error)
	// Exec runs a command inside and returns its exit code.
	Exec(ctx context.Context, id int, o runtime.ExecOptions) (int, error)
	// Log opens the boot log; fs.ErrNotExist when there is none. It was written by the container: the file is a plain
	// one of its layer, no link is followed.
	Log(id int) (*os.File, error)
	// Usage says what the container uses now.
	Usage(id int) (runtime.Usage, error)
	// Beans counts what the container uses, and how often it met a limit.
	Beans(id int) ([]runtime.Bean, error)
}

// Keeper is what local operations need of an Engine: the layer, and what is kept beside it.
type Keeper interface {
	// Freeze closes the container's port and stops its processes, Thaw is its opposite.
	Freeze(ctx context.Context, id int) error
	Thaw(ctx context.Context, spec runtime.Spec) error
	// SaveMemory writes the memory of a frozen container into a new folder; runtime.ErrBroken: it cannot go on.
	SaveMemory(ctx context.Context, spec runtime.Spec, images string) error
	// ClearImages deletes a folder with memory when nobody works with it any more (idempotent).
	ClearImages(ctx context.Context, images string) error
	// Layer is the folder of the private layer, which is made if need be; it may be read while the container runs.
	Layer(id int) (string, error)
	// Instant says whether SaveLayer takes no time and the layer as it is at one moment. DropSaved deletes what it has made, or
	// a folder like it (idempotent).
	Instant() bool
	SaveLayer(id int, to string) error
	DropSaved(dir string) error
	// NextLayer makes the layer that ExchangeLayer puts in the place of a container's, and returns the folder of its files:
	// those of a saved one if copied, else none. DropNextLayer deletes it (idempotent).
	NextLayer(spec runtime.Spec, from string) (upper string, copied bool, err error)
	DropNextLayer(id int) error
	// ExchangeLayer is for a container that does not run. After a crash it has the one layer or the other.
	ExchangeLayer(id int) error
	// Unmount takes the root away from above a layer that was written from outside.
	Unmount(id int) error
	// Saved is the folder of what is kept beside the layer, and moves with it; MakeSaved makes it.
	Saved(id int) string
	MakeSaved(id int) (string, error)
	// MemoryDir is where the memory of a suspended container lies: who puts a complete folder there makes it one.
	MemoryDir(id int) string
}

// Templates keeps this host's templates by digest.
type Templates interface {
	Has(digest string) bool
	// Archive returns the compressed archive and its size, -1 when unknown.
	Archive(digest string) (io.ReadCloser, int64, error)
	// Fetch stores an archive that another host sent, and checks its digest.
	Fetch(ctx context.Context, digest string, r io.Reader) (image.Info, error)
	// Import stores what a user sent, and prepares it.
	Import(ctx context.Context, r io.Reader, o image.ImportOptions) (image.Info, error)
	Remove(digest string) error
	// List says too when each was used last; Touch notes that one is used now.
	List() ([]image.Info, error)
	Touch(digest string) error
}

// Migrator carries out this host's part of migrations. Begin is not its business: a migration begins as a record.
type Migrator interface {
	// Run carries out, finishes or undoes the active migrations that this host is the source or target of, until ctx
	// ends. It watches the agent's replica.
	Run(ctx context.Context) error
	// Handle serves one connection from another host's Migrator and closes it.
	Handle(conn net.Conn, peer string)
	// Busy says whether a migration works on a container here, even if its record is final already.
	Busy(container int) bool
	// Kept lists the private layers that are kept here of containers that have left.
	Kept() []api.KeptLayer
	// Offer says what this host is like and what one of its containers needs, for a target to judge.
	Offer(id int, live bool) (migrate.Offer, error)
	// Unfit names what is in the way of taking a container here.
	Unfit(ctx context.Context, c *cluster.Container, o migrate.Offer) []migrate.Blocker
	// Logs are what CRIU wrote on this host about an operation that failed, by name.
	Logs(operation string) (map[string][]byte, error)
	// Progress is how far a migration is of which this host is the source; without stages if nothing is known.
	Progress(operation string) cluster.Progress
	// Check says whether a container of this host could be moved live now.
	Check(ctx context.Context, id int) (api.Verdict, error)
}

// DNSDomain is where containers' names are found; inside, plain names do.
const DNSDomain = "vz"

// Resolver answers names for containers, below DNSDomain, until ctx ends. Lookup returns the addresses of a container
// or host name, none when there is no such name.
type Resolver func(ctx context.Context, lookup func(name string) []string) error

// Figures is a program beside the agent, which it does not end with, that shows containers their own limits.
type Figures interface {
	// Ensure returns when it is at work (idempotent). Containers run without it too.
	Ensure(ctx context.Context) error
	// Run keeps it at work until ctx ends.
	Run(ctx context.Context) error
}

// Deps are what an agent is made of besides its configuration. Engine and Templates must be set.
type Deps struct {
	Engine    Engine
	Templates Templates
	Migrator  func(*Agent) Migrator // nil: this host cannot migrate
	Resolver  Resolver              // nil: no DNS
	Figures   Figures               // nil: containers see the host's
	Doctor    func(ctx context.Context) []api.Finding
	Log       *slog.Logger // nil: discarded
	Version   string
	Raft      raftstore.Config // only its durations and counts are used; zero: for a LAN
	Timing    Timing
}

// Timing are the agent's own delays; zero fields get the defaults of a LAN.
type Timing struct {
	Quorum   time.Duration // how long a request waits for a leader
	Stale    time.Duration // after how long without a leader a read is answered from the replica
	DeadHost time.Duration // after how long a dead voter is replaced
	Survey   time.Duration // about how often a running container is looked at for what keeps it from being moved live
	Retry    time.Duration // first pause after a failed attempt; it doubles up to 20 times that
}

func (t Timing) withDefaults() Timing {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&t.Quorum, 4*time.Second)
	def(&t.Stale, 2500*time.Millisecond)
	def(&t.DeadHost, 15*time.Second)
	def(&t.Survey, 30*time.Second)
	def(&t.Retry, 100*time.Millisecond)
	return t
}
