// Package runtime holds the contracts of what one host does for its containers: images, roots, network, cgroups, the
// OCI runtime and checkpoints. It is a leaf: it knows nothing of the cluster, and its adapters (subpackages) know
// only it, never each other; runtime/engine puts them together.
//
// The one rule for callers: a Spec comes from the replicated state, never from an image, a stream or a checkpoint.
package runtime

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Errors that callers tell apart.
var (
	ErrNotFound   = errors.New("not found")
	ErrNotRunning = errors.New("not running")
	ErrNoTemplate = errors.New("the template is not on this host")
	ErrBroken     = errors.New("a checkpoint that was cut off has ended or broken a process of the container")
)

// Unable says in a sentence what this host cannot do that another one might.
type Unable string

func (u Unable) Error() string { return string(u) }

// UIDs is how many host uids and gids each container's user namespace spans.
const UIDs = 65536

// GhostLimit is how large a file that a process has open and that has no name any more may be in a checkpoint, in bytes.
const GhostLimit = 64 << 20

// Limits bound one container. Zero means no limit, except CPUUnits (zero is taken as 1024).
type Limits struct {
	RAM       int64  // bytes
	Swap      int64  // bytes beyond RAM
	Guarantee int64  // bytes of RAM that are not taken back for others
	SoftRAM   int64  // bytes of RAM above which memory is taken back
	MilliCPU  int64  // thousandths of a core
	CPUUnits  int64  // weight, 1024 is normal
	CPUCount  int64  // so many of the CPUs, chosen by the host; only without CPUMask
	CPUMask   string // only these CPUs, a list as "0-3,8"
	NUMANodes string // memory, and without CPUMask CPUs, of these nodes only; a list
	PIDs      int64  // processes and threads
	IOWeight  int64  // 1 to 1000, 100 is normal
	ReadRate  int64  // bytes per second from the disk of the private layer
	WriteRate int64
	ReadIOPS  int64 // operations per second
	WriteIOPS int64
	Net       Rates
	Disk      Space // of the private layer; what of it is enforced, Storage.Traits says
}

// Space is an amount of disk.
type Space struct {
	Bytes int64
	Files int64 // and directories, links: inodes
}

// DiskUsage is what a directory of a Storage takes.
type DiskUsage struct {
	Space
	Own int64 // bytes on the host that are free when it is gone: what it shares with its copies does not count
}

// StorageTraits says what a Storage can do.
type StorageTraits struct {
	Driver  string
	Bytes   bool // it enforces limits of bytes
	Files   bool // and of files
	Shown   bool // df inside shows the limit
	Instant bool // copies are made at once and share what neither side changes
}

// Storage keeps directories that may have a limit: the private layers of containers, and their snapshots. It does not look
// into them.
type Storage interface {
	// Create makes an empty directory with a limit (zero: none) that only root may enter, and opens it. One that exists is
	// opened and left as it is.
	Create(dir string, limit Space) error
	// Close lets go of what an open directory takes besides disk (idempotent). Its files are not seen until Create.
	Close(dir string) error
	// Limit changes the limit of an open directory. Live says that a container uses it. What cannot be is refused and changes
	// nothing: less than is in use, or what this storage can do only for a stopped container.
	Limit(dir string, limit Space, live bool) error
	// Usage measures a directory, which is opened if need be.
	Usage(dir string) (DiskUsage, error)
	// Copy makes a new directory like another one, with its limit: all of it or nothing. It is open afterwards. Who writes
	// into the original meanwhile may be seen in part.
	Copy(from, to string) error
	// Rename gives a directory another name, which must be free but for an empty directory; it is open afterwards.
	Rename(from, to string) error
	// Remove closes and deletes (idempotent).
	Remove(dir string) error
	Traits() StorageTraits
}

// MaxNICs is how many network cards a container can have.
const MaxNICs = 8

// NIC is a container's network card.
type NIC struct {
	Index     int    // 0 to MaxNICs-1, stays when others come and go
	Name      string // inside, "eth0"
	MAC       string
	Addresses []netip.Prefix
	Gateways  []netip.Addr // default routes, at most one of IPv4 and one of IPv6
	Segment   Segment
	Rates     Rates
	Firewall  *Firewall // nil: everything is let through
}

// Segment is what joins NICs on all hosts. The zero Segment is the bridge that the host was told of.
type Segment struct {
	Bridge string // a bridge that the host has
	VLAN   int    // a VLAN of the hosts' LAN
	VNI    int    // a VXLAN between the hosts
}

// Reach is what a host must know of containers elsewhere.
type Reach struct {
	Overlays map[int][]Far // by VNI: those on other hosts
	Forwards []Forward
}

// Far is a NIC in an overlay, on another host.
type Far struct {
	ID, Index int
	MAC       string
	Addresses []netip.Addr
	Host      netip.Addr
}

// Forward has a port of this host lead elsewhere.
type Forward struct {
	Proto byte
	Port  uint16
	To    netip.AddrPort
}

// Firewall says what a NIC gets and sends. The first rule that matches decides.
type Firewall struct {
	DenyIn, DenyOut bool // what no rule is about
	Rules           []FirewallRule
}

// FirewallRule is about what begins an exchange; answers go the other way by themselves.
type FirewallRule struct {
	Out         bool // from the container; else to it
	Deny        bool
	Proto       byte         // IP protocol: TCP, UDP or ICMP, which is that of IPv6 too; 0: all
	First, Last uint16       // ports of the side that is called; 0: all
	Peer        netip.Prefix // the other side; not valid: all
}

// Rates bound what goes through a NIC, in bytes per second; zero is no limit.
type Rates struct{ In, Out int64 } // to the container, from it

// Traffic is what went through a NIC since it was plugged in, in bytes: with addresses of the pool, and with others.
type Traffic struct {
	SentLocal       int64 `json:"sent_local"`
	SentOutside     int64 `json:"sent_outside"`
	ReceivedLocal   int64 `json:"received_local"`
	ReceivedOutside int64 `json:"received_outside"`
}

// Spec is everything a host must know to make one container real.
type Spec struct {
	ID         int    // CTID
	Generation uint64 // of the hand-over that makes this copy the container
	Name       string
	Hostname   string
	Template   string   // digest of the template
	Init       []string // PID 1 and its arguments
	Systemd    bool     // PID 1 is systemd
	UIDBase    uint32
	Limits     Limits
	NICs       []NIC
	Folders    []Folder // of the host, that it has besides its root
	DNS        []string // name servers
	Search     []string // DNS search domains
}

// ResolvConf is what a container's /etc/resolv.conf says.
func (s Spec) ResolvConf() string {
	out := "# Written by vzcluster at each start.\n"
	if len(s.Search) > 0 {
		out += "search " + strings.Join(s.Search, " ") + "\n"
	}
	for _, server := range s.DNS {
		out += "nameserver " + server + "\n"
	}
	return out
}

// Folder is one of the host that a container sees as its own.
type Folder struct {
	Source   string // on the host
	Path     string // inside
	ReadOnly bool
	Shared   bool // it is the same storage on every host
}

// FolderMount is where Roots mounts a container's folders, beside the given root.
func FolderMount(root string, index int) string {
	return filepath.Join(filepath.Dir(root), "folders", strconv.Itoa(index))
}

// Status is what the kernel says about a container.
type Status struct {
	Running bool
	Frozen  bool
	PID     int // of the container's init in the host's pid namespace, 0 when not running
}

// Suspension says whether the memory of a container lies on its host's disk; empty: it does not.
type Suspension string

// The suspensions.
const (
	Suspended Suspension = "suspended" // it does, and nothing has run since
	Resuming  Suspension = "resuming"  // it is being used up
)

// End is how a container ended by itself; empty: nobody knows.
type End string

// The ends.
const (
	Rebooted End = "rebooted" // it wants to be started again
	Halted   End = "halted"   // it was switched off from inside
)

// Images keeps templates by digest as unpacked, read-only trees (uids unshifted).
type Images interface {
	// Path returns the unpacked tree of a template, or ErrNoTemplate.
	Path(digest string) (string, error)
}

// Roots makes and removes container roots: an overlay of the template below and the container's private layer above,
// mounted with the container's uid range by idmapped mounts, so that both are unshifted on disk.
type Roots interface {
	// Create makes an empty private layer for a container (idempotent).
	Create(id int) error
	// Mount mounts the root and returns its path; mounting a mounted root returns the path again.
	Mount(ctx context.Context, spec Spec, template string) (string, error)
	// Personalize gives a mounted root what must be its own: hostname, hosts, resolv.conf, and at the first start
	// machine-id and ssh host keys. It never follows a link out of the root.
	Personalize(spec Spec, root string) error
	// Unmount unmounts the root (idempotent).
	Unmount(id int) error
	// Limit gives a private layer a limit, live too; it makes the layer when there is none. What cannot be is refused and
	// changes nothing.
	Limit(id int, limit Space) error
	// Usage measures a private layer.
	Usage(id int) (DiskUsage, error)
	// Save copies the private layer into a new directory below the containers'; at once where the storage makes instant
	// copies. Open makes such a copy's files seen and returns their folder, Discard deletes it (idempotent).
	Save(id int, to string) error
	Open(saved string) (string, error)
	Discard(saved string) error
	// Instant says whether layers are copied at once, sharing what neither side changes.
	Instant() bool
	// Next makes the layer that Exchange is to put in the place of the private one, and returns the folder of its files.
	// Where the storage makes instant copies it is a copy of a saved layer, or of the parent of another container's Layer, and
	// copied says so; else it is empty.
	Next(id int, from string, limit Space) (upper string, copied bool, err error)
	// DropNext deletes it (idempotent).
	DropNext(id int) error
	// Exchange puts it in place; a crash leaves the one or the other. The root must not be mounted.
	Exchange(id int) error
	// Layer returns the private layer's directory ("upper" of the overlay).
	Layer(id int) string
	// Reset removes the overlay's work directory contents, needed after the layer was written from outside.
	Reset(id int) error
	// Remove unmounts and deletes root and layer (idempotent).
	Remove(id int) error
	// Park removes the root, but puts the layer aside as it is. What was aside before is deleted. What is aside is
	// deleted when the next process begins.
	Park(id int) error
	// Unpark makes the layer that is aside the container's again. Overlay's notes of origin must be taken from its files before it is
	// mounted.
	Unpark(id int) error
	// DropParked deletes the layer that is aside (idempotent).
	DropParked(id int) error
}

// Network plugs containers into the host's bridge.
type Network interface {
	// Setup makes the bridge and what goes with it (idempotent).
	Setup(ctx context.Context) error
	// Plug makes the container's NICs inside the network namespace of process pid: MACs, addresses, routes, lo up,
	// MPTCP off. With hold, the ports are kept out of the bridge until Open.
	Plug(id, pid int, nics []NIC, hold bool) error
	// Open lets the frames of held ports through and announces the addresses to the neighbours.
	Open(id int, nics []NIC) error
	// Close takes the ports out of the bridge: nothing gets in or out (idempotent).
	Close(id int) error
	// Reach tells the host where containers are (idempotent). What it was told before and is not told again ends.
	Reach(r Reach) error
	// Change makes the NICs of a running container with open ports these: it plugs, unplugs and changes what differs
	// (idempotent). What it did before an error stays.
	Change(id, pid int, nics []NIC) error
	// Hold keeps the frames that come for the NICs from now on, until their new place announces itself. It is called when
	// the ports are closed; who asks for the NICs' addresses counts too.
	Hold(nics []NIC) (Held, error)
	// Replay hands frames that were held to the container behind open ports.
	Replay(id int, nics []NIC, frames [][]byte) error
	// Ready says in a sentence why the NICs could not be plugged in here, or who else has an address; "" when they could.
	Ready(ctx context.Context, nics []NIC) (string, error)
	// Shape changes the rates of NICs that are plugged in, both or none, and returns the old ones. Without a NIC it does
	// nothing.
	Shape(id int, r Rates) (old Rates, err error)
	// Traffic says what went through the NICs.
	Traffic(id int) (Traffic, error)
	// Unplug removes the NICs (idempotent).
	Unplug(id int) error
}

// Held are the frames of a container that is nowhere; they are bounded.
type Held interface {
	// Take returns what came since the last call.
	Take() [][]byte
	Close()
}

// Cgroups owns the containers' cgroups; v1, hybrid and v2 have the same meaning.
type Cgroups interface {
	// Path is the cgroup path of a container, the same on every host ("/vz/101").
	Path(id int) string
	// Create makes the cgroup in every hierarchy, sets the limits and hands the delegated part to uid:uid.
	Create(id int, l Limits, uid uint32) error
	// Update changes limits, all or nothing.
	Update(id int, l Limits) error
	// Delegate hands the subtree that systemd inside manages to uid:uid.
	Delegate(id int, uid uint32) error
	// Hold asks for a freeze without waiting for it: what enters the cgroup from now on does not run.
	Hold(id int) error
	// Freeze freezes and returns when every process stands still; Thaw is its opposite.
	Freeze(ctx context.Context, id int) error
	Thaw(ctx context.Context, id int) error
	// Frozen reads the state back. Processes that were told to freeze and are about to stand still are waited for.
	Frozen(id int) (bool, error)
	// Freezer is the directory of the cgroup that freezes the container.
	Freezer(id int) string
	// PIDs lists the processes of the container, sub-cgroups included, in the host's pid namespace.
	PIDs(id int) ([]int, error)
	// KillAll kills every process of the container with SIGKILL and returns when they are gone; frozen or not.
	KillAll(ctx context.Context, id int) error
	// Remove deletes the cgroup (idempotent).
	Remove(id int) error
	// Usage says what the container uses now.
	Usage(id int) (Usage, error)
	// Beans counts what the container uses, and how often it met a limit.
	Beans(id int) ([]Bean, error)
}

// Checkpoint says what a checkpointer must know of a container besides its processes.
type Checkpoint struct {
	Root    string                // mount point of its root
	Binds   []Bind                // bind mounts inside, from the root itself or from the host
	Masked  []string              // files inside that are hidden behind /dev/null
	Cgroup  string                // its path in every hierarchy, seen from this host
	Freezer string                // directory of the cgroup that freezes it
	PIDs    func() ([]int, error) // its processes now, as this host numbers them
	// Pages, if not nil, takes the pages of a dump; they are not written to files then.
	Pages *Pages
	// Lazy says that a dump leaves out what a restore can do without, and that a restore hands over its processes
	// over a socket in the images folder instead of bringing that (post-copy).
	Lazy bool
}

// Pages takes the pages of a dump.
type Pages struct {
	// Serve speaks CRIU's page server protocol. It returns when all pages came, or with an error, which fails the dump.
	Serve func(criu io.ReadWriter) error
	// Marked says that CRIU may leave out pages that the kernel has not marked as written, of the processes that Serve says.
	Marked bool
}

// Dir is a folder of a container's root.
type Dir struct {
	Path string // below the root
	Mode os.FileMode
}

// Bind is a bind mount inside a container.
type Bind struct {
	Path   string // inside
	Source string // on this host
}

// RestoreHooks are called at the stages of a restore; an error from one of them kills the half-restored copy.
type RestoreHooks struct {
	// Namespaces is called when the namespaces exist: the NIC is plugged in from here on. Processes and mounts are made
	// meanwhile.
	Namespaces func(pid int) error
	// Connected is called before connections are restored: it returns when the NIC is there.
	Connected func() error
	// Restored is called when everything is restored and nothing runs yet: the cgroup is frozen here. What CRIU thinks
	// of an error is not to be relied upon: the caller reads the frozen state back.
	Restored func(pid int) error
}

// Checkpointer writes and restores the memory and kernel state of containers.
type Checkpointer interface {
	// Dump writes a checkpoint of the frozen process tree under pid into the images directory and leaves the
	// processes as they were. Ready is called once all images are complete, some time before Dump returns. The frozen
	// state must be read back afterwards. ErrBroken means that the container cannot go on as it was.
	Dump(ct Checkpoint, pid int, images string, ready func()) error
	// Restore makes the processes of a checkpoint and returns the pid of their init. They enter the container's cgroup,
	// and do not run if that is frozen by then.
	Restore(ct Checkpoint, images string, h RestoreHooks) (int, error)
	// Ready starts what the next Dump or Restore with these images needs, so that it need not wait for a program to start.
	// Settle ends it if neither comes.
	Ready(images string) error
	// Settle returns when no Dump or Restore with these images, begun by a caller that died, is under way any more.
	Settle(ctx context.Context, images string) error
	// Infected says whether a dump that was cut off has left something of itself in one of these processes.
	Infected(pids []int) bool
	// Warm has the kernel's abilities probed now, so that no migration waits for it.
	Warm(ctx context.Context) error
	// Scan reads what a checkpoint of these processes would meet. They must not be frozen.
	Scan(init int, pids []int) (Scan, error)
	// Version is 10000*major + 100*minor + patch; an error when there is none that can be used.
	Version() (int, error)
	// Outsiders returns those of the processes that were started from outside, by exec: a checkpoint would lose them
	// without a word. It is quick, and right for frozen processes too.
	Outsiders(init int, pids []int) []Process
	// Connecting says whether a connection over a unix socket waits to be accepted in the network namespace of a process: it
	// cannot be dumped. It is quick, and right for frozen processes too.
	Connecting(pid int) (bool, error)
}

// Process is what the kernel shows of one of a container's processes that matters for a checkpoint.
type Process struct {
	PID        int
	Name       string
	Unit       string            // systemd unit inside, "" if unknown
	Foreign    bool              // its parent is outside of the container: it was started by exec
	Namespaces map[string]string // kind -> identity
	Files      []File            // what its descriptors are
	Mapped     []string          // what its memory is mapped from, where that is no plain file
	Traced     bool              // a debugger is attached to it
	Stopped    bool              // some of its threads are stopped, others are not
	Headless   bool              // its first thread has ended, others have not
	Stuck      bool              // it waits in the kernel and cannot be interrupted
	Borrowing  bool              // it has /dev/tty open, and others have that terminal too
}

// File is one descriptor of a process, or several that are the same.
type File struct {
	Target   string // what the kernel says it points to
	Protocol string // of a socket, as the kernel names it ("TCP", "NETLINK")
	Device   string // of a device file: "char 10:229", "block 8:0"
	Ghost    int64  // bytes of a file that has no name any more
	Renamed  bool   // its name was deleted, but the file has another one
	Detached bool   // its file system is mounted nowhere in the container
	Outside  bool   // it stands for a process that is not the container's, or for a single thread
	Unread   bool   // a netlink socket with messages that nobody reads
	Counting bool   // an eventfd that was made as a semaphore
}

// Scan is a container as a checkpoint will find it.
type Scan struct {
	Init       int // pid
	Processes  []Process
	Mounts     []Mount // of all its mount namespaces
	Unaccepted int     // connections that the kernel has accepted and no process has taken yet
	HalfOpen   int     // connections whose peer has not confirmed yet
}

// Mount is a file system mounted inside a container.
type Mount struct{ Path, Type string }

// Usage is what a container consumes.
type Usage struct {
	RAM      int64 `json:"ram"`       // bytes
	CPUUsec  int64 `json:"cpu_usec"`  // CPU time so far, microseconds
	PIDs     int64 `json:"pids"`      // processes and threads
	OOMKills int64 `json:"oom_kills"` // since the start
}

// Bean is one resource of a container, named and counted as user beancounters do. Without bounds Barrier and Limit are -1.
type Bean struct {
	Name     string `json:"name"`
	Held     int64  `json:"held"`
	MaxHeld  int64  `json:"maxheld"`
	Barrier  int64  `json:"barrier"`
	Limit    int64  `json:"limit"`
	Failures int64  `json:"failcnt"` // since the container was started here
}

// Beans whose failures mean something else than that no more was given.
const (
	BeanOOM = "oomguarpages" // a process was killed for want of memory
	BeanCPU = "cpuperiods"   // the CPU limit ended a period before its work
)

// ExecOptions say how to run a command inside.
type ExecOptions struct {
	Args   []string
	Env    []string
	User   string           // "name", "uid", or either with ":group"; empty: root
	Dir    string           // to begin in; empty: the user's home
	Signal <-chan os.Signal // are passed on to the command; nil: none
	TTY    *os.File         // the slave of a pseudo terminal; then Stdin, Stdout and Stderr are not used
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// Inside is the root of a container, whose files are read and written from outside. Paths mean what they mean inside: links
// never lead out of the root. Owners are those that the container sees.
type Inside interface {
	// Pack writes a file or folder as a tar archive, whose names begin with the path's last part.
	Pack(path string, w io.Writer) error
	// Unpack puts what is in a tar archive below a folder.
	Unpack(path string, archive io.Reader, o UnpackOptions) error
	// Edit changes accounts, the time zone and the resolver; if something is not there nothing is changed.
	Edit(e Edits) error
	// Find returns an error if nothing has the path, fs.ErrNotExist.
	Find(path string) error
	Close() error
}

// Edits are changes of files that all distributions have alike.
type Edits struct {
	Passwords map[string]string // hashes, as crypt(5) has them, by user
	Keys      map[string]string // lines of authorized_keys that are added, by user
	TimeZone  string            // "Europe/Berlin"; empty: stays
	// ResolvConf is the content of /etc/resolv.conf; empty: it stays.
	ResolvConf string
}

// Running is a process of a container, as its host sees it.
type Running struct {
	PID     int // on the host
	Inside  int // in the container
	State   string
	CPU     time.Duration // so far
	RAM     int64         // resident, bytes
	Threads int
	Command string
}

// UnpackOptions say how an archive becomes files of a container.
type UnpackOptions struct {
	Rename bool // a path that is no folder is the new name of what the archive begins with
	AsRoot bool // everything belongs to root, whoever it belonged to
}

// OCI starts, enters and ends containers.
type OCI interface {
	// Create makes the container's namespaces and returns the pid of its waiting init.
	Create(ctx context.Context, spec Spec, root, cgroup string) (pid int, err error)
	// Start lets the waiting init go.
	Start(ctx context.Context, id int) error
	// Status reports what is known of the container; an unknown one is simply not running.
	Status(id int) (Status, error)
	// Exec runs a command inside and returns its exit code.
	Exec(ctx context.Context, id int, o ExecOptions) (int, error)
	// Forget drops the runtime's own record of a container whose processes are gone (idempotent).
	Forget(id int) error
	// Volatile lists the folders of a root that must be there and empty when a container boots, outer ones first.
	Volatile() []Dir
	// Checkpoint describes a container with the given root to a checkpointer.
	Checkpoint(spec Spec, root, cgroup string) (binds []Bind, masked []string)
	// Prepare leaves the runtime's record of a container that is going to be restored, without a process.
	Prepare(ctx context.Context, spec Spec, root, cgroup string) error
	// Adopt makes a prepared record name the init that was restored.
	Adopt(id, pid int) error
}
