package migrate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// Version is that of the migration protocol.
const Version = 2

// Offer is what a source says of itself and of the container that it wants to send.
type Offer struct {
	Version int           `json:"version"`
	Host    string        `json:"host"`
	Live    bool          `json:"live"`
	Later   bool          `json:"later,omitempty"` // most of the memory follows when the container runs there
	Facts   runtime.Facts `json:"facts"`
	Need    runtime.Need  `json:"need"`
}

// Place is what a target finds of itself when it is offered a container.
type Place struct {
	Host     string
	Facts    runtime.Facts
	Room     runtime.Room
	Network  string // what is in the way on its network, "" for nothing
	Template string // why the template cannot be had, "" when it can
}

// oldestCRIU is the first that dumps and restores on the kernels of today.
const oldestCRIU = 40200

// Unfit names everything that is in the way of taking an offered container at a place, with its remedy. It is asked
// before anything is copied or frozen.
func Unfit(o Offer, p Place) []Blocker {
	var out []Blocker
	add := func(remedy, format string, args ...any) {
		out = append(out, cluster.Blocker{What: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	if o.Version != Version {
		add("upgrade the older one", "%s speaks version %d of the migration protocol, %s speaks %d", o.Host, o.Version, p.Host, Version)
	}
	if p.Template != "" {
		add("start a host that has it, or build it again", "%s cannot have the template: %s", p.Host, p.Template)
	}
	if p.Network != "" {
		add("see 'vzcluster doctor' there, or choose another host", "on %s, %s", p.Host, p.Network)
	}
	if p.Room.Disk < o.Need.Disk {
		add("free some, or choose another host", "the private layer takes %s and %s has %s left on its disk", cluster.Bytes(o.Need.Disk), p.Host, cluster.Bytes(p.Room.Disk))
	}
	for _, lacks := range kernelLacks(o.Need, p.Facts) {
		add("load its module there (modprobe), or choose another host", "the container has %s, which the kernel of %s has no driver for", lacks, p.Host)
	}
	if !o.Live {
		return out
	}
	if need := o.Need.Disk + o.Need.RAM; p.Room.Disk >= o.Need.Disk && p.Room.Disk < need {
		add("free some, or choose another host", "layer and checkpoint take %s and %s has %s left on its disk", cluster.Bytes(need), p.Host, cluster.Bytes(p.Room.Disk))
	}
	if p.Room.RAM < o.Need.RAM {
		add("free some, or choose another host", "it uses %s of memory and %s has %s left", cluster.Bytes(o.Need.RAM), p.Host, cluster.Bytes(p.Room.RAM))
	}
	if o.Later && !p.Facts.Userfault {
		add("run 'vzcluster setup --post-copy' there, or leave out --mode post-copy", "on %s the processes of a container may not use userfaultfd (vm.unprivileged_userfaultfd is 0)", p.Host)
	}
	return append(out, unlike(o, p)...)
}

// kernelLacks names the devices and file systems of a container that a kernel does not know, loadable modules included.
func kernelLacks(need runtime.Need, kernel runtime.Facts) []string {
	var out []string
	for _, d := range need.Devices {
		if len(kernel.Devices) > 0 && len(without(d.Are, kernel.Devices)) == len(d.Are) {
			out = append(out, "the device "+d.Path+" ("+strings.Join(d.Are, ", ")+")")
		}
	}
	if len(kernel.FileSystems) > 0 {
		for _, kind := range without(need.FileSystems, kernel.FileSystems) {
			out = append(out, "a file system of type "+kind)
		}
	}
	return out
}

// unlike compares what two hosts must have in common for a live move.
func unlike(o Offer, p Place) []Blocker {
	var out []Blocker
	add := func(remedy, format string, args ...any) {
		out = append(out, cluster.Blocker{What: fmt.Sprintf(format, args...), Remedy: remedy + ", or move the container with --offline"})
	}
	for _, h := range []struct {
		name  string
		facts runtime.Facts
	}{{o.Host, o.Facts}, {p.Host, p.Facts}} {
		switch {
		case h.facts.CRIU == 0:
			add("run 'vzcluster setup' there", "CRIU cannot be used on %s: %s", h.name, h.facts.Fault)
		case h.facts.CRIU < oldestCRIU:
			add("run 'vzcluster setup' there", "%s has CRIU %s, %s is needed", h.name, release(h.facts.CRIU), release(oldestCRIU))
		}
	}
	if p.Facts.CRIU >= oldestCRIU && p.Facts.CRIU/100 < o.Facts.CRIU/100 {
		add("run 'vzcluster setup' there", "%s has CRIU %s, older than %s of %s", p.Host, release(p.Facts.CRIU), release(o.Facts.CRIU), o.Host)
	}
	if missing := without(usable(o.Facts.CPU), p.Facts.CPU); len(missing) > 0 {
		add("choose a host whose CPU has that", "the CPU of %s lacks what the container may use: %s", p.Host, strings.Join(missing, ", "))
	}
	if missing := without(o.Facts.Cgroups, p.Facts.Cgroups); len(missing) > 0 {
		add("boot both hosts with the same cgroup hierarchies", "%s lacks cgroup hierarchies of %s: %s", p.Host, o.Host, strings.Join(named(missing), ", "))
	}
	if o.Facts.Time && !p.Facts.Time {
		add("run a kernel with time namespaces there", "the kernel of %s has no time namespaces", p.Host)
	}
	return out
}

// release writes a CRIU version as its authors do.
func release(v int) string {
	if v%100 == 0 {
		return fmt.Sprintf("%d.%d", v/10000, v/100%100)
	}
	return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100)
}

// without returns those of want that have lacks.
func without(want, have []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(w string) bool { return slices.Contains(have, w) })
}

// named names cgroup hierarchies for people.
func named(hierarchies []string) []string {
	out := slices.Clone(hierarchies)
	for i, h := range out {
		if h == "" {
			out[i] = "version 2"
		}
	}
	return out
}

// kernelOnly are x86 CPU flags that no program can use: a container moves between hosts that differ in them.
const kernelOnly = `
 acpi amd_lbr_v2 amd_ppin aperfmperf apic arat arch_capabilities arch_lbr arch_perfmon autoibrs avic bpext bts bus_lock_detect cat_l2 cat_l3
 cdp_l2 cdp_l3 cmp_legacy constant_tsc cpb cpuid cqm cqm_llc cqm_mbm_local cqm_mbm_total cqm_occup_llc cr8_legacy dca de debug_swap decodeassists
 ds_cpl dtes64 dtherm dts epb ept ept_ad est extapic extd_apicid flexpriority flush_l1d flushbyasid hfi hw_pstate hwp hwp_act_window hwp_epp
 hwp_notify hwp_pkg_req hypervisor ibpb ibrs ibrs_enhanced ibs ida intel_pt intel_ppin invpcid invpcid_single irperf la57 lbrv lm lwp mba mca mce
 md_clear monitor msr mtrr nodeid_msr nonstop_tsc nopl npt nrip_save nx overflow_recov pae pat pausefilter pbe pcid pconfig pdcm pdpe1gb
 pebs perfctr_core perfctr_llc perfctr_nb perfmon_v2 pfthreshold pge pln proc_feedback pse pse36 pti ptsc pts rdt_a rep_good sbpb sev sev_es
 sev_snp skinit smap smca sme smep smx spec_ctrl split_lock_detect ss ssbd stibp succor svm svm_lock tm tm2 tme topoext tpr_shadow
 tsc_adjust tsc_deadline_timer tsc_known_freq tsc_reliable tsc_scale v_spec_ctrl v_vmsave_vmload vgif virt_ssbd vmcb_clean vme vmmcall vmx vnmi
 vpid wbnoinvd wdt x2apic x2avic xsaves xtopology xtpr
`

// usable are the CPU flags that a program may rely upon.
func usable(flags []string) []string {
	return slices.DeleteFunc(slices.Clone(flags), func(f string) bool {
		return slices.Contains(strings.Fields(kernelOnly), f)
	})
}
