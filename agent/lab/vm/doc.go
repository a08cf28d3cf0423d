// Package vm is the second kind of lab: every host is a QEMU machine with its own kernel, root disk, clocks and systemd,
// and nothing but cgroup v2. It owns the machines' disks, their LAN and their processes; what the agents on them do is
// asked through their sockets, which it forwards.
//
// The one rule for callers: a lab lives as long as the process that made it. Everything of it ends with that process,
// however it ends; only the disk image, in the cache, stays for the next one.
package vm
