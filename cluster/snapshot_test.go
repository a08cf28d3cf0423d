package cluster

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func fullState(t testing.TB) *State {
	s := must(t, NewState(), threeHosts()...)
	s = must(t, s, create(0, "h1"), create(200, "h2"), create(0, "h3"))
	s = must(t, s, PutTemplate{Template{Name: "deb", Digest: digest("b")}}) // the old one stays by digest
	s = must(t, s, begin("m1", 101, "h1", "h2", 1), CommitMigration{"m1"}, FinishMigration{Operation: "m1", Result: MoveResult{To: "h2"}})
	s = must(t, s, begin("m2", 102, "h3", "h1", 1))
	s = must(t, s, BeginPlan{Operation{ID: "d", Kind: OpDrain, Host: "h3", Steps: []Move{{Container: 102, Operation: "m2"}}}})
	s = must(t, s, SetPolicy{Policy{Placement: Pack, CPUPercent: 200}}, SetHost{Name: "h3", Reserve: &Resources{RAM: gib}})
	return must(t, s, SetDesired{ID: 200, Desired: WantDestroyed}, RemoveContainer{200, "h2", 1})
}

func TestSnapshot(t *testing.T) {
	for name, s := range map[string]*State{"empty": NewState(), "full": fullState(t)} {
		t.Run(name, func(t *testing.T) {
			text := dump(t, s)
			got, err := ReadState(strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			if again := dump(t, got); again != text {
				t.Errorf("it came back as\n%s, was\n%s", again, text)
			}
		})
	}
}

// What is not in the snapshot's lists must survive too: the restored state goes on exactly as the original.
func TestRestoredStateGoesOn(t *testing.T) {
	s := fullState(t)
	restored, err := ReadState(strings.NewReader(dump(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []Command{
		create(0, "h3"), create(200, "h3"),
		CommitMigration{"m2"},
		TemplateOn{digest("a"), "h2"},
		RemoveHost{Name: "h1"},
		create(200, "h3"),
		FinishMigration{Operation: "m2", At: at(9)},
	} {
		a, ra, ea := s.Apply(c)
		b, rb, eb := restored.Apply(c)
		if (ea == nil) != (eb == nil) || !reflect.DeepEqual(ra, rb) {
			t.Errorf("%T: original %v %v, restored %v %v", c, ra, ea, rb, eb)
		}
		s, restored = a, b
	}
	if dump(t, s) != dump(t, restored) {
		t.Error("they drifted apart")
	}
}

func TestReadStateBadInput(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		kind error
	}{
		"nothing":    {"", nil},
		"no JSON":    {"hello", nil},
		"no version": {"{}", ErrInvalid},
		"newer":      {`{"version": 2}`, ErrNewer},
		"cut off":    {dump(t, fullState(t))[:300], nil},
	} {
		s, err := ReadState(strings.NewReader(tc.text))
		if err == nil || s != nil || (tc.kind != nil && !errors.Is(err, tc.kind)) {
			t.Errorf("%s: read %v, %v", name, s, err)
		}
	}
	s, err := ReadState(strings.NewReader(`{"version": 1, "hosts": [null]}`))
	if err != nil || len(s.Hosts()) != 0 {
		t.Errorf("null in a list: %v, %v", s, err)
	}
	if _, ct := apply[*Container](t, must(t, s, threeHosts()...), create(0, "h1")); ct.ID != FirstCTID {
		t.Errorf("a snapshot without a counter led to CTID %d", ct.ID)
	}
}
