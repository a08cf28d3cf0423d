package api

import "github.com/vzcluster/vzcluster/cluster"

// SetRequest changes a container; nil fields stay as they are. All or nothing.
type SetRequest struct {
	RAM       *int64            `json:"ram,omitempty"`
	Swap      *int64            `json:"swap,omitempty"`
	SoftRAM   *int64            `json:"ram_soft,omitempty"`
	MilliCPU  *int64            `json:"milli_cpu,omitempty"`
	CPUUnits  *int64            `json:"cpu_units,omitempty"`
	CPUCount  *int64            `json:"cpu_count,omitempty"`
	CPUMask   *string           `json:"cpu_mask,omitempty"` // empty: none
	NUMANodes *string           `json:"numa_nodes,omitempty"`
	PIDs      *int64            `json:"pids,omitempty"`
	IOWeight  *int64            `json:"io_weight,omitempty"`
	ReadRate  *int64            `json:"read_rate,omitempty"`
	WriteRate *int64            `json:"write_rate,omitempty"`
	ReadIOPS  *int64            `json:"read_iops,omitempty"`
	WriteIOPS *int64            `json:"write_iops,omitempty"`
	NetIn     *cluster.BitRate  `json:"net_in,omitempty"`
	NetOut    *cluster.BitRate  `json:"net_out,omitempty"`
	Disk      *int64            `json:"disk,omitempty"`
	Files     *int64            `json:"files,omitempty"`
	Hostname  *string           `json:"hostname,omitempty"`
	Name      *string           `json:"name,omitempty"`
	OnBoot    *cluster.OnBoot   `json:"onboot,omitempty"`
	BootOrder *int              `json:"boot_order,omitempty"`
	Text      *string           `json:"text,omitempty"`   // what it is good for
	Labels    map[string]string `json:"labels,omitempty"` // set; an empty value removes the label
	Rules     *cluster.Rules    `json:"rules,omitempty"`  // replaces all of them
	IP        *string           `json:"ip,omitempty"`     // as for CreateRequest: all addresses of the first NIC
	IPAdd     []string          `json:"ip_add,omitempty"`
	IPDel     []string          `json:"ip_del,omitempty"`
	Firewall  *cluster.Firewall `json:"firewall,omitempty"` // replaces all of it

	NameServers   []string `json:"name_servers,omitempty"`   // replace all that it has; cluster.DefaultDNS alone: none of its own
	SearchDomains []string `json:"search_domains,omitempty"` // the same

	NICAdd    []cluster.NIC           `json:"nic_add,omitempty"` // name, network and, as addresses, words as in IP
	NICDel    []string                `json:"nic_del,omitempty"` // names
	Publish   []cluster.PublishedPort `json:"publish,omitempty"`
	Unpublish []cluster.PublishedPort `json:"unpublish,omitempty"`
}

// LimitsOver returns the old limits with the changes.
func (r SetRequest) LimitsOver(old cluster.Limits) cluster.Limits {
	l := old
	over(&l.RAM, r.RAM)
	over(&l.Swap, r.Swap)
	over(&l.SoftRAM, r.SoftRAM)
	over(&l.MilliCPU, r.MilliCPU)
	over(&l.CPUUnits, r.CPUUnits)
	over(&l.CPUCount, r.CPUCount)
	over(&l.CPUMask, r.CPUMask)
	over(&l.NUMANodes, r.NUMANodes)
	over(&l.PIDs, r.PIDs)
	over(&l.IOWeight, r.IOWeight)
	over(&l.ReadRate, r.ReadRate)
	over(&l.WriteRate, r.WriteRate)
	over(&l.ReadIOPS, r.ReadIOPS)
	over(&l.WriteIOPS, r.WriteIOPS)
	over(&l.NetIn, r.NetIn)
	over(&l.NetOut, r.NetOut)
	over(&l.Disk, r.Disk)
	over(&l.Files, r.Files)
	return l
}

func over[T any](old *T, new *T) {
	if new != nil {
		*old = *new
	}
}
