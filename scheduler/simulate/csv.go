package simulate

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcluster/vzcluster/cluster"
)

// never is when a container departs that has no time of departure.
const never = math.MaxInt64

// Container is one line of containers.csv.
type Container struct {
	Name           string
	Need           cluster.Resources
	Rules          *cluster.Rules // nil: none
	Host           string         // where it is, empty: nowhere
	Arrive, Depart int64          // seconds
	first          bool           // there from the start
	file           string         // where its host, or else the container, is named
	line           int
}

// table is a CSV file with a header.
type table struct {
	name string
	csv  *csv.Reader
	col  map[string]int
	row  []string
}

// open reads the header. Columns may be in any order; one that is not known, doubled or missing is an error.
func open(name string, r io.Reader, required, optional []string) (*table, error) {
	t := &table{name: name, csv: csv.NewReader(bufio.NewReaderSize(r, 1<<16)), col: map[string]int{}}
	t.csv.ReuseRecord = true
	header, err := t.csv.Read()
	if errors.Is(err, io.EOF) {
		return nil, cluster.Refuse(cluster.ErrInvalid, "%s: the file is empty; its first line names the columns: %s", name, strings.Join(required, ","))
	}
	if err != nil {
		return nil, t.broken(err)
	}
	if len(header) > 0 {
		header[0] = strings.TrimPrefix(header[0], "\ufeff")
	}
	for i, c := range header {
		if !slices.Contains(required, c) && !slices.Contains(optional, c) {
			return nil, cluster.Refuse(cluster.ErrInvalid, "%s:1: column %d: %q is not known; the columns are %s", name, i+1, c, strings.Join(append(required, optional...), ", "))
		}
		if _, twice := t.col[c]; twice {
			return nil, cluster.Refuse(cluster.ErrInvalid, "%s:1: column %d: %s is there twice", name, i+1, c)
		}
		t.col[c] = i
	}
	for _, c := range required {
		if _, ok := t.col[c]; !ok {
			return nil, cluster.Refuse(cluster.ErrInvalid, "%s:1: the column %s is missing", name, c)
		}
	}
	return t, nil
}

// broken names the place of what is no CSV.
func (t *table) broken(err error) error {
	var p *csv.ParseError
	switch {
	case errors.As(err, &p) && errors.Is(p.Err, csv.ErrFieldCount):
		return cluster.Refuse(cluster.ErrInvalid, "%s:%d: the line has %d columns, the first one has %d", t.name, p.Line, len(t.row), len(t.col))
	case errors.As(err, &p):
		return cluster.Refuse(cluster.ErrInvalid, "%s:%d: column %d: %v", t.name, p.Line, p.Column, p.Err)
	}
	return fmt.Errorf("read %s: %w", t.name, err)
}

// next reads a line; false at the end.
func (t *table) next() (bool, error) {
	row, err := t.csv.Read()
	t.row = row
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, t.broken(err)
	}
	return true, nil
}

func (t *table) line() int {
	line, _ := t.csv.FieldPos(0)
	return line
}

// wrong is an error about a field of the line.
func (t *table) wrong(column, format string, args ...any) error {
	return cluster.Refuse(cluster.ErrInvalid, "%s:%d: column %s: %s", t.name, t.line(), column, fmt.Sprintf(format, args...))
}

// text returns a field, empty when there is no such column.
func (t *table) text(column string) string {
	if i, ok := t.col[column]; ok {
		return t.row[i]
	}
	return ""
}

// name returns a field that names something.
func (t *table) label(column string) (string, error) {
	s := t.text(column)
	if s == "" {
		return "", t.wrong(column, "it is empty")
	}
	return strings.Clone(s), nil
}

// number returns a whole number from 0 up, times a unit, or def when the field is empty.
func (t *table) number(column string, unit, def int64) (int64, error) {
	s := t.text(column)
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<53)/unit {
		return 0, t.wrong(column, "%q is no whole number from 0 to %d", s, (1<<53)/unit)
	}
	return n * unit, nil
}

const mib = 1 << 20

// resources reads the columns that hosts and containers share.
func (t *table) resources() (r cluster.Resources, err error) {
	for _, c := range []struct {
		column string
		unit   int64
		to     *int64
	}{{"cpu_milli", 1, &r.MilliCPU}, {"memory_mib", mib, &r.RAM}, {"disk_mib", mib, &r.Disk}} {
		if t.text(c.column) == "" && c.column != "disk_mib" {
			return r, t.wrong(c.column, "it is empty")
		}
		if *c.to, err = t.number(c.column, c.unit, 0); err != nil {
			return r, err
		}
	}
	return r, nil
}

// ReadHosts reads hosts.csv. What is wrong is named by file, line and column.
func ReadHosts(name string, r io.Reader) ([]*cluster.Host, error) {
	t, err := open(name, r, []string{"name", "cpu_milli", "memory_mib"}, []string{"disk_mib", "zone"})
	if err != nil {
		return nil, err
	}
	var hosts []*cluster.Host
	seen := map[string]int{}
	for {
		more, err := t.next()
		if err != nil {
			return nil, err
		}
		if !more {
			return hosts, nil
		}
		h := &cluster.Host{State: cluster.HostActive}
		if h.Name, err = t.label("name"); err != nil {
			return nil, err
		}
		if at := seen[h.Name]; at > 0 {
			return nil, t.wrong("name", "%q is there already, on line %d", h.Name, at)
		}
		seen[h.Name] = t.line()
		if h.Capacity, err = t.resources(); err != nil {
			return nil, err
		}
		if _, counted := t.col["disk_mib"]; !counted || t.text("disk_mib") == "" {
			h.Capacity.Disk = 1 << 62 // not counted
		}
		if zone := t.text("zone"); zone != "" {
			h.Labels = map[string]string{cluster.ZoneLabel: strings.Clone(zone)}
		}
		hosts = append(hosts, h)
	}
}

// ReadContainers reads containers.csv. What is wrong is named by file, line and column.
func ReadContainers(name string, r io.Reader) ([]Container, error) {
	t, err := open(name, r, []string{"name", "cpu_milli", "memory_mib"}, []string{"disk_mib", "group", "max_per_host", "host", "arrive_s", "depart_s"})
	if err != nil {
		return nil, err
	}
	var all []Container
	seen, rules := map[string]int{}, map[cluster.Tally]map[string]*cluster.Rules{}
	for {
		more, err := t.next()
		if err != nil {
			return nil, err
		}
		if !more {
			return all, nil
		}
		c, err := t.container(seen, rules)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
}

// container reads one line. Containers with the same rules share them.
func (t *table) container(seen map[string]int, rules map[cluster.Tally]map[string]*cluster.Rules) (c Container, err error) {
	if c.Name, err = t.label("name"); err != nil {
		return c, err
	}
	if at := seen[c.Name]; at > 0 {
		return c, t.wrong("name", "%q is there already, on line %d", c.Name, at)
	}
	c.file, c.line = t.name, t.line()
	seen[c.Name] = c.line
	if c.Need, err = t.resources(); err != nil {
		return c, err
	}
	c.Need.Containers = 1
	limit, err := t.number("max_per_host", 1, 0)
	if err != nil {
		return c, err
	}
	group := t.text("group")
	switch {
	case t.text("max_per_host") != "" && limit == 0:
		return c, t.wrong("max_per_host", "0 would allow it nowhere; leave it empty for no limit")
	case limit > 0 && group == "":
		return c, t.wrong("group", "it is empty, but max_per_host counts the containers of a group")
	case group != "":
		key := cluster.Tally{Max: int(limit)}
		if rules[key] == nil {
			rules[key] = map[string]*cluster.Rules{}
		}
		if c.Rules = rules[key][group]; c.Rules == nil {
			c.Rules = &cluster.Rules{Group: strings.Clone(group), MaxPerHost: int(limit)}
			rules[key][c.Rules.Group] = c.Rules
		}
	}
	c.Host = strings.Clone(t.text("host"))
	return c, t.times(&c)
}

func (t *table) times(c *Container) (err error) {
	if c.Arrive, err = t.number("arrive_s", 1, 0); err != nil {
		return err
	}
	if c.Depart, err = t.number("depart_s", 1, never); err != nil {
		return err
	}
	c.first = c.Arrive == 0
	if c.Depart < c.Arrive {
		return t.wrong("depart_s", "it departs at %d s, before it arrives at %d s", c.Depart, c.Arrive)
	}
	return nil
}

// ReadPlacement reads a placement as WritePlacement writes it: the host of each container it names.
func ReadPlacement(name string, r io.Reader, hosts []*cluster.Host, all []Container) error {
	t, err := open(name, r, []string{"container", "host"}, nil)
	if err != nil {
		return err
	}
	index, known, seen := map[string]int{}, map[string]bool{}, map[string]int{}
	for i := range all {
		index[all[i].Name] = i
		all[i].Host = ""
	}
	for _, h := range hosts {
		known[h.Name] = true
	}
	for {
		more, err := t.next()
		if err != nil || !more {
			return err
		}
		i, ok := index[t.text("container")]
		host := strings.Clone(t.text("host"))
		switch {
		case !ok:
			return t.wrong("container", "there is no container %q", t.text("container"))
		case seen[all[i].Name] > 0:
			return t.wrong("container", "%q is there already, on line %d", all[i].Name, seen[all[i].Name])
		case host != "" && !known[host]:
			return t.wrong("host", "there is no host %q", host)
		}
		seen[all[i].Name] = t.line()
		all[i].Host, all[i].file, all[i].line = host, t.name, t.line()
	}
}
