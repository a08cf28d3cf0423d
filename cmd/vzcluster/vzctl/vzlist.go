package vzctl

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// field is a column of vzlist.
type field struct {
	name, head string
	width      int // negative: to the left; longer values are cut unless they come last
	value      func(c api.Container) any
}

func fields() []field {
	ctid := func(c api.Container) any { return c.ID }
	return []field{
		{"ctid", "CTID", 10, ctid},
		{"veid", "CTID", 10, ctid},
		{"vpsid", "CTID", 10, ctid},
		{"private", "PRIVATE", -32, func(c api.Container) any { return c.Host + ":" + id(c) }},
		{"host", "HOST", -16, func(c api.Container) any { return c.Host }},
		{"hostname", "HOSTNAME", -32, func(c api.Container) any { return c.Hostname }},
		{"name", "NAME", -32, func(c api.Container) any { return c.Name }},
		{"smart_name", "SMARTNAME", 10, func(c api.Container) any { return c.Name }},
		{"description", "DESCRIPTION", -32, func(c api.Container) any { return c.Text }},
		{"ostemplate", "OSTEMPLATE", -32, func(c api.Container) any { return c.Template }},
		{"ip", "IP_ADDR", -15, func(c api.Container) any { return addressesOf(c) }},
		{"status", "STATUS", -9, func(c api.Container) any { return status(c) }},
		{"physpages", "PHYSPAGES", 10, func(api.Container) any { return nil }},
		{"physpages.l", "PHYSP.L", 10, func(c api.Container) any { return c.Limits.RAM / page }},
		{"swappages.l", "SWAPP.L", 10, func(c api.Container) any { return c.Limits.Swap / page }},
		{"numproc", "NPROC", 10, func(api.Container) any { return nil }},
		{"diskspace.h", "DSPACE.H", 10, func(c api.Container) any { return c.Limits.Disk >> 10 }},
		{"cpulimit", "CPULIM", 7, func(c api.Container) any { return c.Limits.MilliCPU / 10 }},
		{"cpuunits", "CPUUNI", 7, func(c api.Container) any { return c.Limits.CPUUnits }},
		{"cpus", "CPUS", 5, func(c api.Container) any { return c.Limits.CPUCount }},
		{"numproc.l", "NPROC.L", 10, func(c api.Container) any { return c.Limits.PIDs }},
		{"iopslimit", "IOPS", 6, func(c api.Container) any { return c.Limits.ReadIOPS }},
		{"iolimit", "IOLIMIT", 10, func(c api.Container) any { return c.Limits.ReadRate }},
		{"onboot", "ONBOOT", 6, func(c api.Container) any { return string(c.OnBoot) }},
		{"bootorder", "BOOTORDER", 10, func(c api.Container) any { return c.BootOrder }},
		{"layout", "LAYOUT", 7, func(api.Container) any { return "overlay" }},
		{"vswap", "VSWAP", 5, func(api.Container) any { return true }},
	}
}

// status is the state in the words of vzlist.
func status(c api.Container) string {
	switch {
	case up(c):
		return "running"
	case c.State == cluster.Unknown:
		return "unknown"
	case c.State == cluster.Suspended:
		return "suspended"
	}
	return "stopped"
}

// listing is what vzlist was asked for.
type listing struct {
	all, stopped, names, headless, whole, json, list, one bool
	output, sort                                          string
	hostname, name, description                           string // patterns
}

func (l *listing) options() []option {
	var help bool
	options := []option{
		flag("all", &l.all), flag("stopped", &l.stopped), flag("name", &l.names), flag("no-header", &l.headless), flag("no-trim", &l.whole),
		flag("json", &l.json), flag("list", &l.list), flag("1", &l.one), text("output", &l.output), text("sort", &l.sort),
		text("hostname", &l.hostname), text("name_filter", &l.name), text("description", &l.description), flag("help", &help),
	}
	for i, letter := range []byte("aSnHtjL\x00oshNd\x00") {
		options[i].short = letter
	}
	return options
}

func (t *tool) vzlist(ctx context.Context, args []string) error {
	var l listing
	ids, err := parse(args, l.options())
	if err != nil {
		return fail(1, "%v", err)
	}
	if l.list {
		for _, f := range fields() {
			t.say("%-15s %s", f.name, f.head)
		}
		return nil
	}
	columns, err := l.columns()
	if err != nil {
		return err
	}
	by, backwards := strings.CutPrefix(l.sort, "-")
	sorted, err := pickFields(by, "ctid")
	if err != nil {
		return err
	}
	cl, err := t.client()
	if err != nil {
		return err
	}
	cs, err := cl.Containers(ctx)
	if err != nil {
		return classify(err, codeSystem)
	}
	if cs, err = l.filter(cs, ids); err != nil {
		return err
	}
	if len(cs) == 0 {
		return fail(1, "Container(s) not found")
	}
	slices.SortStableFunc(cs, func(a, b api.Container) int { return compare(sorted[0].value(a), sorted[0].value(b)) })
	if backwards {
		slices.Reverse(cs)
	}
	if l.json {
		return t.listJSON(cs, columns, l.output == "")
	}
	t.list(cs, columns, l)
	return nil
}

// columns are the fields that are shown.
func (l *listing) columns() ([]field, error) {
	if l.one {
		l.headless = true
		return pickFields("ctid", "")
	}
	standard := "ctid,numproc,status,ip,hostname"
	if l.names {
		standard = "ctid,numproc,status,ip,name"
	}
	return pickFields(l.output, standard)
}

// pickFields returns fields by their names, with commas between them; without names the standard ones.
func pickFields(names, standard string) ([]field, error) {
	if names == "" {
		names = standard
	}
	var picked []field
	for _, n := range strings.Split(names, ",") {
		i := slices.IndexFunc(fields(), func(f field) bool { return f.name == n })
		if i < 0 {
			return nil, fail(1, "Unknown field: %s; `vzlist -L` lists what there is", n)
		}
		picked = append(picked, fields()[i])
	}
	return picked, nil
}

// filter keeps what was asked for: those that are named, or by state; and of them what matches the patterns.
func (l *listing) filter(cs []api.Container, ids []string) ([]api.Container, error) {
	var kept []api.Container
	for _, c := range cs {
		wanted := l.all || up(c) != l.stopped
		if len(ids) > 0 {
			wanted = slices.Contains(ids, id(c)) || slices.Contains(ids, c.Name)
		}
		for _, m := range []struct{ pattern, value string }{{l.hostname, c.Hostname}, {l.name, c.Name}, {l.description, c.Text}} {
			if m.pattern == "" {
				continue
			}
			ok, err := path.Match(m.pattern, m.value)
			if err != nil {
				return nil, fail(1, "%s is not a pattern", m.pattern)
			}
			wanted = wanted && ok
		}
		if wanted {
			kept = append(kept, c)
		}
	}
	return kept, nil
}

func compare(a, b any) int {
	switch a := a.(type) {
	case int:
		return a - b.(int)
	case int64:
		return int(min(max(a-b.(int64), -1), 1))
	}
	return strings.Compare(word(a), word(b))
}

// word prints a value; what is not known is a dash.
func word(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case []string:
		if len(v) == 0 {
			return "-"
		}
		return strings.Join(v, " ")
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case string:
		if v == "" {
			return "-"
		}
		return v
	}
	return fmt.Sprint(v)
}

func (t *tool) list(cs []api.Container, columns []field, l listing) {
	line := func(value func(f field) string) {
		var b strings.Builder
		for i, f := range columns {
			v := value(f)
			last := i == len(columns)-1
			if width := max(f.width, -f.width); !last && !l.whole && len(v) > width {
				v = v[:width]
			}
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(fmt.Sprintf("%"+strconv.Itoa(f.width)+"s", v))
		}
		fmt.Fprintln(t.Stdout, strings.TrimRight(b.String(), " "))
	}
	if !l.headless {
		line(func(f field) string { return f.head })
	}
	for _, c := range cs {
		line(func(f field) string { return word(f.value(c)) })
	}
}

// listJSON prints the fields that were asked for, or all.
func (t *tool) listJSON(cs []api.Container, columns []field, all bool) error {
	if all {
		columns = fields()
	}
	rows := []map[string]any{}
	for _, c := range cs {
		row := map[string]any{}
		for _, f := range columns {
			if name := f.name; name != "veid" && name != "vpsid" {
				row[name] = f.value(c)
			}
		}
		rows = append(rows, row)
	}
	out := json.NewEncoder(t.Stdout)
	out.SetIndent("", "  ")
	return out.Encode(rows)
}
