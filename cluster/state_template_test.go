package cluster

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestPutTemplate(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	in := Template{Name: "busybox", Digest: digest("b"), Hosts: []string{"h3", "h1", "h3"}}
	s, tm := apply[*Template](t, s, PutTemplate{in})
	if !slices.Equal(tm.Hosts, []string{"h1", "h3"}) || !slices.Equal(tm.Init, []string{"/sbin/init"}) {
		t.Errorf("stored %+v", tm)
	}
	if s.Template("busybox") != tm || s.TemplateByDigest(digest("b")) != tm || len(s.Templates()) != 2 {
		t.Error("the template is not found by name, digest and list")
	}
	s, tm = apply[*Template](t, s, PutTemplate{Template{Name: "busybox", Digest: digest("b"), Hosts: []string{"h2"}}})
	if !slices.Equal(tm.Hosts, []string{"h1", "h2", "h3"}) {
		t.Errorf("the same digest again forgot who has it: %v", tm.Hosts)
	}
	s, tm = apply[*Template](t, s, PutTemplate{Template{Name: "bb", Digest: digest("b")}})
	if len(tm.Hosts) != 3 {
		t.Errorf("a second name does not know who has the digest: %v", tm.Hosts)
	}
	must(t, s, DropTemplate{"bb"}, DropTemplate{"busybox"})
}

func TestTemplateOn(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	s = must(t, s, PutTemplate{Template{Name: "deb-too", Digest: digest("a")}})
	s, tm := apply[*Template](t, s, TemplateOn{digest("a"), "h2"})
	if !slices.Equal(tm.Hosts, []string{"h1", "h2"}) || !slices.Equal(s.Template("deb-too").Hosts, tm.Hosts) {
		t.Errorf("copies are on %v and %v", tm.Hosts, s.Template("deb-too").Hosts)
	}
	unchanged(t, s, TemplateOn{digest("a"), "h2"})
}

func TestReplacedTemplateIsKeptWhileUsed(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	s = must(t, s, create(101, "h1"), PutTemplate{Template{Name: "deb", Digest: digest("b"), Hosts: []string{"h2"}}})
	if s.Template("deb").Digest != digest("b") || len(s.Templates()) != 1 {
		t.Error("the name does not mean the new digest")
	}
	if old := s.TemplateByDigest(digest("a")); old == nil || !slices.Equal(old.Hosts, []string{"h1"}) {
		t.Errorf("the old template is %+v", old)
	}
	s = must(t, s, TemplateOn{digest("a"), "h3"})
	if old := s.TemplateByDigest(digest("a")); !slices.Equal(old.Hosts, []string{"h1", "h3"}) {
		t.Errorf("a copy of the old template was not noted: %v", old.Hosts)
	}

	back := must(t, s, PutTemplate{Template{Name: "deb", Digest: digest("a")}})
	if got := back.Template("deb"); got.Digest != digest("a") || !slices.Equal(got.Hosts, []string{"h1", "h3"}) {
		t.Errorf("putting the old one back gave %+v", got)
	}
	if back.TemplateByDigest(digest("b")) != nil {
		t.Error("an unused digest without a name is still known")
	}

	s = must(t, s, SetDesired{ID: 101, Desired: WantDestroyed}, RemoveContainer{101, "h1", 1})
	if s.TemplateByDigest(digest("a")) != nil {
		t.Error("the old template outlived its last container")
	}
}

// A copy goes when nothing on its host lies on it and another host has it.
func TestTemplateOff(t *testing.T) {
	base := must(t, NewState(), threeHosts()...)
	base = must(t, base, TemplateOn{digest("a"), "h2"}, create(101, "h1"))
	s := must(t, base, TemplateOff{digest("a"), "h2"})
	if tm := s.TemplateByDigest(digest("a")); !slices.Equal(tm.Hosts, []string{"h1"}) || len(base.TemplateByDigest(digest("a")).Hosts) != 2 {
		t.Errorf("copies are on %v", tm.Hosts)
	}
	unchanged(t, s, TemplateOff{digest("a"), "h2"})
	unchanged(t, s, TemplateOff{digest("e"), "h2"}) // not known
	move := BeginMigration{Operation{ID: "m", Kind: OpMigrate, Container: 101, Generation: 1, From: "h1", To: "h2", Mode: ModeOffline, Started: at(1)}}
	deb2 := PutTemplate{Template{Name: "deb2", Digest: digest("b"), Hosts: []string{"h1", "h2"}}}
	reinstall := BeginTask{Operation: Operation{
		ID: "r", Kind: OpReinstall, Container: 101, Generation: 1, From: "h1", Task: &Task{Template: "deb2"}, Started: at(1),
	}}
	snapshot := BeginTask{Operation: Operation{
		ID: "s", Kind: OpSnapshot, Container: 101, Generation: 1, From: "h1", Task: &Task{Snapshot: "one"}, Started: at(1),
	}}
	afterwards := reinstall
	afterwards.Operation.ID, afterwards.Operation.Started = "r2", at(3)
	for name, c := range map[string]struct {
		before []Command
		off    TemplateOff
		why    string
	}{
		"used":       {nil, TemplateOff{digest("a"), "h1"}, "used by"},
		"in trash":   {[]Command{TrashContainer{101, at(1)}}, TemplateOff{digest("a"), "h1"}, "used by"},
		"on the way": {[]Command{move}, TemplateOff{digest("a"), "h2"}, "moves between h1 and h2"},
		"reinstall":  {[]Command{deb2, reinstall}, TemplateOff{digest("b"), "h1"}, "needs it: r"},
		"snapshot": {
			[]Command{deb2, snapshot, EndTask{Operation: "s", At: at(2)}, afterwards, EndTask{Operation: "r2", At: at(4)}},
			TemplateOff{digest("a"), "h1"},
			"used by",
		},
		"last": {
			[]Command{SetDesired{ID: 101, Desired: WantDestroyed}, RemoveContainer{101, "h1", 1}, TemplateOff{digest("a"), "h1"}},
			TemplateOff{digest("a"), "h2"},
			"the last copy of deb",
		},
	} {
		s := must(t, base, c.before...)
		if now, _, err := s.Apply(c.off); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), c.why) || now != s {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTemplateRefusals(t *testing.T) {
	put := func(change func(*Template)) PutTemplate {
		tm := Template{Name: "x", Digest: digest("c")}
		change(&tm)
		return PutTemplate{tm}
	}
	testRefusals(t, []refused{
		{"name", nil, put(func(t *Template) { t.Name = "a/b" }), ErrInvalid, "no name"},
		{"no digest", nil, put(func(t *Template) { t.Digest = "" }), ErrInvalid, "digest"},
		{"short digest", nil, put(func(t *Template) { t.Digest = "sha256:abcd" }), ErrInvalid, "digest"},
		{"upper-case digest", nil, put(func(t *Template) { t.Digest = digest("A") }), ErrInvalid, "digest"},
		{"hostile digest", nil, put(func(t *Template) { t.Digest = "sha256:../../etc" }), ErrInvalid, "digest"},
		{"size", nil, put(func(t *Template) { t.Size = -1 }), ErrInvalid, "size"},
		{"unknown host", nil, put(func(t *Template) { t.Hosts = []string{"h9"} }), ErrNotFound, `"h9"`},
		{"on: unknown digest", nil, TemplateOn{digest("c"), "h1"}, ErrNotFound, "template"},
		{"on: unknown host", nil, TemplateOn{digest("a"), "h9"}, ErrNotFound, `"h9"`},
		{"drop unknown", nil, DropTemplate{"nope"}, ErrNotFound, `"nope"`},
		{"drop used", []Command{create(0, "h1")}, DropTemplate{"deb"}, ErrConflict, "1 containers"},
	})
}
