package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func containerView(cs []api.Container) view {
	v := view{head: []string{"ID", "NAME", "HOST", "STATE", "ADDRESS", "RAM", "CPUS", "TEMPLATE", "GENERATION", "MAC", "UIDBASE", "RESTARTED", "MOVABLE", "DETAIL"}, wide: 6}
	for _, c := range cs {
		v.names = append(v.names, c.Name)
		v.rows = append(v.rows, []string{
			strconv.Itoa(c.ID), c.Name, dash(c.Host), containerState(c), dash(strings.Join(c.Addresses, ",")), size(c.Limits.RAM), cores(c.Limits.MilliCPU),
			c.Template, strconv.FormatUint(c.Generation, 10), dash(c.MAC), strconv.FormatUint(uint64(c.UIDBase), 10), strconv.Itoa(c.Restarted), movable(c), dash(c.Detail),
		})
	}
	return v
}

// containerState is the state, and of one that is on its way how far it is.
func containerState(c api.Container) string {
	if stage := underWay(c.Progress); stage != "" {
		return fmt.Sprintf("%s (%s)", c.State, stage)
	}
	return string(c.State)
}

// movable says whether a container can be moved live, and if not, why.
func movable(c api.Container) string {
	switch {
	case c.State != cluster.Running || c.Verdict == nil:
		return "-"
	case c.Immovable() == "":
		return "yes"
	}
	return "no: " + c.Immovable()
}

// obstacles lists everything that is in the way of moving a container live.
func obstacles(c api.Container) string {
	switch movable(c) {
	case "-":
		return ""
	case "yes":
		return "yes"
	}
	lines := []string{"no"}
	for _, b := range c.Verdict.Blockers {
		lines = append(lines, b.String())
	}
	if c.Verdict.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more, see 'vzcluster migrate %s --check-only'", c.Verdict.More, c.Name))
	}
	return strings.Join(lines, "\n")
}

func hostView(hs []api.Host) view {
	v := view{head: []string{"NAME", "STATE", "ROLE", "CONTAINERS", "CPUS", "RAM", "DISK", "ADDRESS", "GOSSIP", "VERSION", "LABELS"}, wide: 3}
	for _, h := range hs {
		r, c := h.Reserved, h.Capacity
		v.names = append(v.names, h.Name)
		v.rows = append(v.rows, []string{
			h.Name, hostState(h), role(h), strconv.Itoa(h.Containers), cluster.Cores(r.MilliCPU) + "/" + cluster.Cores(c.MilliCPU),
			cluster.Bytes(r.RAM) + "/" + cluster.Bytes(c.RAM), cluster.Bytes(r.Disk) + "/" + cluster.Bytes(c.Disk), h.Address, dash(h.Gossip), dash(h.Version), dash(labels(h.Labels)),
		})
	}
	return v
}

// hostState joins what is wanted of a host with what is seen of it.
func hostState(h api.Host) string {
	switch {
	case h.Alive, !h.State.Awake():
		return string(h.State)
	case h.State == cluster.HostCordoned:
		return "down,cordoned"
	}
	return "down"
}

func role(h api.Host) string {
	switch {
	case h.Leader:
		return "leader"
	case h.Voter:
		return "voter"
	}
	return "-"
}

func tokenView(ts []cluster.Token) view {
	v := view{head: []string{"ID", "CREATED", "EXPIRES", "USED BY"}}
	for _, t := range ts {
		v.names = append(v.names, t.ID)
		v.rows = append(v.rows, []string{t.ID, moment(t.Created), moment(t.Expires), dash(t.UsedBy)})
	}
	return v
}

func templateView(ts []cluster.Template) view {
	v := view{head: []string{"NAME", "SIZE", "SYSTEMD", "HOSTS", "CREATED", "INIT", "DIGEST"}, wide: 2}
	for _, t := range ts {
		v.names = append(v.names, t.Name)
		v.rows = append(v.rows, []string{t.Name, cluster.Bytes(t.Size), yes(t.Systemd), dash(strings.Join(t.Hosts, ",")), moment(t.Created), strings.Join(t.Init, " "), t.Digest})
	}
	return v
}

func templateRecord(t cluster.Template) view {
	var prepared []string
	for _, p := range t.Prepared {
		prepared = append(prepared, strings.Join(wrap(p, lineMost-12), "\n  "))
	}
	return view{names: []string{t.Name}, text: record("name", t.Name, "digest", t.Digest, "size", cluster.Bytes(t.Size), "init", strings.Join(t.Init, " "),
		"systemd", yes(t.Systemd), "hosts", strings.Join(t.Hosts, ", "), "created", moment(t.Created), "prepared", strings.Join(prepared, "\n"))}
}

func operationView(ops []cluster.Operation) view {
	v := view{head: []string{"ID", "KIND", "STATUS", "WHAT", "STARTED", "TOOK", "ERROR"}, most: lineMost}
	for _, o := range ops {
		v.names = append(v.names, o.ID)
		v.rows = append(v.rows, []string{o.ID, string(o.Kind), string(o.Status), about(o), moment(o.Started), took(o), dash(o.Error)})
	}
	return v
}

// about says what an operation is about.
func about(o cluster.Operation) string {
	switch o.Kind {
	case cluster.OpMigrate:
		return fmt.Sprintf("%d %s -> %s", o.Container, o.From, o.To)
	case cluster.OpClone:
		return fmt.Sprintf("%d to %d", o.Container, o.Task.Clone)
	case cluster.OpSnapshot, cluster.OpSwitch, cluster.OpDropSnapshot, cluster.OpReinstall:
		return strings.TrimSpace(fmt.Sprintf("%d %s", o.Container, o.Task.Snapshot))
	case cluster.OpDrain:
		return fmt.Sprintf("%s, %s", o.Host, moves(len(o.Steps)))
	}
	return moves(len(o.Steps))
}

func moves(n int) string {
	if n == 1 {
		return "1 move"
	}
	return fmt.Sprintf("%d moves", n)
}

func took(o cluster.Operation) string {
	if o.Ended.IsZero() {
		return "-"
	}
	return o.Ended.Sub(o.Started).Round(time.Millisecond).String()
}

func planView(o cluster.Operation) view {
	v := view{head: []string{"STEP", "CONTAINER", "FROM", "TO", "STATUS", "WHY"}, most: lineMost}
	for i, m := range o.Steps {
		v.names = append(v.names, m.Name)
		why := m.Why
		if m.Reason != "" {
			why = m.Reason
		}
		v.rows = append(v.rows, []string{strconv.Itoa(i + 1), m.Name, m.From, m.To, dash(m.Status), why})
	}
	return v
}

// explained is a plan with what each move gains and costs, and its reasons in full.
func explained(o cluster.Operation) view {
	v := planView(o).cut(false)
	if !slices.ContainsFunc(o.Steps, func(m cluster.Move) bool { return m.Cost != (cluster.MoveCost{}) }) {
		return v
	}
	v.head = slices.Insert(slices.Clone(v.head), 4, "GAIN", "COST")
	for i, m := range o.Steps {
		gain := "-"
		if m.Gain > 0 {
			gain = fmt.Sprintf("%.0f points", m.Gain)
		}
		v.rows[i] = slices.Insert(v.rows[i], 4, gain, costText(m.Cost))
	}
	return v
}

// costText says what a move is expected to cost.
func costText(c cluster.MoveCost) string {
	if c == (cluster.MoveCost{}) {
		return "-"
	}
	text := fmt.Sprintf("%s in %s", cluster.Bytes(c.Bytes), long(c.Seconds*1000))
	if c.BlackoutMS > 0 {
		text += ", silent for " + ms(c.BlackoutMS)
	}
	if c.Assumed {
		text += " (assumed)"
	}
	return text
}

func resultView(r cluster.MoveResult) view {
	v := view{head: []string{"FROM", "TO", "MODE", "BLACKOUT", "TOTAL", "BYTES"}, names: []string{r.To}}
	blackout := "-"
	if hadBlackout(r) {
		blackout = ms(r.BlackoutMS)
	}
	v.rows = [][]string{{r.From, r.To, r.Mode, blackout, ms(r.TotalMS), cluster.Bytes(r.Bytes)}}
	return v
}

// hadBlackout reports whether there was something to fall silent; a container that was stopped has no blackout.
func hadBlackout(r cluster.MoveResult) bool { return r.BlackoutMS > 0 }

func containerRecord(c api.Container) view {
	last := ""
	if m := c.LastMove; m != nil {
		last = fmt.Sprintf("%s -> %s, %s, blackout %s, total %s, %s", m.From, m.To, m.Mode, ms(m.BlackoutMS), ms(m.TotalMS), cluster.Bytes(m.Bytes))
		if !hadBlackout(*m) {
			last = fmt.Sprintf("%s -> %s, %s, while it was stopped, total %s, %s", m.From, m.To, m.Mode, ms(m.TotalMS), cluster.Bytes(m.Bytes))
		}
	}
	restarted := ""
	if c.Restarted > 0 {
		restarted = strconv.Itoa(c.Restarted)
	}
	return view{names: []string{c.Name}, text: record(slices.Concat([]string{
		"id", strconv.Itoa(c.ID), "name", c.Name, "host", c.Host, "state", containerState(c), "wanted", string(c.Desired), "detail", c.Detail,
		"generation", strconv.FormatUint(c.Generation, 10), "template", c.Template, "digest", c.Digest, "hostname", c.Hostname, "description", c.Text, "on boot", string(c.OnBoot), "snapshots", snapshotNames(c), "destroyed", trashed(c),
		"addresses", strings.Join(c.Addresses, ", "), "mac", c.MAC, "network", c.Network, "more cards", moreNICs(c), "published", published(c), "name servers", strings.Join(c.NameServers, ", "), "search domains", strings.Join(c.SearchDomains, ", "), "mounts", mounts(c), "uid base", strconv.FormatUint(uint64(c.UIDBase), 10),
	}, limitPairs(c.Limits), []string{
		"labels", labels(c.Labels), "operation", c.Operation, "created", moment(c.Created), "restarted", restarted, "rules", rulesText(c.Rules), "placed", c.Placement, "history", history(c.History), "movable", obstacles(c), "last move", last,
	})...)}
}

// mounts are the folders of hosts that a container has, as create takes them.
func mounts(c api.Container) string {
	var parts []string
	for _, m := range c.Mounts {
		parts = append(parts, m.String())
	}
	return strings.Join(parts, ", ")
}

// moreNICs are the network cards beside eth0.
func moreNICs(c api.Container) string {
	var parts []string
	for _, n := range c.NICs {
		network := n.Network
		if network == "" {
			network = cluster.DefaultNetwork
		}
		parts = append(parts, strings.TrimSpace(n.Name+" in "+network+" "+strings.Join(n.Addresses, " ")))
	}
	return strings.Join(parts, ", ")
}

func published(c api.Container) string {
	var parts []string
	for _, p := range c.Ports {
		parts = append(parts, p.String())
	}
	return strings.Join(parts, ", ")
}

func labels(m map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ",")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// size prints a limit in bytes; zero is none.
func size(n int64) string {
	if n == 0 {
		return "-"
	}
	return cluster.Bytes(n)
}

func cores(milli int64) string {
	if milli == 0 {
		return "-"
	}
	return cluster.Cores(milli)
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// ms prints milliseconds, with a decimal only where it says something.
func ms(f float64) string {
	if f < 10 {
		return fmt.Sprintf("%.1f ms", f)
	}
	return fmt.Sprintf("%.0f ms", f)
}

// long prints milliseconds, as seconds when there are many.
func long(f float64) string {
	if f < 1000 {
		return ms(f)
	}
	return fmt.Sprintf("%.1f s", f/1000)
}

// history tells what was decided about a container, a line each.
func history(events []cluster.Event) string {
	var lines []string
	for _, ev := range events {
		line := moment(ev.At) + " " + ev.What
		switch {
		case ev.From != "" && ev.To != "":
			line += fmt.Sprintf(" %s -> %s", ev.From, ev.To)
		case ev.To != "":
			line += " on " + ev.To
		}
		lines = append(lines, line+": "+dash(ev.Why))
	}
	return strings.Join(lines, "\n")
}
