package cluster

import (
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"testing"
)

// everyCommand holds one of each, with something in it.
func everyCommand() []Command {
	limits, name := Limits{RAM: gib}, "web"
	op := Operation{ID: "m", Kind: OpMigrate, Container: 101, From: "h1", To: "h2", Started: at(1)}
	return []Command{
		InitCluster{Settings: testSettings(), Host: testHost(1)},
		AddHost{Host: testHost(2), TokenID: "t", At: at(1)},
		UpdateHost{Name: "h1", Capacity: Resources{MilliCPU: 1, RAM: 2, Disk: 3}, Labels: map[string]string{"a": "b"}},
		SetHostState{Name: "h1", State: HostCordoned},
		SetVoter{"h1", true},
		RemoveHost{Name: "h1"},
		AddToken{token("t")},
		RevokeToken{"t"},
		PutTemplate{Template{Name: "deb", Digest: digest("a"), Init: []string{"/init"}, Hosts: []string{"h1"}}},
		TemplateOn{digest("a"), "h1"},
		DropTemplate{"deb"},
		create(101, "h1"),
		SetDesired{101, WantRunning, true, 7},
		SetContainer{ID: 101, Limits: &limits, Name: &name},
		ReportContainer{101, "h1", math.MaxUint64, Running, "fine", true, true, true, true, "m"},
		RemoveContainer{101, "h1", 1},
		BeginMigration{op},
		CommitMigration{"m"},
		AbortMigration{"m", "why", at(2), true},
		FinishMigration{"m", MoveResult{BlackoutMS: 1.5, Phases: []Phase{{"dump", 2}}}, at(2)},
		BeginPlan{op},
		StepPlan{Operation: "d", Step: 1, Migration: "m", Status: "done"},
		EndPlan{"d", OpDone, "", at(2)},
		ReportVerdict{101, "h1", 7, Verdict{Blockers: []Blocker{{"12 dockerd", "docker.service", "it has a BPF program open", "stop it", false}}, More: 2}},
		SetPolicy{Policy{Placement: Pack, RAMPercent: 150, Survive: true}},
		SetHost{Name: "h1", Reserve: &Resources{RAM: gib}, Labels: map[string]string{"rack": "7"}, Power: &Power{Method: PowerWOL, MAC: "02:00:00:00:00:01"}},
		BeginTask{Operation: Operation{ID: "t", Kind: OpSnapshot, Task: &Task{Snapshot: "a"}}, IP: "none"},
		EndTask{"t", "why", 7, at(3)},
		TrashContainer{101, at(3)},
		RestoreContainer{101, "back"},
		CreateContainers{Specs: []Container{{Template: "deb", Limits: limits}}, Items: []NewContainer{{Name: "a", Host: "h1"}, {Waits: true, Why: "full"}}, At: at(2)},
		PlaceContainer{ID: 101, Host: "h1", Why: "room", At: at(2)},
		SetPlan{Operation: "d", Status: OpPaused},
		ExtendPlan{Operation: "d", Known: 2, Steps: []Move{{Container: 101}}, Round: &Round{Hosts: []string{"h1"}, Stage: RoundHook}},
		SetAutomation{Automation{Rebalance: true, Imbalance: 10}},
		AddNetwork{Network{Name: "inner", Kind: NetworkOverlay, VNI: 100}},
		DropNetwork{"inner"},
		AddPool{"", AddressPool{Prefix: "fd00::/64", First: "fd00::1", Last: "fd00::ff"}},
		TemplateOff{digest("a"), "h1"},
	}
}

func TestEncodeDecode(t *testing.T) {
	seen := map[Kind]bool{}
	for i, c := range everyCommand() {
		if want := Kind(i + 1); c.Kind()&^Ignorable != want || seen[c.Kind()] {
			t.Errorf("%T has number %d, want %d: numbers in the log must never change", c, c.Kind(), want)
		}
		seen[c.Kind()] = true
		b, err := Encode(c)
		if err != nil {
			t.Fatalf("%T: %v", c, err)
		}
		got, err := Decode(b)
		if err != nil {
			t.Fatalf("%T: %v", c, err)
		}
		if !reflect.DeepEqual(got, c) {
			t.Errorf("%T came back as\n%+v, was\n%+v", c, got, c)
		}
	}
	for k := Kind(1); k < 100; k++ {
		if (decoder(k) != nil) != seen[k] {
			t.Errorf("kind %d is in only one of decoder and this test", k)
		}
	}
}

func TestDecodeBadInput(t *testing.T) {
	entry := func(k Kind, body string) []byte {
		return append(binary.BigEndian.AppendUint16(nil, uint16(k)), body...)
	}
	for name, tc := range map[string]struct {
		entry []byte
		kind  error
	}{
		"empty":    {nil, ErrInvalid},
		"one byte": {[]byte{1}, ErrInvalid},
		"newer":    {entry(999, "{}"), ErrNewer},
		"no JSON":  {entry(kindSetVoter, "what"), nil},
		"no body":  {entry(kindSetVoter, ""), nil},
	} {
		c, err := Decode(tc.entry)
		if err == nil || c != nil || (tc.kind != nil && !errors.Is(err, tc.kind)) {
			t.Errorf("%s: decoded to %v, %v", name, c, err)
		}
	}
	c, err := Decode(entry(999|Ignorable, "whatever"))
	if err != nil || c.Kind() != 999|Ignorable {
		t.Fatalf("an ignorable command: %v, %v", c, err)
	}
	unchanged(t, must(t, NewState(), threeHosts()...), c)
}

func FuzzDecode(f *testing.F) {
	for _, c := range everyCommand() {
		b, err := Encode(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	s := must(f, must(f, NewState(), threeHosts()...), create(101, "h1"), begin("m", 101, "h1", "h2", 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			return
		}
		before := dump(t, s)
		next, _, err := s.Apply(c)
		if after := dump(t, s); before != after {
			t.Errorf("%T changed the old state", c)
		}
		if err != nil && next != s {
			t.Errorf("%T failed (%v) and returned another state", c, err)
		}
		checkInvariants(t, next)
	})
}
