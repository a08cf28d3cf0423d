package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

// view is how a value looks to people: a table, or a text of its own.
type view struct {
	head  []string
	wide  int // so many of the columns, the last ones, are shown by -o wide only
	rows  [][]string
	names []string // for -o name
	text  string   // instead of the table
	most  int      // the last column is cut after so many characters, but not by -o wide; 0: never
}

// lineMost is how many characters of a sentence a line shows.
const lineMost = 100

// cut returns the view with its last column cut or in full.
func (v view) cut(on bool) view {
	if !on {
		v.most = 0
	}
	return v
}

func formats() []string { return []string{"table", "wide", "json", "yaml", "name"} }

// forPeople says whether the output is read by people.
func forPeople(c *cli.Context) bool {
	f := c.String("output")
	return f == "table" || f == "wide"
}

func checkFormat(c *cli.Context) error {
	if f := c.String("output"); !slices.Contains(formats(), f) {
		return usagef(c, "%s is not an output format, write one of %s", f, strings.Join(formats(), ", "))
	}
	return nil
}

// show prints a value to stdout in the format that the user chose.
func (e *env) show(c *cli.Context, value any, v view) error {
	switch format := c.String("output"); format {
	case "json", "yaml":
		return printValue(e.stdout, format, value)
	case "name":
		for _, n := range v.names {
			if _, err := fmt.Fprintln(e.stdout, n); err != nil {
				return err
			}
		}
		return nil
	case "wide":
		v.wide, v.most = 0, 0
	}
	if v.text != "" {
		_, err := io.WriteString(e.stdout, v.text)
		return err
	}
	_, err := io.WriteString(e.stdout, v.table())
	return err
}

// showContainer shows one container and what the user should know of what was just done with it.
func (e *env) showContainer(c *cli.Context, ct api.Container) error {
	e.notes(ct)
	return e.show(c, ct, containerView([]api.Container{ct}))
}

// notes prints what containers' answers say beside the point.
func (e *env) notes(cs ...api.Container) {
	for _, ct := range cs {
		for _, note := range ct.Notes {
			e.progress("%s: %s", ct.Name, note)
		}
	}
}

// printValue writes JSON, or the same as YAML: both have the fields and the order of the API.
func printValue(w io.Writer, format string, value any) error {
	if rv := reflect.ValueOf(value); rv.Kind() == reflect.Slice && rv.IsNil() {
		value = []struct{}{} // an empty list, not null
	}
	b, err := json.MarshalIndent(value, "", "  ")
	if err == nil && format == "yaml" {
		b, err = yaml.JSONToYAML(b)
	}
	if err != nil {
		return fmt.Errorf("the answer cannot be printed as %s: %w", format, err)
	}
	_, err = fmt.Fprintf(w, "%s\n", strings.TrimRight(string(b), "\n"))
	return err
}

// table lays the columns out with two spaces between them.
func (v view) table() string {
	columns := len(v.head) - v.wide
	widths := make([]int, columns)
	lines := append([][]string{v.head}, v.rows...)
	for i, l := range lines {
		if text := []rune(l[columns-1]); v.most > 0 && len(text) > v.most {
			lines[i] = append(slices.Clone(l[:columns-1]), string(text[:v.most-1])+"…")
		}
	}
	for _, l := range lines {
		for i := range columns {
			widths[i] = max(widths[i], utf8.RuneCountInString(l[i]))
		}
	}
	var b strings.Builder
	for _, l := range lines {
		var line strings.Builder
		for i := range columns {
			line.WriteString(l[i])
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(l[i])+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

// record lays out one object, a name and a value on each line; empty values are left out.
func record(pairs ...string) string {
	v := view{head: []string{"", ""}}
	for i := 0; i+1 < len(pairs); i += 2 {
		for j, line := range strings.Split(pairs[i+1], "\n") {
			name := pairs[i]
			if j > 0 {
				name = ""
			}
			if line != "" {
				v.rows = append(v.rows, []string{name, line})
			}
		}
	}
	return strings.TrimPrefix(v.table(), "\n")
}

// wrap breaks a sentence into lines of at most so many characters, between words.
func wrap(text string, most int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > most {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}
