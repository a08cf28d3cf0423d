package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// limitFlag is a flag of create and set that changes one limit.
type limitFlag struct {
	name, usage string
	usual       string // for a new container; empty: no limit
	read        func(c *cli.Context, name string, r *api.SetRequest) error
}

func limitFlags() []limitFlag {
	return []limitFlag{
		{"ram", "memory, `SIZE` as 512M or 2G", "512M", into(parseAmount, func(r *api.SetRequest) **int64 { return &r.RAM })},
		{"swap", "swap beyond the memory, `SIZE`", "0", into(parseAmount, func(r *api.SetRequest) **int64 { return &r.Swap })},
		{"ram-soft", "`SIZE` above which memory is taken back; 0: none", "", into(parseAmount, func(r *api.SetRequest) **int64 { return &r.SoftRAM })},
		{"cpus", "`CORES`, fractions too; 0: no limit, and none reserved", "1", into(parseCPUs, func(r *api.SetRequest) **int64 { return &r.MilliCPU })},
		{"cpuunits", "`WEIGHT` against other containers, 1024 is normal", "1024", into(parseWeight, func(r *api.SetRequest) **int64 { return &r.CPUUnits })},
		{"cpu-count", "so many `CPUS` are seen inside; 0: as many as --cpus needs", "", into(parseCount, func(r *api.SetRequest) **int64 { return &r.CPUCount })},
		{"cpu-mask", "`LIST` of CPUs that it may use, as 0-3,8; all; none: the host chooses", "", into(parseList, func(r *api.SetRequest) **string { return &r.CPUMask })},
		{"numa", "`LIST` of NUMA nodes that memory and CPUs are taken from; none: any", "", into(parseList, func(r *api.SetRequest) **string { return &r.NUMANodes })},
		{"pids", "`NUMBER` of processes and threads; 0: no limit", "4096", into(parseCount, func(r *api.SetRequest) **int64 { return &r.PIDs })},
		{"disk", "`SIZE` of the private layer, reserved and, where the host's storage can, a limit", "2G", into(parseAmount, func(r *api.SetRequest) **int64 { return &r.Disk })},
		{"inodes", "`NUMBER` of files in the private layer, where the host's storage can limit it; 0: no limit", "", into(parseCount, func(r *api.SetRequest) **int64 { return &r.Files })},
		{"io-weight", "`WEIGHT` of its I/O against others, 1 to 1000, 100 is normal", "", into(parseCount, func(r *api.SetRequest) **int64 { return &r.IOWeight })},
		{"read-rate", "`SIZE` per second from the disk; 0: no limit", "", into(parseAmount, func(r *api.SetRequest) **int64 { return &r.ReadRate })},
		{"write-rate", "`SIZE` per second to the disk; 0: no limit", "", into(parseAmount, func(r *api.SetRequest) **int64 { return &r.WriteRate })},
		{"read-iops", "reading `OPERATIONS` per second; 0: no limit", "", into(parseCount, func(r *api.SetRequest) **int64 { return &r.ReadIOPS })},
		{"write-iops", "writing `OPERATIONS` per second; 0: no limit", "", into(parseCount, func(r *api.SetRequest) **int64 { return &r.WriteIOPS })},
		{"net-in", "network `RATE` to the container, as 100mbit or 12M (bytes); 0: no limit", "", into(parseRate, func(r *api.SetRequest) **cluster.BitRate { return &r.NetIn })},
		{"net-out", "network `RATE` from the container; 0: no limit", "", into(parseRate, func(r *api.SetRequest) **cluster.BitRate { return &r.NetOut })},
	}
}

// into reads a flag into a field of the request.
func into[T any](parse func(string) (T, error), field func(*api.SetRequest) **T) func(*cli.Context, string, *api.SetRequest) error {
	return func(c *cli.Context, name string, r *api.SetRequest) error {
		v, err := flagValue(c, name, parse)
		if err == nil {
			*field(r) = &v
		}
		return err
	}
}

// cliLimits are the flags, with the values of a new container or without any.
func cliLimits(usual bool) (flags []cli.Flag) {
	for _, f := range limitFlags() {
		flag := &cli.StringFlag{Name: f.name, Usage: f.usage}
		if usual {
			flag.Value = f.usual
		}
		flags = append(flags, flag)
	}
	return flags
}

// readLimits reads those limits that the command line names, or of which a new container has a usual value.
func readLimits(c *cli.Context, r *api.SetRequest) error {
	for _, f := range limitFlags() {
		if c.IsSet(f.name) || c.String(f.name) != "" {
			if err := f.read(c, f.name, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// limits are those of a new container.
func limits(c *cli.Context) (cluster.Limits, error) {
	var r api.SetRequest
	err := readLimits(c, &r)
	return r.LimitsOver(cluster.Limits{}), err
}

// limitPairs says which limits a container has, for its record; those that it does not have are empty.
func limitPairs(l cluster.Limits) []string {
	per := func(n int64) string {
		if n == 0 {
			return ""
		}
		return cluster.Bytes(n) + "/s"
	}
	some := func(n int64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	net := func(b cluster.BitRate) string {
		if b == 0 {
			return ""
		}
		return b.String()
	}
	soft := ""
	if l.SoftRAM > 0 {
		soft = cluster.Bytes(l.SoftRAM)
	}
	return []string{
		"ram", size(l.RAM), "swap", cluster.Bytes(l.Swap), "ram soft", soft, "cpus", cores(l.MilliCPU), "cpu units", strconv.FormatInt(l.CPUUnits, 10),
		"cpu count", some(l.CPUCount), "cpu mask", l.CPUMask, "numa nodes", l.NUMANodes, "pids", some(l.PIDs), "disk", size(l.Disk), "inodes", some(l.Files),
		"io weight", some(l.IOWeight), "read rate", per(l.ReadRate), "write rate", per(l.WriteRate), "read iops", some(l.ReadIOPS), "write iops", some(l.WriteIOPS),
		"net in", net(l.NetIn), "net out", net(l.NetOut),
	}
}

// parseCount reads a number of things.
func parseCount(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 62)
	if err != nil {
		return 0, fmt.Errorf("%s is not a number", orNothing(s))
	}
	return int64(n), nil
}

// parseWeight reads a weight of CPU time.
func parseWeight(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is not a number", orNothing(s))
	}
	if n <= 0 {
		return 0, fmt.Errorf("%d is not a weight, 1024 is normal", n)
	}
	return n, nil
}

// parseList reads a list of numbers, or none; what is no list the cluster refuses.
func parseList(s string) (string, error) {
	if s == "none" {
		return "", nil
	}
	if s == "" {
		return "", fmt.Errorf("write a list as 0-3,8, or none")
	}
	return s, nil
}

// parseRate reads bits per second as 100mbit, or bytes per second as parseSize does.
func parseRate(s string) (cluster.BitRate, error) {
	text := strings.TrimSuffix(strings.ToLower(s), "/s")
	for unit, factor := range map[string]float64{"kbit": 1e3, "mbit": 1e6, "gbit": 1e9} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			f, err := parseDecimal(number)
			if err != nil || f*factor > 1<<60 {
				return 0, fmt.Errorf("%s is not a rate, write for example 100mbit", s)
			}
			return cluster.BitRate(f * factor), nil
		}
	}
	n, err := parseAmount(text)
	if err != nil || n > 1<<57 {
		return 0, fmt.Errorf("%s is not a rate, write for example 100mbit, or 12M for bytes per second", orNothing(s))
	}
	return cluster.BitRate(8 * n), nil
}
