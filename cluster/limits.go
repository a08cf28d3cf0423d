package cluster

import (
	"strconv"
	"strings"
)

// Limits bound what a container may use. Zero means no limit, except CPUUnits (1024 by default) and RAM (must be set).
type Limits struct {
	RAM      int64   `json:"ram"`               // bytes
	Swap     int64   `json:"swap"`              // bytes beyond RAM
	MilliCPU int64   `json:"milli_cpu"`         // thousandths of a core
	CPUUnits int64   `json:"cpu_units"`         // weight against the others, 1024 is normal
	Disk     int64   `json:"disk"`              // bytes of the private layer that are reserved on the host
	Network  BitRate `json:"network,omitempty"` // bits per second that are reserved on the host

	Files    int64 `json:"files,omitempty"`     // inodes of the private layer
	SoftRAM  int64 `json:"ram_soft,omitempty"`  // bytes of RAM above which memory is taken back
	CPUCount int64 `json:"cpu_count,omitempty"` // so many CPUs are seen inside; 0: as many as MilliCPU needs
	// CPUMask are the CPUs that it may use, "0-3,8", or AllCPUs; empty: CPUCount of them, which the host chooses.
	CPUMask   string  `json:"cpu_mask,omitempty"`
	NUMANodes string  `json:"numa_nodes,omitempty"` // a list as CPUMask
	PIDs      int64   `json:"pids,omitempty"`       // processes and threads
	IOWeight  int64   `json:"io_weight,omitempty"`  // 1 to 1000, 100 is normal
	ReadRate  int64   `json:"read_rate,omitempty"`  // bytes per second
	WriteRate int64   `json:"write_rate,omitempty"`
	ReadIOPS  int64   `json:"read_iops,omitempty"` // operations per second
	WriteIOPS int64   `json:"write_iops,omitempty"`
	NetIn     BitRate `json:"net_in,omitempty"` // bits per second to the container
	NetOut    BitRate `json:"net_out,omitempty"`
}

// AllCPUs as a mask lets a container see and use all CPUs of its host.
const AllCPUs = "all"

// Resources is what a container with these limits reserves on a host, its rules aside.
func (l Limits) Resources() Resources {
	return Resources{MilliCPU: l.MilliCPU, RAM: l.RAM, Disk: l.Disk, Network: l.Network, Containers: 1}
}

// VisibleCPUs is how many CPUs of its host a container sees, zero for all of them or those of its mask.
func (l Limits) VisibleCPUs() int64 {
	switch {
	case l.CPUMask != "":
		return 0
	case l.CPUCount > 0:
		return l.CPUCount
	}
	return (l.MilliCPU + 999) / 1000
}

// Bounds of what a container may ask for.
const (
	MinRAM      = 4 << 20 // bytes; less does not even hold an init
	MinCPUUnits = 2
	MaxCPUUnits = 262144
	MaxIOWeight = 1000
	MinPIDs     = 8
	MinFiles    = 1024
	MinNet      = 64_000  // bits per second
	MinDiskRate = 8 << 10 // bytes per second
	maxLimit    = 1 << 60
	maxCPU      = 8192
)

// Check says whether the limits make sense by themselves and together; what it returns is ErrInvalid.
func (l Limits) Check() error {
	switch {
	case l.RAM < MinRAM:
		return Refuse(ErrInvalid, "%s of memory is too little for a container; give it at least %s", Bytes(l.RAM), Bytes(MinRAM))
	case l.Swap < 0:
		return Refuse(ErrInvalid, "swap cannot be negative; use 0 for no swap limit")
	case l.MilliCPU < 0:
		return Refuse(ErrInvalid, "the number of cpus cannot be negative; use 0 for no cpu limit")
	case l.Disk < 0:
		return Refuse(ErrInvalid, "the disk size cannot be negative; use 0 for no disk limit")
	case l.Files < 0 || l.Files > 0 && l.Files < MinFiles:
		return Refuse(ErrInvalid, "a container needs %d inodes at least; use 0 for no limit", MinFiles)
	case l.CPUUnits < MinCPUUnits || l.CPUUnits > MaxCPUUnits:
		return Refuse(ErrInvalid, "cpu units must lie between %d and %d, 1024 is normal", MinCPUUnits, MaxCPUUnits)
	case l.Network < 0:
		return Refuse(ErrInvalid, "the network's share cannot be negative; use 0 to reserve none")
	case l.SoftRAM < 0 || l.SoftRAM > l.RAM:
		return Refuse(ErrInvalid, "the soft limit of memory must lie between 0 and the limit, %s", Bytes(l.RAM))
	}
	if err := l.checkCPUs(); err != nil {
		return err
	}
	return l.checkRates()
}

func (l Limits) checkCPUs() error {
	switch {
	case l.CPUCount < 0 || l.CPUCount > maxCPU:
		return Refuse(ErrInvalid, "%d is no number of cpus to see", l.CPUCount)
	case l.CPUMask != "" && l.CPUCount > 0:
		return Refuse(ErrInvalid, "a cpu mask says which cpus are seen, and a cpu count how many; give one of them")
	case l.CPUMask != "" && l.CPUMask != AllCPUs && !isList(l.CPUMask):
		return Refuse(ErrInvalid, "%q is no cpu mask; write for example 0-3,8 or %s", l.CPUMask, AllCPUs)
	case l.NUMANodes != "" && !isList(l.NUMANodes):
		return Refuse(ErrInvalid, "%q is no list of NUMA nodes; write for example 0 or 0-1", l.NUMANodes)
	case l.PIDs != 0 && (l.PIDs < MinPIDs || l.PIDs > maxLimit):
		return Refuse(ErrInvalid, "%d processes are too few for a container; give it at least %d, or 0 for no limit", l.PIDs, MinPIDs)
	}
	return nil
}

func (l Limits) checkRates() error {
	if l.IOWeight != 0 && (l.IOWeight < 1 || l.IOWeight > MaxIOWeight) {
		return Refuse(ErrInvalid, "the weight of I/O must lie between 1 and %d, 100 is normal", MaxIOWeight)
	}
	for what, n := range map[string]int64{"reading from": l.ReadRate, "writing to": l.WriteRate} {
		if n != 0 && (n < MinDiskRate || n > maxLimit) {
			return Refuse(ErrInvalid, "%s per second is no rate for %s the disk; give it at least %s, or 0 for no limit", Bytes(n), what, Bytes(MinDiskRate))
		}
	}
	for what, n := range map[string]BitRate{"to": l.NetIn, "from": l.NetOut} {
		if n != 0 && (n < MinNet || n > maxLimit) {
			return Refuse(ErrInvalid, "%s is no rate for the network %s a container; give it at least %s, or 0 for no limit", n, what, BitRate(MinNet))
		}
	}
	if min(l.ReadIOPS, l.WriteIOPS) < 0 || max(l.ReadIOPS, l.WriteIOPS) > maxLimit {
		return Refuse(ErrInvalid, "operations per second cannot be negative; use 0 for no limit")
	}
	return nil
}

// isList says whether a text is a list of numbers and ranges, as "0-3,8".
func isList(text string) bool {
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, errA := strconv.ParseUint(from, 10, 16)
		b, errB := strconv.ParseUint(to, 10, 16)
		if errA != nil || errB != nil || a > b || b >= maxCPU {
			return false
		}
	}
	return true
}
