package runtime

// Facts are what two hosts must have in common to move a running container between them.
type Facts struct {
	CRIU    int      `json:"criu"`            // 10000*major + 100*minor + patch; 0: it cannot be used
	Fault   string   `json:"fault,omitempty"` // why CRIU cannot be used
	CPU     []string `json:"cpu"`             // what the CPU can do, as /proc/cpuinfo names it
	Cgroups []string `json:"cgroups"`         // the hierarchies, by their controllers; "" is version 2
	// Userfault says that processes of a user namespace may wait for memory to be brought, which post-copy migration needs.
	Userfault bool `json:"userfault,omitempty"`
	Time      bool `json:"time"` // the kernel has time namespaces
	// What the kernel has drivers for, modules that it loads when they are needed included: "char 10:229 fuse" of devices
	// with numbers of their own, "char 5 /dev/tty" of all that share a major number. Empty: it could not be found out.
	Devices     []string `json:"devices"`
	FileSystems []string `json:"file_systems"`
}

// Room is what a host could give a container that comes, or what one would need.
type Room struct {
	Disk int64 `json:"disk"` // bytes
	RAM  int64 `json:"ram"`  // bytes
}

// Need is what a container takes with it.
type Need struct {
	Room
	Devices     []Device `json:"devices,omitempty"`      // that lie in its private layer or are open
	FileSystems []string `json:"file_systems,omitempty"` // that are mounted inside
}

// Device is a device file of a container.
type Device struct {
	Path string   `json:"path"`
	Are  []string `json:"are"` // what Facts.Devices calls it; a kernel that has one of these has it
}
