// Package doctor tells what a host lacks for running and moving containers, what that costs, and which command mends
// it. Probe looks at the host and returns Facts; Evaluate turns Facts into findings and touches nothing.
//
// It owns no setting of the host: what it tries out happens in namespaces and detached mounts that are gone when Probe
// returns. The one rule for callers: only a finding that is neither OK nor a Warning keeps a host from its work.
package doctor

// Finding is one thing that was looked at.
type Finding struct {
	Name    string
	OK      bool
	Found   string
	Costs   string // what is lost without it; empty when OK
	Remedy  string // the command that mends it; empty when OK
	Warning bool   // not OK, but the host does its work without it
}

// Config is what the agent of this host is configured to use.
type Config struct {
	File    string // the configuration file, for remedies
	DataDir string
	Storage string // driver of private layers
	Runc    string // path
	CRIU    string // path
	LXCFS   string // path
	Bridge  string
	Uplink  string // empty: none
	NAT     bool
	Group   string // of the local socket
}

// Facts is what Probe found.
type Facts struct {
	Root     bool
	Caps     uint64             // effective capabilities, bit by number
	Release  string             // of the kernel
	Features map[Feature]string // why a feature does not work, empty: it works; absent: it was not tried
	CRIU     Program
	Check    string // what `criu check` complains of, empty: nothing
	Runc     Program
	LXCFS    string   // path; empty: there is none
	Missing  []string // programs that are not in PATH, of those in optionalPrograms and storagePrograms
	Cgroup   Cgroup
	RunFS    string           // file system of /run
	Sysctls  map[string]int64 // absent: this kernel has no such limit
	Closed   string           // the first directory above the containers' roots that other users cannot pass
	Bridge   Link
	Uplink   Link
	LAN      string // interface of the default route, empty: none
	Group    bool   // the socket's group exists
}

// Program is a program that the agent runs.
type Program struct {
	Path    string
	Version string // as it says itself
	Error   string // why it does not run
}

// Cgroup is how cgroups are mounted.
type Cgroup struct {
	Mode    string   // v1, hybrid or v2; empty: not at all
	Lacking []string // controllers
}

// Link is a network interface.
type Link struct {
	Kind   string // empty: there is none of that name; "device" for a card
	Ports  int    // of a bridge, those of containers left out
	Master string // bridge or bond that it is a port of
}

// Feature is something that a kernel has or has not.
type Feature string

// The features that are tried.
const (
	UserNamespace   Feature = "user namespaces"
	CgroupNamespace Feature = "cgroup namespaces"
	TimeNamespace   Feature = "time namespaces"
	Overlay         Feature = "overlayfs"
	IDMap           Feature = "idmapped mounts"
	Bridge          Feature = "bridge"
	Veth            Feature = "veth"
	NFTables        Feature = "nftables"
	NAT             Feature = "nftables nat"
	PidFD           Feature = "pidfd"
	Userfault       Feature = "userfaultfd"
	SoftDirty       Feature = "soft-dirty"
)

// capSysResource is the number of CAP_SYS_RESOURCE.
const capSysResource = 24

// setup is the remedy for most.
const setup = "vzcluster setup"

// Healthy reports whether a host can do its work.
func Healthy(fs []Finding) bool {
	for _, f := range fs {
		if !f.OK && !f.Warning {
			return false
		}
	}
	return true
}

// Evaluate judges what was found, in the order of importance for a reader: kernel, programs, cgroups, limits, network.
func Evaluate(c Config, f Facts) []Finding {
	var all []Finding
	all = append(all, rights(f)...)
	all = append(all, kernel(f)...)
	all = append(all, criu(f), check(f), runc(f), lxcfs(f))
	all = append(all, programs(f)...)
	all = append(all, cgroups(f), runDir(f), dataDir(c, f), storage(c, f), group(c, f))
	all = append(all, sysctls(f)...)
	return append(all, network(c, f)...)
}

// good, bad and warn make findings.
func good(name, found string) Finding { return Finding{Name: name, OK: true, Found: found} }

func bad(name, found, costs, remedy string) Finding {
	return Finding{Name: name, Found: found, Costs: costs, Remedy: remedy}
}

func warn(name, found, costs, remedy string) Finding {
	return Finding{Name: name, Found: found, Costs: costs, Remedy: remedy, Warning: true}
}
