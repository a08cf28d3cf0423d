package vzctl

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vzcluster/vzcluster/agent/api"
)

// set changes a container. What is set is always saved, since a container's settings are the cluster's.
func (t *tool) set(ctx context.Context, ct string, args []string) error {
	var p params
	var save, force, reset, offline bool
	var sample, group string
	setmode := option{name: "setmode", value: true, set: func(v string) error {
		if v != "restart" && v != "ignore" {
			return fmt.Errorf("%s is neither restart nor ignore", v)
		}
		return nil
	}}
	options := append(p.options(), p.password(), setmode, text("applyconfig", &sample), text("applyconfig_map", &group),
		flag("save", &save), flag("force", &force), flag("reset_ub", &reset), flag("offline-resize", &offline))
	if err := noMore(parse(args, options)); err != nil {
		return err
	}
	if sample != "" {
		from, err := readSample(sample)
		if err != nil {
			return err
		}
		from.template, from.set.Hostname, from.ipAdd = "", nil, nil // these are not a sample's to change
		from.overlay(p)
		p = from
	}
	c, err := t.find(ctx, ct)
	if err != nil {
		return err
	}
	t.warnAll(p.notes)
	if reset {
		t.say("UB limits were set successfully")
		return nil
	}
	return t.apply(ctx, c, p, save)
}

func (t *tool) apply(ctx context.Context, c api.Container, p params, save bool) error {
	p.set.IPAdd, p.set.IPDel = p.ipAdd, p.ipDel
	if slices.Contains(p.ipDel, "all") {
		p.set.IPDel = slices.Clone(c.Addresses)
	}
	switch {
	case p.template != "":
		return fail(codeValue, "A container keeps the template that it was created from; nothing was changed")
	case !p.said() && len(p.passwords) == 0:
		t.say("No changes in CT configuration, not saving")
		return nil
	}
	// Before the rest: what is refused here has changed nothing.
	inside := func(r api.InsideRequest) error { return t.cl.Inside(ctx, id(c), r) }
	if err := t.setPasswords(p, inside); err != nil || !p.said() {
		return err
	}
	if _, err := t.cl.Set(ctx, id(c), p.set); err != nil {
		if api.CodeOf(err) == api.CodeConflict && p.set.Name != nil {
			return fail(codeName, "Conflict: %v", err)
		}
		return refused(err, p.ipAdd)
	}
	t.told(p)
	if !save {
		t.say("WARNING: The settings were saved, though --save is missing: there are no others here")
		return nil
	}
	t.say("CT configuration saved to the cluster")
	return nil
}

// told says what was set, as vzctl does.
func (t *tool) told(p params) {
	s := p.set
	if len(s.IPDel) > 0 {
		t.say("Deleting IP address(es): %s", strings.Join(s.IPDel, " "))
	}
	if len(s.IPAdd) > 0 {
		t.say("Adding IP address(es): %s", strings.Join(s.IPAdd, " "))
	}
	if s.RAM != nil || s.Swap != nil || s.PIDs != nil {
		t.say("UB limits were set successfully")
	}
	if s.CPUUnits != nil {
		t.say("Setting CPU units: %d", *s.CPUUnits)
	}
	if s.MilliCPU != nil {
		t.say("Setting CPU limit: %d", *s.MilliCPU/10)
	}
	if s.CPUCount != nil && *s.CPUCount > 0 {
		t.say("Setting CPUs: %d", *s.CPUCount)
	}
	if s.CPUMask != nil && *s.CPUMask != "" {
		t.say("Setting CPU mask: %s", *s.CPUMask)
	}
	if s.NUMANodes != nil {
		t.say("Setting NUMA node mask: %s", *s.NUMANodes)
	}
	for _, n := range s.NICAdd {
		t.say("Configure veth devices: %s", n.Name)
	}
	for _, name := range s.NICDel {
		t.say("Deleting network interface: %s", name)
	}
	if len(s.NameServers)+len(s.SearchDomains) > 0 {
		t.say("File resolv.conf was modified")
	}
	if s.Hostname != nil {
		t.say("Set hostname: %s", *s.Hostname)
	}
	if s.Name != nil {
		t.say("Name %s assigned", *s.Name)
	}
}
