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
	criu   string // configuration of CRIU
}

// adapt turns the specification that our agent wrote for a container into that of a floor's: the same processes,
// namespaces, capabilities, system call filter and ids, with another root and cgroup, and with a hook for the NIC. With
// byHand the mounts are those that `runc spec` proposes and systemd needs, which is what one writes by hand;
// otherwise they are ours.
func adapt(ours []byte, at place, n nic, byHand bool) ([]byte, error) {
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
	if byHand {
		s.Mounts = handMounts()
	}
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PORT=" + n.Port, "BRIDGE=" + n.Bridge, "MAC=" + n.MAC, "ADDRESS=" + n.Address}
	s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: at.hook, Env: env}}}
	s.Annotations = map[string]string{"org.criu.config": at.criu}
	return json.Marshal(s)
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
