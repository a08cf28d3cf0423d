package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// nic is the network card of a floor's container.
type nic struct {
	Port    string `json:"port"` // the host's end
	Bridge  string `json:"bridge"`
	MAC     string `json:"mac"`
	Address string `json:"address"` // CIDR notation
}

// place is where a floor's container lives on its host.
type place struct {
	root   string // mounted
	cgroup string // path in every hierarchy
	hook   string // script that plugs the NIC
	criu   string // configuration of CRIU, empty for its defaults
}

// adapt turns the specification that our agent wrote for a container into that of a floor's: the same processes,
// namespaces, capabilities, system call filter and ids, with another root and cgroup, and with a hook for the NIC. The
// style says whose mounts it has.
func adapt(ours []byte, at place, n nic, mounts style) ([]byte, error) {
	var s specs.Spec
	if err := json.Unmarshal(ours, &s); err != nil {
		return nil, fmt.Errorf("read the specification that the agent wrote: %w", err)
	}
	if s.Root == nil || s.Linux == nil {
		return nil, fmt.Errorf("the specification that the agent wrote has no root")
	}
	oldRoot, oldCgroup := s.Root.Path, s.Linux.CgroupsPath
	for i, m := range s.Mounts {
		switch {
		case m.Source == oldRoot || strings.HasPrefix(m.Source, oldRoot+"/"):
			s.Mounts[i].Source = filepath.Join(at.root, strings.TrimPrefix(m.Source, oldRoot))
		case strings.HasSuffix(m.Source, oldCgroup) && m.Type == "bind":
			s.Mounts[i].Source = strings.TrimSuffix(m.Source, oldCgroup) + at.cgroup
		}
	}
	s.Root.Path, s.Linux.CgroupsPath = at.root, at.cgroup
	switch mounts {
	case byHand:
		s.Mounts = handMounts()
	case plain:
		s.Mounts = plainMounts()
	}
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PORT=" + n.Port, "BRIDGE=" + n.Bridge, "MAC=" + n.MAC, "ADDRESS=" + n.Address}
	s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: at.hook, Env: env}}}
	s.Annotations = nil
	if at.criu != "" {
		s.Annotations = map[string]string{"org.criu.config": at.criu}
	}
	return json.Marshal(s)
}

// style is whose mounts a floor's container has.
type style string

const (
	ownMounts style = ""        // those of our agent
	byHand    style = "by hand" // what `runc spec` proposes and systemd needs, which is what one writes by hand
	plain     style = "plain"   // what `runc spec` proposes, and nothing else
)

// plainMounts are what `runc spec` writes for a container with a user namespace.
func plainMounts() []specs.Mount {
	all := handMounts()
	return all[:len(all)-2]
}

// handMounts are what `runc spec` writes, with /sys and cgroups as a user namespace wants them and systemd's tmpfs.
func handMounts() []specs.Mount {
	safe := []string{"nosuid", "noexec", "nodev"}
	with := func(more ...string) []string { return append(append([]string{}, safe...), more...) }
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: with("mode=1777", "size=65536k")},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: safe},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: with("ro")},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: with("rw")},
		{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=755"}},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev"}},
	}
}
