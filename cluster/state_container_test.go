package cluster

import (
	"fmt"
	"maps"
	"testing"
)

func TestCreateFillsIn(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	c := create(0, "h2")
	c.Container.Labels = map[string]string{"a": "1", "none": ""}
	c.Container.State, c.Container.Operation, c.Container.Restarted = Running, "forged", 9 // not the caller's to say
	s, ct := apply[*Container](t, s, c)
	want := Container{
		ID: 101, Name: "ct101", Hostname: "ct101", Host: "h2", Generation: 1, Epoch: 1, Desired: WantStopped, State: Pending,
		Template: "deb", Digest: digest("a"), Limits: Limits{RAM: gib, MilliCPU: 1000, Disk: 10 * gib, CPUUnits: 1024},
		Addresses: []string{"10.77.0.10/24"}, MAC: "02:76:7a:00:00:65", UIDBase: 1048576,
		Labels: map[string]string{"a": "1"}, Created: at(3),
	}
	if got, want := fmt.Sprintf("%+v", *ct), fmt.Sprintf("%+v", want); got != want {
		t.Errorf("created\n%s, want\n%s", got, want)
	}
	if s.Container(101) != ct || s.Find("101") != ct || s.Find("ct101") != ct || s.Find("nope") != nil || s.Find("102") != nil {
		t.Error("it is not found by id and name")
	}
	if r := s.Reserved("h2"); r != (Resources{MilliCPU: 1000, RAM: gib, Disk: 10 * gib, Containers: 1}) {
		t.Errorf("reserved %+v", r)
	}
	if f := s.Free("h2"); f != (Resources{MilliCPU: 3000, RAM: 3 * gib, Disk: 90 * gib, Network: unlimited, Containers: unlimited - 1, Guaranteed: 4 * gib}) {
		t.Errorf("free %+v", f)
	}
	if f := s.Free("nowhere"); f != (Resources{}) {
		t.Errorf("an unknown host has %+v free", f)
	}
	_, ct2 := apply[*Container](t, s, create(0, "h1"))
	if ct2.ID != 102 || ct2.UIDBase != 1048576+65536 || ct2.Addresses[0] != "10.77.0.11/24" {
		t.Errorf("the second one is %+v", ct2)
	}
}

func TestCTIDs(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	small := func(id int, name string) CreateContainer {
		c := create(id, "h1")
		c.Container.Limits = Limits{RAM: 64 * mib}
		c.Container.Name = name
		return c
	}
	s = must(t, s, small(0, ""), small(103, ""), small(500, "ct104"))
	for _, want := range []int{102, 105, 106} { // 103 is taken, the name ct104 too
		var ct *Container
		if s, ct = apply[*Container](t, s, small(0, "")); ct.ID != want {
			t.Errorf("got CTID %d, want %d", ct.ID, want)
		}
	}
	s = must(t, s, SetDesired{ID: 106, Desired: WantDestroyed}, RemoveContainer{106, "h1", 1})
	s, ct := apply[*Container](t, s, small(0, ""))
	if ct.ID != 107 {
		t.Errorf("a CTID was used again: %d", ct.ID)
	}
	g := ct.Generation
	s = must(t, s, begin("m", 107, "h1", "h2", g), CommitMigration{"m"}, FinishMigration{Operation: "m"},
		SetDesired{ID: 107, Desired: WantDestroyed}, RemoveContainer{107, "h2", g + 1})
	if _, ct = apply[*Container](t, s, small(107, "")); ct.Generation <= g+1 {
		t.Errorf("a CTID that is used again starts with generation %d, a forgotten copy had %d", ct.Generation, g+1)
	}
}

func TestCreateAddresses(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	for _, tc := range []struct{ ip, want string }{
		{"", "[10.77.0.10/24]"},
		{"auto", "[10.77.0.10/24]"},
		{"none", "[]"},
		{"10.77.0.20", "[10.77.0.20/24]"},
		{"10.77.0.10/24", "[10.77.0.10/24]"},
	} {
		c := create(0, "h1")
		c.IP = tc.ip
		if _, ct := apply[*Container](t, s, c); fmt.Sprint(ct.Addresses) != tc.want {
			t.Errorf("ip %q gave %v, want %s", tc.ip, ct.Addresses, tc.want)
		}
	}
}

func TestPoolRunsOut(t *testing.T) {
	s := must(t, NewState(), threeHosts()...)
	c := create(0, "h1")
	c.Container.Limits = Limits{RAM: 4 * mib}
	for range 11 {
		s = must(t, s, c)
	}
	if _, _, err := s.Apply(c); err == nil {
		t.Fatal("a twelfth address was found in a pool of eleven")
	}
	s = must(t, s, SetDesired{ID: 103, Desired: WantDestroyed}, RemoveContainer{103, "h1", 1})
	if _, ct := apply[*Container](t, s, c); ct.Addresses[0] != "10.77.0.12/24" || ct.UIDBase != 1048576+2*65536 {
		t.Errorf("the freed address and uid range were not given out again: %v %d", ct.Addresses, ct.UIDBase)
	}
}

func TestWithoutPool(t *testing.T) {
	s := must(t, NewState(), InitCluster{Settings{ID: "c"}, testHost(1)}, PutTemplate{Template{Name: "deb", Digest: digest("a")}})
	if _, ct := apply[*Container](t, s, create(0, "h1")); len(ct.Addresses) != 0 {
		t.Errorf("addresses %v without a pool", ct.Addresses)
	}
	c := create(0, "h1")
	c.IP = "auto"
	if _, _, err := s.Apply(c); err == nil {
		t.Error("an address was found without a pool")
	}
}

func TestCreateRefusals(t *testing.T) {
	with := func(change func(*CreateContainer)) CreateContainer {
		c := create(0, "h1")
		change(&c)
		return c
	}
	ip := func(a string) CreateContainer { return with(func(c *CreateContainer) { c.IP = a }) }
	limits := func(l Limits) CreateContainer { return with(func(c *CreateContainer) { c.Container.Limits = l }) }
	named := func(n string) CreateContainer { return with(func(c *CreateContainer) { c.Container.Name = n }) }
	one := []Command{create(101, "h1")}
	testRefusals(t, []refused{
		{"CTID too low", nil, create(100, "h1"), ErrInvalid, "100"},
		{"CTID negative", nil, create(-1, "h1"), ErrInvalid, "-1"},
		{"CTID too high", nil, create(1<<24, "h1"), ErrInvalid, "CTID"},
		{"CTID taken", one, create(101, "h2"), ErrConflict, "101"},
		{"name taken", one, named("ct101"), ErrConflict, `"ct101"`},
		{"name digits", nil, named("123"), ErrInvalid, "CTID"},
		{"name hostile", nil, named("../x"), ErrInvalid, "no name"},
		{"name upper case", nil, named("Web"), ErrInvalid, "lower-case"},
		{"name long", nil, named(fmt.Sprintf("%064d", 0)), ErrInvalid, "63"},
		{"hostname", nil, with(func(c *CreateContainer) { c.Container.Hostname = "a b" }), ErrInvalid, "host name"},
		{"template unknown", nil, with(func(c *CreateContainer) { c.Container.Template = "suse" }), ErrNotFound, `"suse"`},
		{"digest unknown", nil, with(func(c *CreateContainer) { c.Container.Digest = digest("f") }), ErrNotFound, "template"},
		{"born destroyed", nil, with(func(c *CreateContainer) { c.Container.Desired = WantDestroyed }), ErrInvalid, "destroyed"},
		{"host unknown", nil, create(0, "h9"), ErrNotFound, `"h9"`},
		{"host cordoned", []Command{SetHostState{Name: "h1", State: HostCordoned}}, create(0, "h1"), ErrNoFit, "cordoned"},
		{"no memory at all", nil, limits(Limits{}), ErrInvalid, "4M"},
		{"too little memory", nil, limits(Limits{RAM: 4*mib - 1}), ErrInvalid, "at least 4M"},
		{"negative swap", nil, limits(Limits{RAM: gib, Swap: -1}), ErrInvalid, "swap"},
		{"negative cpu", nil, limits(Limits{RAM: gib, MilliCPU: -1}), ErrInvalid, "cpus"},
		{"negative disk", nil, limits(Limits{RAM: gib, Disk: -1}), ErrInvalid, "disk"},
		{"cpu units", nil, limits(Limits{RAM: gib, CPUUnits: 1}), ErrInvalid, "cpu units"},
		{"soft above hard", nil, limits(Limits{RAM: gib, SoftRAM: gib + 1}), ErrInvalid, "soft limit"},
		{"mask and count", nil, limits(Limits{RAM: gib, CPUMask: "0", CPUCount: 1}), ErrInvalid, "give one of them"},
		{"mask no list", nil, limits(Limits{RAM: gib, CPUMask: "0-"}), ErrInvalid, "no cpu mask"},
		{"mask backwards", nil, limits(Limits{RAM: gib, CPUMask: "3-1"}), ErrInvalid, "no cpu mask"},
		{"mask huge", nil, limits(Limits{RAM: gib, CPUMask: "0-8192"}), ErrInvalid, "no cpu mask"},
		{"numa no list", nil, limits(Limits{RAM: gib, NUMANodes: "x"}), ErrInvalid, "NUMA"},
		{"negative count", nil, limits(Limits{RAM: gib, CPUCount: -1}), ErrInvalid, "cpus to see"},
		{"few processes", nil, limits(Limits{RAM: gib, PIDs: 3}), ErrInvalid, "at least 8"},
		{"io weight", nil, limits(Limits{RAM: gib, IOWeight: 1001}), ErrInvalid, "weight of I/O"},
		{"read rate", nil, limits(Limits{RAM: gib, ReadRate: 1}), ErrInvalid, "reading from"},
		{"write rate", nil, limits(Limits{RAM: gib, WriteRate: -1}), ErrInvalid, "writing to"},
		{"iops", nil, limits(Limits{RAM: gib, ReadIOPS: -1}), ErrInvalid, "operations per second"},
		{"rate inwards", nil, limits(Limits{RAM: gib, NetIn: 100}), ErrInvalid, "network to"},
		{"rate outwards", nil, limits(Limits{RAM: gib, NetOut: -1}), ErrInvalid, "network from"},
		{"too much memory", nil, limits(Limits{RAM: 5 * gib}), ErrNoFit, "memory: needs 5G, 4G free"},
		{"too much memory beside others", one, limits(Limits{RAM: 3*gib + 1}), ErrNoFit, "memory"},
		{"too many cpus", nil, limits(Limits{RAM: gib, MilliCPU: 4001}), ErrNoFit, "cpu"},
		{"too much disk", nil, limits(Limits{RAM: gib, Disk: 101 * gib}), ErrNoFit, "disk"},
		{"huge", nil, limits(Limits{RAM: 1<<63 - 1, MilliCPU: 1<<63 - 1, Disk: 1<<63 - 1}), ErrNoFit, "memory"},
		{"ip no address", nil, ip("ten"), ErrInvalid, "no IP address"},
		{"ip outside", nil, ip("10.78.0.5"), ErrInvalid, "not in the pool"},
		{"ip other family", nil, ip("fd00::5"), ErrInvalid, "not in the pool"},
		{"ip mapped", nil, ip("::ffff:10.77.0.50"), ErrInvalid, "not in the pool"},
		{"ip wrong length", nil, ip("10.77.0.50/16"), ErrInvalid, "prefix length"},
		{"ip gateway", nil, ip("10.77.0.1"), ErrInvalid, "gateway"},
		{"ip network", nil, ip("10.77.0.0"), ErrInvalid, "network's own"},
		{"ip broadcast", nil, ip("10.77.0.255"), ErrInvalid, "broadcast"},
		{"ip of a host", []Command{UpdateHost{Name: "h2", Address: "10.77.0.15:1"}}, ip("10.77.0.15"), ErrConflict, `host "h2"`},
		{"ip before the first", nil, ip("10.77.0.9"), ErrInvalid, "10.77.0.10 to 10.77.0.20"},
		{"ip after the last", nil, ip("10.77.0.21"), ErrInvalid, "10.77.0.10 to 10.77.0.20"},
		{"ip taken", one, ip("10.77.0.10"), ErrConflict, "container 101"},
	})
}

func TestSetDesired(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"))
	unchanged(t, s, SetDesired{ID: 101, Desired: WantStopped})
	s, ct := apply[*Container](t, s, SetDesired{ID: 101, Desired: WantRunning})
	if ct.Desired != WantRunning || ct.Epoch != 2 {
		t.Errorf("start gave %+v", ct)
	}
	s, ct = apply[*Container](t, s, SetDesired{ID: 101, Desired: WantRunning, Restart: true})
	if ct.Epoch != 3 {
		t.Errorf("restart gave epoch %d", ct.Epoch)
	}
	locked := must(t, s, begin("m", 101, "h1", "h2", 1))
	unchanged(t, locked, SetDesired{ID: 101, Desired: WantRunning})
	s = must(t, s, SetDesired{ID: 101, Desired: WantDestroyed})
	unchanged(t, s, SetDesired{ID: 101, Desired: WantDestroyed})
}

func TestSetContainer(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"))
	name, host := "web", "Web.Example"
	limits := Limits{RAM: 4 * gib, CPUUnits: 2048}
	old := s.Container(101)
	s, ct := apply[*Container](t, s, SetContainer{
		ID: 101, Name: &name, Hostname: &host, Limits: &limits, Labels: map[string]string{"tier": "1", "x": "2"},
	})
	if ct.Name != name || ct.Hostname != host || ct.Limits != limits || ct.Labels["tier"] != "1" || s.Find("web") != ct || s.Find("ct101") != nil {
		t.Errorf("set gave %+v", ct)
	}
	if old.Name != "ct101" || old.Limits.RAM != gib {
		t.Error("the old container changed")
	}
	unchanged(t, s, SetContainer{ID: 101, Name: &name, Limits: &limits, Labels: map[string]string{"nope": ""}})
	s, ct = apply[*Container](t, s, SetContainer{ID: 101, Labels: map[string]string{"tier": "", "y": "3"}})
	if !maps.Equal(ct.Labels, map[string]string{"x": "2", "y": "3"}) {
		t.Errorf("labels are %v", ct.Labels)
	}

	s = must(t, s, UpdateHost{Name: "h1", Capacity: Resources{MilliCPU: 4000, RAM: gib, Disk: 100 * gib}}) // the host has less than it promised
	less := Limits{RAM: 3 * gib, CPUUnits: 1024}
	if _, ct = apply[*Container](t, s, SetContainer{ID: 101, Limits: &less}); ct.Limits != less {
		t.Error("shrinking on an overcommitted host did not work")
	}
	more := Limits{RAM: 3 * gib, MilliCPU: 500, CPUUnits: 1024}
	if _, _, err := s.Apply(SetContainer{ID: 101, Limits: &more}); err != nil {
		t.Errorf("growing what is free on an overcommitted host: %v", err)
	}
}

func TestReportContainer(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"))
	s, ct := apply[*Container](t, s, ReportContainer{ID: 101, Host: "h1", Generation: 1, State: Failed, Detail: "no init"})
	if ct.State != Failed || ct.Detail != "no init" || ct.Restarted != 0 {
		t.Errorf("reported %+v", ct)
	}
	unchanged(t, s, ReportContainer{ID: 101, Host: "h1", Generation: 1, State: Failed, Detail: "no init"})
	_, ct = apply[*Container](t, s, ReportContainer{ID: 101, Host: "h1", Generation: 1, State: Running, Restarted: true})
	if ct.State != Running || ct.Detail != "" || ct.Restarted != 1 {
		t.Errorf("reported %+v", ct)
	}
}

func TestReturnOfAHostIsCountedOnce(t *testing.T) {
	report := func(state ContainerState, restarted bool) Command {
		return ReportContainer{ID: 101, Host: "h1", Generation: 1, State: state, Detail: "its host went down", Restarted: restarted}
	}
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"), report(Running, false))
	for range 2 { // the first answer was lost
		if s = must(t, s, report(Starting, true)); s.Container(101).Restarted != 1 {
			t.Errorf("it counts %d restarts", s.Container(101).Restarted)
		}
	}
	s = must(t, s, report(Running, false), ReportContainer{ID: 101, Host: "h1", Generation: 1, State: Running})
	if ct := s.Container(101); ct.Detail != "its host went down" {
		t.Errorf("while it runs it says %q", ct.Detail)
	}
	s = must(t, s, report(Running, false), report(Starting, true))
	if ct := s.Container(101); ct.Restarted != 2 || ct.Lost != "" {
		t.Errorf("after the second time it counts %d restarts, the last by %q", ct.Restarted, ct.Lost)
	}
}

func TestContainerRefusals(t *testing.T) {
	one := []Command{create(101, "h1"), create(102, "h1")}
	gone := append(one[:2:2], SetDesired{ID: 101, Desired: WantDestroyed})
	moving := append(one[:2:2], begin("m", 101, "h1", "h2", 1))
	moved := append(moving[:3:3], CommitMigration{"m"})
	str := func(s string) *string { return &s }
	lim := func(l Limits) *Limits { l.CPUUnits = 1024; return &l }
	testRefusals(t, []refused{
		{"desired: unknown", nil, SetDesired{ID: 101, Desired: WantRunning}, ErrNotFound, "101"},
		{"desired: nonsense", one, SetDesired{ID: 101, Desired: "flying"}, ErrInvalid, "flying"},
		{"restart to stopped", one, SetDesired{ID: 101, Desired: WantStopped, Restart: true}, ErrInvalid, "restart"},
		{"destroy taken back", gone, SetDesired{ID: 101, Desired: WantRunning}, ErrConflict, "destroyed"},
		{"stop while migrating", moving, SetDesired{ID: 101, Desired: WantRunning}, ErrLocked, "operation m"},
		{"destroy while migrating", moving, SetDesired{ID: 101, Desired: WantDestroyed}, ErrLocked, "operation m"},
		{"destroy before the move has ended", moved, SetDesired{ID: 101, Desired: WantDestroyed}, ErrLocked, "operation m"},
		{"set: unknown", nil, SetContainer{ID: 101}, ErrNotFound, "101"},
		{"set while migrating", moving, SetContainer{ID: 101, Name: str("x")}, ErrLocked, "operation m"},
		{"set destroyed", gone, SetContainer{ID: 101, Name: str("x")}, ErrConflict, "destroyed"},
		{"set taken name", one, SetContainer{ID: 101, Name: str("ct102")}, ErrConflict, "102"},
		{"set bad name", one, SetContainer{ID: 101, Name: str("")}, ErrInvalid, "no name"},
		{"set bad hostname", one, SetContainer{ID: 101, Hostname: str("-")}, ErrInvalid, "host name"},
		{"set too little", one, SetContainer{ID: 101, Limits: lim(Limits{RAM: 1})}, ErrInvalid, "memory"},
		{"set too much", one, SetContainer{ID: 101, Limits: lim(Limits{RAM: 3*gib + 1})}, ErrNoFit, "memory"},
		{
			"all or nothing", one,
			SetContainer{ID: 101, Name: str("fine"), Labels: map[string]string{"a": "b"}, Limits: lim(Limits{RAM: 9 * gib})},
			ErrNoFit, "memory",
		},
		{"report: unknown", nil, ReportContainer{ID: 101, Host: "h1", Generation: 1, State: Running}, ErrNotFound, "101"},
		{"report: not the owner", one, ReportContainer{ID: 101, Host: "h2", Generation: 1, State: Running}, ErrStale, `"h1"`},
		{"report: old generation", moved, ReportContainer{ID: 101, Host: "h1", Generation: 1, State: Running}, ErrStale, "generation 2"},
		{"report: unknown state", one, ReportContainer{ID: 101, Host: "h1", Generation: 1, State: Unknown}, ErrInvalid, "unknown"},
		{"remove: unknown", nil, RemoveContainer{101, "h1", 1}, ErrNotFound, "101"},
		{"remove: wanted", one, RemoveContainer{101, "h1", 1}, ErrConflict, "stopped"},
		{"remove: not the owner", gone, RemoveContainer{101, "h2", 1}, ErrStale, `"h1"`},
		{"remove: other generation", gone, RemoveContainer{101, "h1", 2}, ErrStale, "generation 1"},
	})
}
