package cluster

import "fmt"

// BitRate is an amount of network, in bits per second.
type BitRate int64

// Resources is an amount of what containers consume and hosts offer.
// CPU is counted in thousandths of a core, memory and disk in bytes.
type Resources struct {
	MilliCPU   int64   `json:"milli_cpu"`
	RAM        int64   `json:"ram"`
	Disk       int64   `json:"disk"`
	Network    BitRate `json:"network,omitempty"`
	Containers int64   `json:"containers,omitempty"` // how many
	Guaranteed int64   `json:"guaranteed,omitempty"` // bytes of memory that are never promised twice
}

// Add returns r + o.
func (r Resources) Add(o Resources) Resources {
	return Resources{
		r.MilliCPU + o.MilliCPU, r.RAM + o.RAM, r.Disk + o.Disk,
		r.Network + o.Network, r.Containers + o.Containers, r.Guaranteed + o.Guaranteed,
	}
}

// Sub returns r - o; parts may become negative.
func (r Resources) Sub(o Resources) Resources {
	return Resources{
		r.MilliCPU - o.MilliCPU, r.RAM - o.RAM, r.Disk - o.Disk,
		r.Network - o.Network, r.Containers - o.Containers, r.Guaranteed - o.Guaranteed,
	}
}

// Fits reports whether need can be taken out of the free amount r. Admit asks it, with the rules.
func (r Resources) Fits(need Resources) bool {
	return need.MilliCPU <= r.MilliCPU && need.RAM <= r.RAM && need.Disk <= r.Disk &&
		need.Network <= r.Network && need.Containers <= r.Containers && need.Guaranteed <= r.Guaranteed
}

// Lacks names the first resource of need that the free amount r cannot give, or "" when all of it fits.
func (r Resources) Lacks(need Resources) string {
	switch {
	case need.RAM > r.RAM:
		return fmt.Sprintf("memory: needs %s, %s free", Bytes(need.RAM), Bytes(r.RAM))
	case need.MilliCPU > r.MilliCPU:
		return fmt.Sprintf("cpu: needs %s, %s free", Cores(need.MilliCPU), Cores(r.MilliCPU))
	case need.Disk > r.Disk:
		return fmt.Sprintf("disk: needs %s, %s free", Bytes(need.Disk), Bytes(r.Disk))
	case need.Network > r.Network:
		return fmt.Sprintf("network: needs %s, %s free", need.Network, max(r.Network, 0))
	case need.Containers > r.Containers:
		return fmt.Sprintf("containers: there may be %d more", max(r.Containers, 0))
	case need.Guaranteed > r.Guaranteed:
		return fmt.Sprintf("guaranteed memory: needs %s, %s free", Bytes(need.Guaranteed), Bytes(r.Guaranteed))
	}
	return ""
}

// String prints a rate in the powers of 1000 that networks are sold by.
func (b BitRate) String() string {
	units := []string{"bit/s", "kbit/s", "Mbit/s", "Gbit/s"}
	f, i := float64(b), 0
	for max(f, -f) >= 1000 && i < len(units)-1 {
		f /= 1000
		i++
	}
	return fmt.Sprintf("%.4g %s", f, units[i])
}

// Bytes prints a size in the powers of 1024 that the CLI reads (K, M, G, T).
func Bytes(n int64) string {
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	units := []string{"", "K", "M", "G", "T", "P"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if f == float64(int64(f)) {
		return fmt.Sprintf("%s%d%s", sign, int64(f), units[i])
	}
	return fmt.Sprintf("%s%.1f%s", sign, f, units[i])
}

// Cores prints thousandths of a core as cores.
func Cores(milli int64) string {
	if milli%1000 == 0 {
		return fmt.Sprintf("%d", milli/1000)
	}
	return fmt.Sprintf("%.2g", float64(milli)/1000)
}
