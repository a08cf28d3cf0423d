// Package vm tests clusters of QEMU machines from outside: hosts that share nothing, no kernel and no clock either, and
// have cgroup v2 only. It owns its machines; its tests use the binary, the machines' shells and TCP connections from a
// third place.
//
// The one rule for callers: nobody imports it.
package vm
