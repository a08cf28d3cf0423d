package cluster

import (
	"encoding/hex"
	"strings"
)

// Bounds of what a container may ask for.
const (
	MinRAM      = 4 << 20 // bytes; less does not even hold an init
	MinCPUUnits = 2
	MaxCPUUnits = 262144
)

// CheckName says whether a name can be that of a host, container or template: it is used in DNS, paths and
// certificates. What it returns is ErrInvalid.
func CheckName(what, name string) error {
	const charset = "abcdefghijklmnopqrstuvwxyz0123456789-."
	ok := len(name) >= 1 && len(name) <= 63 &&
		strings.Trim(name, charset) == "" &&
		strings.Trim(name, "-.") == name &&
		!strings.Contains(name, "..")
	if !ok {
		return Refuse(ErrInvalid,
			"%q is no name for a %s; use at most 63 lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
			name, what)
	}
	if strings.Trim(name, "0123456789") == "" && what == "container" {
		return Refuse(ErrInvalid, "the container name %q would be taken for a CTID; put a letter into it", name)
	}
	return nil
}

func checkHostname(name string) error {
	if err := CheckName("host name", strings.ToLower(name)); err != nil {
		return Refuse(ErrInvalid,
			"%q is no host name; use at most 63 letters, digits, '-' and '.', with a letter or digit at both ends", name)
	}
	return nil
}

// Check says whether the limits make sense by themselves; what it returns is ErrInvalid.
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
	case l.CPUUnits < MinCPUUnits || l.CPUUnits > MaxCPUUnits:
		return Refuse(ErrInvalid, "cpu units must lie between %d and %d, 1024 is normal", MinCPUUnits, MaxCPUUnits)
	}
	return nil
}

// checkDigest also keeps digests harmless as file names.
func checkDigest(digest string) error {
	sum, ok := strings.CutPrefix(digest, "sha256:")
	if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != 32 || sum != strings.ToLower(sum) {
		return Refuse(ErrInvalid, "%q is no template digest; it must be sha256: and 64 hex digits", digest)
	}
	return nil
}

func (s *State) mustHost(name string) (*Host, error) {
	if h := s.hosts[name]; h != nil {
		return h, nil
	}
	return nil, Refuse(ErrNotFound, "there is no host %q; 'vzcluster host ls' shows the hosts", name)
}

func (s *State) mustContainer(id int) (*Container, error) {
	if c := s.containers[id]; c != nil {
		return c, nil
	}
	return nil, Refuse(ErrNotFound, "there is no container %d; 'vzcluster ls' shows the containers", id)
}

func (s *State) mustOperation(id string, kinds ...OperationKind) (*Operation, error) {
	if o := s.operations[id]; o != nil {
		for _, k := range kinds {
			if o.Kind == k {
				return o, nil
			}
		}
		return nil, Refuse(ErrInvalid, "operation %s is a %s", id, o.Kind)
	}
	return nil, Refuse(ErrNotFound, "there is no operation %q", id)
}
