package cluster

import (
	"path"
	"slices"
	"strings"
)

// MaxMounts is how many folders of hosts one container can have.
const MaxMounts = 16

// Mount is a folder of the hosts that a container sees besides its root.
type Mount struct {
	Source   string `json:"source"` // on the host
	Path     string `json:"path"`   // inside
	ReadOnly bool   `json:"read_only,omitempty"`
	// Shared says that it is the same storage on every host: the container moves without it. Any other keeps the container on
	// its host.
	Shared bool `json:"shared,omitempty"`
}

// String is the mount as a user writes it.
func (m Mount) String() string {
	s := m.Source + ":" + m.Path
	if m.ReadOnly {
		s += ":ro"
	}
	if m.Shared {
		s += ":shared"
	}
	return s
}

// Check says what is wrong with a mount by itself.
func (m Mount) Check() error {
	for _, p := range []string{m.Source, m.Path} {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || len(p) > 1024 || strings.ContainsAny(p, ":\n\x00") {
			return Refuse(ErrInvalid, "%q cannot be mounted: write both folders as plain absolute paths below /, without a colon", p)
		}
		for _, own := range []string{"/proc", "/sys", "/dev"} {
			if p == own || strings.HasPrefix(p, own+"/") {
				return Refuse(ErrInvalid, "%s cannot be mounted: %s belongs to the kernel", p, own)
			}
		}
	}
	for _, own := range []string{"/run", "/run/lock"} {
		if m.Path == own {
			return Refuse(ErrInvalid, "nothing can be mounted on %s: it is the container's own mount point", m.Path)
		}
	}
	return nil
}

// localMount is a folder that only the container's host has, or nil.
func (c *Container) localMount() *Mount {
	if i := slices.IndexFunc(c.Mounts, func(m Mount) bool { return !m.Shared }); i >= 0 {
		return &c.Mounts[i]
	}
	return nil
}

// checkMounts says what is wrong with a container's mounts: a folder of one host keeps it there.
func (c *Container) checkMounts() error {
	if len(c.Mounts) > MaxMounts {
		return Refuse(ErrInvalid, "a container can have %d mounts, not %d", MaxMounts, len(c.Mounts))
	}
	for i, m := range c.Mounts {
		if err := m.Check(); err != nil {
			return err
		}
		if slices.ContainsFunc(c.Mounts[:i], func(o Mount) bool { return o.Path == m.Path }) {
			return Refuse(ErrInvalid, "two folders cannot be mounted on %s", m.Path)
		}
	}
	m := c.localMount()
	switch {
	case m == nil:
	case c.Rules.Pinned == "":
		return Refuse(ErrInvalid, "%s is a folder of one host: say of which (--host), or that it is the same storage on all of them (%s)", m.Source, m.String()+":shared")
	case c.Host != "" && c.Rules.Pinned != c.Host:
		return Refuse(ErrInvalid, "it has the folder %s of %s mounted and must stay pinned there", m.Source, c.Host)
	}
	return nil
}
