package cluster

import (
	"slices"
	"strings"
	"testing"
)

// lifeCommands lead to container 101, running on h1.
func lifeCommands() []Command {
	return []Command{
		create(101, "h1"), SetDesired{ID: 101, Desired: WantRunning}, ReportContainer{ID: 101, Host: "h1", Generation: 1, State: Running},
	}
}

func task(id string, kind OperationKind, t Task) BeginTask {
	return BeginTask{Operation: Operation{ID: id, Kind: kind, Container: 101, From: "h1", Generation: 1, Task: &t, Started: at(4)}}
}

func TestTaskRefusals(t *testing.T) {
	kept := append(lifeCommands(), task("s", OpSnapshot, Task{Snapshot: "one"}), EndTask{Operation: "s", At: at(5)})
	trash := append(lifeCommands(), TrashContainer{101, at(5)})
	testRefusals(t, []refused{
		{"no task", lifeCommands(), BeginTask{Operation: Operation{ID: "x", Kind: OpSnapshot, Container: 101, From: "h1", Generation: 1}}, ErrInvalid, "what to do"},
		{"a migration", lifeCommands(), task("x", OpMigrate, Task{}), ErrInvalid, "cannot begin this way"},
		{"not the owner", lifeCommands(), BeginTask{Operation: Operation{ID: "x", Kind: OpSnapshot, Container: 101, From: "h2", Generation: 1, Task: &Task{Snapshot: "a"}}}, ErrStale, "belongs to host"},
		{"a bad name", lifeCommands(), task("x", OpSnapshot, Task{Snapshot: "../x"}), ErrInvalid, "no name for a snapshot"},
		{"the name is taken", kept, task("x", OpSnapshot, Task{Snapshot: "one"}), ErrConflict, "already"},
		{"memory of a stopped one", []Command{create(101, "h1")}, task("x", OpSnapshot, Task{Snapshot: "m", Memory: true}), ErrConflict, "does not run"},
		{"no such snapshot", kept, task("x", OpSwitch, Task{Snapshot: "two"}), ErrNotFound, "snapshot ls"},
		{"locked", append(lifeCommands(), task("s", OpSnapshot, Task{Snapshot: "one"})), task("x", OpReinstall, Task{}), ErrLocked, "a snapshot of"},
		{"stop while locked", append(lifeCommands(), task("s", OpSnapshot, Task{Snapshot: "one"})), SetDesired{ID: 101, Desired: WantStopped}, ErrLocked, "operation s"},
		{"keep what is no path", lifeCommands(), task("x", OpReinstall, Task{Keep: []string{"/var/../etc"}}), ErrInvalid, "cannot be kept"},
		{"a clone of that name", lifeCommands(), BeginTask{
			Operation: Operation{ID: "x", Kind: OpClone, Container: 101, From: "h1", Generation: 1, Task: &Task{}},
			Clone:     Container{Name: "ct101", Limits: Limits{RAM: gib}},
		}, ErrConflict, "is taken"},
		{"suspend a stopped one", []Command{create(101, "h1")}, SetDesired{ID: 101, Desired: WantSuspended}, ErrConflict, "nothing to suspend"},
		{"start from the trash", trash, SetDesired{ID: 101, Desired: WantRunning}, ErrConflict, "trash restore 101"},
		{"set in the trash", trash, SetContainer{ID: 101, Labels: map[string]string{"a": "b"}}, ErrConflict, "in the trash"},
		{"a task in the trash", trash, task("x", OpSnapshot, Task{Snapshot: "one"}), ErrConflict, "in the trash"},
		{"the old name is taken", slices.Concat(trash, []Command{CreateContainer{Container: Container{Name: "ct101", Host: "h2", Template: "deb", Limits: Limits{RAM: gib}}}}), RestoreContainer{ID: 101}, ErrConflict, "taken"},
		{"its room is taken", slices.Concat(trash, []Command{CreateContainer{Container: Container{Host: "h1", Template: "deb", Limits: Limits{RAM: 4 * gib}}}}), RestoreContainer{ID: 101}, ErrNoFit, "no room"},
	})
}

func TestSnapshotAndSwitch(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), lifeCommands()...)
	s = must(t, s, task("s", OpSnapshot, Task{Snapshot: "one", Memory: true, Text: "before"}))
	if op := s.ActiveTask(101); op == nil || op.ID != "s" || s.ActiveMigration(101) != nil {
		t.Fatalf("under way is %+v", op)
	}
	s = must(t, s, EndTask{Operation: "s", Bytes: 7, At: at(5)})
	unchanged(t, s, EndTask{Operation: "s", Error: "late", At: at(6)})
	c := s.Container(101)
	if len(c.Snapshots) != 1 || c.Snapshots[0] != (Snapshot{"one", "before", true, 7, digest("a"), at(5)}) || c.Operation != "" || s.Operation("s").Status != OpDone {
		t.Fatalf("it is %+v", c)
	}
	// The template's name moves on: the snapshot still needs the old tree.
	s = must(t, s, task("r", OpReinstall, Task{Template: "deb"}), EndTask{Operation: "r", At: at(6)})
	s = must(t, s, PutTemplate{Template{Name: "deb", Digest: digest("b"), Init: []string{"/sbin/init"}, Hosts: []string{"h1"}}})
	s = must(t, s, task("r2", OpReinstall, Task{Template: "deb"}), EndTask{Operation: "r2", At: at(6)})
	if c = s.Container(101); c.Digest != digest("b") || s.TemplateByDigest(digest("a")) == nil {
		t.Fatalf("it lies on %s, the snapshot's template is %+v", c.Digest, s.TemplateByDigest(digest("a")))
	}
	epoch := c.Epoch
	s = must(t, s, SetDesired{ID: 101, Desired: WantStopped}, task("w", OpSwitch, Task{Snapshot: "one"}), EndTask{Operation: "w", At: at(7)})
	if c = s.Container(101); c.Digest != digest("a") || c.Desired != WantRunning || c.State != Suspended || c.Epoch <= epoch {
		t.Fatalf("after the switch it is %+v", c)
	}
	s = must(t, s, task("b", OpReinstall, Task{Template: "deb"}), EndTask{Operation: "b", At: at(8)})
	s = must(t, s, task("d", OpDropSnapshot, Task{Snapshot: "one"}), EndTask{Operation: "d", At: at(8)})
	if c = s.Container(101); len(c.Snapshots) != 0 || s.TemplateByDigest(digest("a")) != nil {
		t.Errorf("it has %+v, and the template is %+v", c.Snapshots, s.TemplateByDigest(digest("a")))
	}
	s = must(t, s, task("e", OpSnapshot, Task{Snapshot: "two"}), EndTask{Operation: "e", Error: "the disk is full", At: at(9)})
	if op := s.Operation("e"); op.Status != OpFailed || op.Error == "" || len(s.Container(101).Snapshots) != 0 {
		t.Errorf("a failed one left %+v", s.Container(101))
	}
}

func TestClone(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), lifeCommands()...)
	begin := task("c", OpClone, Task{})
	begin.Clone = Container{Name: "two", Host: "h3", Limits: Limits{RAM: gib}, Desired: WantRunning}
	s, op := apply[*Operation](t, s, begin)
	two := s.Find("two")
	if two == nil || two.Host != "h1" || two.Operation != "c" || op.Task.Clone != two.ID || two.UIDBase == s.Container(101).UIDBase {
		t.Fatalf("%+v makes %+v", op, two)
	}
	if s.ActiveTask(two.ID) != nil || s.ActiveTask(101) == nil {
		t.Error("the operation is to be carried out on the wrong container")
	}
	done := must(t, s, EndTask{Operation: "c", At: at(5)})
	if two := done.Find("two"); two.Operation != "" || two.Desired != WantRunning || done.Container(101).Operation != "" {
		t.Errorf("it is %+v", two)
	}
	failed := must(t, s, EndTask{Operation: "c", Error: "the disk is full", At: at(5)})
	if two := failed.Find("two"); two.Operation != "" || two.Desired != WantDestroyed || failed.Container(101).Desired != WantRunning {
		t.Errorf("after a failure it is %+v", two)
	}
}

func TestTrash(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), lifeCommands()...)
	s = must(t, s, TrashContainer{101, at(5)})
	unchanged(t, s, TrashContainer{101, at(6)})
	c := s.Container(101)
	if !c.InTrash() || c.Desired != WantStopped || s.Find("ct101") != nil || s.Find("101") != c {
		t.Fatalf("it is %+v", c)
	}
	if r := s.Reserved("h1"); r != (Resources{Disk: 10 * gib}) {
		t.Errorf("in the trash it reserves %+v", r)
	}
	var b strings.Builder
	if err := s.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	if again, err := ReadState(strings.NewReader(b.String())); err != nil || !again.Container(101).InTrash() || again.Find("ct101") != nil {
		t.Errorf("a snapshot of the state forgets the trash: %v", err)
	}
	s = must(t, s, CreateContainer{Container: Container{Name: "ct101", Host: "h1", Template: "deb", Limits: Limits{RAM: gib}}})
	s = must(t, s, RestoreContainer{ID: 101, Name: "back"})
	if c := s.Find("back"); c == nil || c.InTrash() || c.ID != 101 || s.Reserved("h1").RAM != 2*gib {
		t.Errorf("back is %+v", c)
	}
	s = must(t, s, TrashContainer{101, at(7)}, SetDesired{ID: 101, Desired: WantDestroyed}, RemoveContainer{101, "h1", 1})
	if s.Container(101) != nil {
		t.Error("it cannot be deleted from the trash")
	}
}

func TestSuspendFails(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), lifeCommands()...)
	s = must(t, s, SetDesired{ID: 101, Desired: WantSuspended})
	s = must(t, s, ReportContainer{ID: 101, Host: "h1", Generation: 1, State: Running, Detail: "it has a BPF program open", Resumed: true})
	if c := s.Container(101); c.Desired != WantRunning || c.Detail == "" {
		t.Errorf("it is %+v", c)
	}
	s = must(t, s, SetDesired{ID: 101, Desired: WantSuspended}, ReportContainer{ID: 101, Host: "h1", Generation: 1, State: Suspended})
	if c := s.Container(101); c.Desired != WantSuspended || c.State != Suspended {
		t.Errorf("it is %+v", c)
	}
}
