package runtime

// Facts are what two hosts must have in common to move a running container between them.
type Facts struct {
	CRIU    int      `json:"criu"`            // 10000*major + 100*minor + patch; 0: it cannot be used
	Fault   string   `json:"fault,omitempty"` // why CRIU cannot be used
	CPU     []string `json:"cpu"`             // what the CPU can do, as /proc/cpuinfo names it
	Cgroups []string `json:"cgroups"`         // the hierarchies, by their controllers; "" is version 2
	Time    bool     `json:"time"`            // the kernel has time namespaces
}

// Room is what a host could give a container that comes, or what one would need.
type Room struct {
	Disk int64 `json:"disk"` // bytes
	RAM  int64 `json:"ram"`  // bytes
}
