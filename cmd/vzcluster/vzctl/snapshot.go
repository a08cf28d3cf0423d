package vzctl

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// snapshotting is what the commands about snapshots can be told. Id is the name of a snapshot here.
type snapshotting struct {
	id, name, text, output, target string
	skipSuspend, mustResume        bool
	headless                       bool
}

func (t *tool) readSnapshot(args []string, needID bool) (snapshotting, error) {
	var s snapshotting
	var ignored bool
	id := option{name: "id", value: true, set: func(v string) error {
		s.id = strings.ToLower(strings.Trim(v, "{}"))
		if s.id == "" {
			return errors.New("it is empty")
		}
		return nil
	}}
	head := flag("no-header", &s.headless)
	head.short = 'H'
	output := text("output", &s.output)
	output.short = 'o'
	err := noMore(parse(args, []option{
		id, text("uuid", &s.id), text("name", &s.name), text("description", &s.text), flag("skip-suspend", &s.skipSuspend), flag("skip-config", &ignored),
		flag("skip-resume", &ignored), flag("must-resume", &s.mustResume), text("target", &s.target), head, output,
	}))
	if err == nil && needID && s.id == "" {
		err = fail(codeSyntax, "Error: no snapshot id specified, write --id")
	}
	return s, err
}

func (t *tool) snapshot(ctx context.Context, ct string, args []string) error {
	s, err := t.readSnapshot(args, false)
	if err != nil {
		return err
	}
	c, err := t.find(ctx, ct)
	if err != nil {
		return err
	}
	if s.id == "" {
		s.id = newID()
	}
	r := api.SnapshotRequest{Name: s.id, Text: strings.TrimSpace(s.name + " " + s.text), Memory: running(c) && !s.skipSuspend}
	t.say("Creating snapshot {%s}", s.id)
	if _, err := t.cl.Snapshot(ctx, id(c), r); err != nil {
		return classify(err, codeSnapCreate)
	}
	t.say("Snapshot {%s} has been successfully created", s.id)
	return nil
}

// newID makes an id as snapshots of OpenVZ have (RFC 9562, version 4).
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (t *tool) snapshotSwitch(ctx context.Context, ct string, args []string) error {
	s, err := t.readSnapshot(args, true)
	if err != nil {
		return err
	}
	c, err := t.find(ctx, ct)
	if err != nil {
		return err
	}
	known := c.Snapshot(s.id)
	if known == nil {
		return fail(codeSnapSwitch, "Can't find snapshot {%s}", s.id)
	}
	if s.mustResume && !known.Memory {
		return fail(codeSnapSwitch, "Snapshot {%s} has no memory to resume from", s.id)
	}
	t.say("Switching to snapshot {%s}", s.id)
	if _, err := t.cl.Switch(ctx, id(c), s.id, api.TaskRequest{}); err != nil {
		return classify(err, codeSnapSwitch)
	}
	t.say("Container has been successfully switched to another snapshot")
	return nil
}

func (t *tool) snapshotDelete(ctx context.Context, ct string, args []string) error {
	s, err := t.readSnapshot(args, true)
	if err != nil {
		return err
	}
	c, err := t.find(ctx, ct)
	if err != nil {
		return err
	}
	if c.Snapshot(s.id) == nil {
		return fail(codeSnapDelete, "Can't find snapshot {%s}", s.id)
	}
	t.say("Deleting CT snapshot {%s}", s.id)
	if _, err := t.cl.DropSnapshot(ctx, id(c), s.id); err != nil {
		return classify(err, codeSnapDelete)
	}
	t.say("Snapshot {%s} has been successfully deleted", s.id)
	return nil
}

// snapshotFields are the columns of snapshot-list.
func snapshotFields() []column[cluster.Snapshot] {
	braced := func(s cluster.Snapshot) string { return "{" + s.Name + "}" }
	return []column[cluster.Snapshot]{
		{"parent_uuid", "PARENT_UUID", 38, func(cluster.Snapshot) string { return "" }},
		{"current", "C", 1, func(cluster.Snapshot) string { return "" }},
		{"uuid", "UUID", 38, braced},
		{"id", "UUID", 38, braced},
		{"date", "DATE", 19, func(s cluster.Snapshot) string { return s.Created.Local().Format("2006-01-02 15:04:05") }},
		{"name", "NAME", 1, func(s cluster.Snapshot) string { return s.Text }},
		{"description", "DESC", 1, func(s cluster.Snapshot) string { return s.Text }},
	}
}

// column is a column of things of a kind.
type column[T any] struct {
	name, head string
	width      int
	value      func(T) string
}

func (t *tool) snapshotList(ctx context.Context, ct string, args []string) error {
	s, err := t.readSnapshot(args, false)
	if err != nil {
		return err
	}
	if s.output == "" {
		s.output = "parent_uuid,current,uuid,date,name"
	}
	var columns []column[cluster.Snapshot]
	for _, name := range strings.Split(s.output, ",") {
		i := slices.IndexFunc(snapshotFields(), func(f column[cluster.Snapshot]) bool { return f.name == name })
		if i < 0 {
			return fail(codeSnapshotsList, "Unknown field: %s", name)
		}
		columns = append(columns, snapshotFields()[i])
	}
	c, err := t.find(ctx, ct)
	if err != nil {
		return err
	}
	line := func(value func(f column[cluster.Snapshot]) string) {
		var words []string
		for _, f := range columns {
			words = append(words, fmt.Sprintf("%-*s", f.width, value(f)))
		}
		fmt.Fprintln(t.Stdout, strings.TrimRight(strings.Join(words, " "), " "))
	}
	if !s.headless {
		line(func(f column[cluster.Snapshot]) string { return f.head })
	}
	for _, snap := range c.Snapshots {
		if s.id == "" || s.id == snap.Name {
			line(func(f column[cluster.Snapshot]) string { return f.value(snap) })
		}
	}
	return nil
}
