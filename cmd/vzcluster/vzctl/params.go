package vzctl

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// params are what a configuration file, `create` and `set` can say of a container.
type params struct {
	set          api.SetRequest
	template     string
	ipAdd, ipDel []string
	passwords    map[string]string // by user, of `set` only; they are kept nowhere
	notes        []string          // options without a counterpart here, one sentence each
}

// said reports whether anything of the container is to be changed.
func (p *params) said() bool { return !reflect.DeepEqual(p.set, api.SetRequest{}) }

// overlay takes over what is said in over.
func (p *params) overlay(over params) {
	to, from := reflect.ValueOf(&p.set).Elem(), reflect.ValueOf(over.set)
	for i := range from.NumField() {
		if v := from.Field(i); !v.IsZero() {
			to.Field(i).Set(v)
		}
	}
	if over.template != "" {
		p.template = over.template
	}
	p.ipAdd, p.ipDel = append(p.ipAdd, over.ipAdd...), append(p.ipDel, over.ipDel...)
	for user, password := range over.passwords {
		if p.passwords == nil {
			p.passwords = map[string]string{}
		}
		p.passwords[user] = password
	}
	p.notes = append(p.notes, over.notes...)
}

// parameter is one thing that can be said, as an option and as a key of a configuration file.
type parameter struct {
	name string // of the option
	key  string // in the file; empty: the option's name in capital letters
	set  func(p *params, v string) error
}

// parameters lists what has a meaning here, and what has none, with the reason.
func parameters() []parameter {
	return slices.Concat([]parameter{
		{"ram", "", func(p *params, v string) error { return size(v, 1, &p.set.RAM) }},
		{"swap", "", func(p *params, v string) error { return size(v, 1, &p.set.Swap) }},
		{"physpages", "", func(p *params, v string) error { return size(upper(v), page, &p.set.RAM) }},
		{"swappages", "", func(p *params, v string) error { return size(upper(v), page, &p.set.Swap) }},
		{"diskspace", "", func(p *params, v string) error { return size(upper(v), 1<<10, &p.set.Disk) }},
		{"cpuunits", "", func(p *params, v string) error { return number(v, 8, 500000, &p.set.CPUUnits) }},
		{"cpulimit", "", cpuLimit},
		{"cpus", "", cpuCount},
		{"cpumask", "", cpuMask},
		{"nodemask", "", nodeMask},
		{"numproc", "", numproc},
		{"ioprio", "", ioPriority},
		{"iolimit", "", ioLimit},
		{"iopslimit", "", iopsLimit},
		{"hostname", "", func(p *params, v string) error { p.set.Hostname = &v; return nil }},
		{"name", "", func(p *params, v string) error { p.set.Name = &v; return nil }},
		{"onboot", "", onBoot},
		{"bootorder", "", bootOrder},
		{"diskinodes", "", func(p *params, v string) error { return number(upper(v), 0, math.MaxInt64, &p.set.Files) }},
		{"description", "", func(p *params, v string) error { p.set.Text = &v; return nil }},
		{"ostemplate", "", func(p *params, v string) error { p.template = v; return nil }},
		{"ipadd", "IP_ADDRESS", func(p *params, v string) error { return addresses(v, &p.ipAdd) }},
		{"ipdel", "IPDEL", func(p *params, v string) error { return removal(v, &p.ipDel) }},
		{"netif_add", "NETIF_ADD", addNIC},
		{"netif_del", "NETIF_DEL", removeNIC},
		{"nameserver", "", func(p *params, v string) error { return resolver(v, &p.set.NameServers) }},
		{"searchdomain", "", func(p *params, v string) error { return resolver(v, &p.set.SearchDomains) }},
		{"disabled", "", disabled},
	}, without())
}

// without are the parameters of OpenVZ that nothing here corresponds to. They are accepted, so that old scripts and
// configurations go on working, and each says why nothing came of it.
func without() []parameter {
	var all []parameter
	for _, group := range []struct{ why, names string }{
		{
			"memory is limited as a whole: use --ram and --swap",
			"kmemsize lockedpages privvmpages shmpages totvmpages vmguarpages oomguarpages dcachesize vm_overcommit",
		},
		{
			"only memory and processes are counted here, not other objects of the kernel",
			"avnumproc numtcpsock numothersock tcpsndbuf tcprcvbuf othersockbuf dgramrcvbuf numfile numflock numpty numsiginfo numiptent",
		},
		{"a container is stored in a layer of its own above its template, wherever the host keeps its data", "root private layout ve_layout velayout mount_opts"},
		{"there is no quota inside a container", "diskquota quotatime quotaugidlimit"},
		{"times of access are kept as the host's file system keeps them", "noatime"},
		{"every container has a user namespace with a range of its own", "local_uid local_gid"},
		{"the capabilities of a container are fixed", "capability"},
		{"containers get no devices of the host", "devices devnodes pci_add pci_del netdev_add netdev_del"},
		{"the kernel's features are the same for all containers", "features"},
		{"network cards are added and taken away with --netif_add and --netif_del, and not changed", "ifname mac host_ifname host_mac bridge mac_filter"},
		{"how long a container may take to stop is said when it is stopped: `vzcluster stop --grace`", "stop-timeout"},
		{"a container may use netfilter in its own network as it likes", "iptables netfilter"},
		{"/proc/meminfo follows --ram", "meminfo"},
	} {
		for _, name := range strings.Fields(group.names) {
			all = append(all, parameter{name, "", func(p *params, _ string) error {
				p.notes = append(p.notes, fmt.Sprintf("Warning: --%s is ignored: %s", name, group.why))
				return nil
			}})
		}
	}
	return all
}

// options turns the parameters into options that fill p.
func (p *params) options() []option {
	var all []option
	for _, q := range parameters() {
		all = append(all, option{name: q.name, value: true, set: func(v string) error { return q.set(p, v) }})
	}
	return all
}

const (
	page      = 4096 // bytes
	maxNumber = math.MaxInt64
)

// upper is the second of "barrier:limit", or the only one: what cannot be exceeded.
func upper(v string) string {
	if _, limit, ok := strings.Cut(v, ":"); ok {
		return limit
	}
	return v
}

// unlimited is how OpenVZ writes that there is no limit: the word, or the largest number.
func unlimited(v string) bool {
	return v == "unlimited" || v == strconv.FormatInt(math.MaxInt64, 10)
}

// size reads an amount with a unit: B, K, M, G, T in powers of 1024, P for pages; without one it counts in unit bytes.
func size(v string, unit int64, to **int64) error {
	if unlimited(v) {
		return errors.New("it must be limited here, since what is reserved decides where a container goes")
	}
	digits := v
	if n := len(v); n > 0 {
		if u, ok := map[byte]int64{'B': 1, 'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40, 'P': page}[strings.ToUpper(v)[n-1]]; ok {
			unit, digits = u, v[:n-1]
		}
	}
	f, err := strconv.ParseFloat(digits, 64)
	if strings.Trim(digits, "0123456789.") != "" || err != nil {
		return fmt.Errorf("%s is not a size, write for example 512M or 2G", v)
	}
	if f *= float64(unit); f >= math.MaxInt64 {
		return fmt.Errorf("%s is more than any machine has", v)
	}
	n := int64(f)
	*to = &n
	return nil
}

// number reads a whole number within bounds.
func number(v string, least, most int64, to **int64) error {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return fmt.Errorf("%s is not a number", v)
	}
	if n < least || n > most {
		return fmt.Errorf("%d is not from %d to %d", n, least, most)
	}
	*to = &n
	return nil
}

// addresses adds addresses, several in one word as in a configuration file.
func addresses(v string, to *[]string) error {
	for _, word := range strings.Fields(v) {
		if _, err := netip.ParseAddr(word); err != nil {
			if _, err := netip.ParsePrefix(word); err != nil {
				return fail(codeBadIP, "%s is not an IP address", word)
			}
		}
		*to = append(*to, word)
	}
	return nil
}

func removal(v string, to *[]string) error {
	if v == "all" {
		*to = append(*to, v)
		return nil
	}
	return addresses(v, to)
}

// cpuLimit reads per cent of one core.
func cpuLimit(p *params, v string) error {
	var percent *int64
	if err := number(strings.TrimSuffix(v, "%"), 0, 100<<10, &percent); err != nil {
		return err
	}
	p.set.MilliCPU = new(*percent * 10)
	return nil
}

// cpuCount reads how many CPUs are seen; a mask is in its place.
func cpuCount(p *params, v string) error {
	if p.set.CPUMask == nil {
		p.set.CPUMask = new("")
	}
	return number(v, 0, 1<<10, &p.set.CPUCount)
}

func cpuMask(p *params, v string) error {
	if v == "auto" {
		v = "" // what the nodes have
	}
	p.set.CPUMask, p.set.CPUCount = &v, new(int64(0))
	return nil
}

func nodeMask(p *params, v string) error {
	if v == cluster.AllCPUs {
		v = ""
	}
	p.set.NUMANodes = &v
	return nil
}

// ioPriority reads a priority from 0 to 7, 4 is normal.
func ioPriority(p *params, v string) error {
	var n *int64
	if err := number(v, 0, 7, &n); err != nil {
		return err
	}
	p.set.IOWeight = new((*n + 1) * 20)
	return nil
}

// ioLimit reads a rate, in megabytes per second without a unit; zero and unlimited mean none.
func ioLimit(p *params, v string) error {
	if unlimited(v) {
		v = "0"
	}
	if err := size(v, 1<<20, &p.set.ReadRate); err != nil {
		return err
	}
	p.set.WriteRate = p.set.ReadRate
	return nil
}

func iopsLimit(p *params, v string) error {
	if unlimited(v) {
		v = "0"
	}
	err := number(v, 0, math.MaxInt32, &p.set.ReadIOPS)
	p.set.WriteIOPS = p.set.ReadIOPS
	return err
}

func onBoot(p *params, v string) error {
	boot := cluster.OnBoot(v)
	if boot != cluster.BootYes && boot != cluster.BootNo {
		return fmt.Errorf("%s is neither yes nor no", v)
	}
	p.set.OnBoot = &boot
	return nil
}

func bootOrder(p *params, v string) error {
	var n *int64
	if err := number(v, -cluster.MaxBootOrder, cluster.MaxBootOrder, &n); err != nil {
		return err
	}
	p.set.BootOrder = new(int(*n))
	return nil
}
