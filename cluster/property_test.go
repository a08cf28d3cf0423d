package cluster

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// checkInvariants checks what must be true of every state that commands can lead to.
func checkInvariants(t interface{ Errorf(string, ...any) }, s *State) {
	addresses, macs, names := map[string]int{}, map[string]int{}, map[string]int{}
	uids := map[uint32]int{}
	taken := func(what string, by, other int) {
		if other != 0 {
			t.Errorf("containers %d and %d share %s", by, other, what)
		}
	}
	reserved := map[string]Resources{}
	if derived := s.containers; !sameTable(derived, rebuilt(s)) {
		t.Errorf("what is derived from the containers is not what one gets from them anew")
	}
	for _, c := range s.Containers() {
		id := c.ID
		if s.Container(id) != c || id < FirstCTID || id > s.highID {
			t.Errorf("container %d is kept as %d, the highest CTID is %d", c.ID, id, s.highID)
		}
		for _, a := range c.Addresses {
			taken("the address "+a, id, addresses[a])
			addresses[a] = id
		}
		taken("the MAC "+c.MAC, id, macs[c.MAC])
		if !c.InTrash() {
			taken("the name "+c.Name, id, names[c.Name])
			names[c.Name] = id
		}
		taken("a uid range", id, uids[c.UIDBase])
		macs[c.MAC], uids[c.UIDBase] = id, id
		if c.UIDBase < 1<<20 || c.UIDBase%65536 != 0 {
			t.Errorf("container %d has uid base %d", id, c.UIDBase)
		}
		if s.hosts[c.Host] == nil && !c.Waits() {
			t.Errorf("container %d is owned by %q, which does not exist", id, c.Host)
		}
		if c.Generation == 0 || c.Epoch == 0 {
			t.Errorf("container %d has generation %d and epoch %d", id, c.Generation, c.Epoch)
		}
		if s.TemplateByDigest(c.Digest) == nil {
			t.Errorf("the template of container %d is gone", id)
		}
		reserved[c.Host] = reserved[c.Host].Add(c.Need())
		checkLock(t, s, c, reserved)
	}
	for _, o := range s.operations {
		if c := s.Container(o.Container); o.Kind == OpMigrate && !o.Final() && (c == nil || c.Operation != o.ID) {
			t.Errorf("migration %s is %s but does not hold container %d", o.ID, o.Status, o.Container)
		}
	}
	checkGroups(t, s)
	for name := range s.hosts {
		if s.Reserved(name) != reserved[name] {
			t.Errorf("host %s has %+v reserved, counted %+v", name, s.Reserved(name), reserved[name])
		}
	}
}

// checkGroups checks that no host has more of a group than any of them allows.
func checkGroups(t interface{ Errorf(string, ...any) }, s *State) {
	on := map[string]map[string]int{}
	add := func(host string, c *Container) {
		if on[host] == nil {
			on[host] = map[string]int{}
		}
		on[host][c.Rules.Group]++
	}
	for _, c := range s.Containers() {
		if c.InTrash() || c.Waits() {
			continue
		}
		add(c.Host, c)
		if o := s.operations[c.Operation]; o != nil && o.To != c.Host {
			add(o.To, c)
		}
	}
	for _, c := range s.Containers() {
		if r := c.Rules; !c.InTrash() && r.MaxPerHost > 0 && on[c.Host][r.Group] > r.MaxPerHost {
			t.Errorf("host %s has %d of group %s, container %d allows %d", c.Host, on[c.Host][r.Group], r.Group, c.ID, r.MaxPerHost)
		}
	}
}

// rebuilt derives everything from the containers once more.
func rebuilt(s *State) table {
	n := *s
	n.containers = newTable()
	for _, c := range s.Containers() {
		n.putContainer(c)
	}
	return n.containers
}

func sameTable(a, b table) bool {
	return sameTree(a.byName, b.byName) && sameTree(a.byHost, b.byHost) && sameTree(a.use, b.use) &&
		sameTree(a.addresses, b.addresses) && sameTree(a.uids, b.uids) && sameTree(a.digests, b.digests) && sameTree(a.groups, b.groups)
}

func sameTree[T any](a, b tree[T]) bool {
	same := a.Len() == b.Len()
	a.Root().Walk(func(k []byte, v T) bool {
		w, ok := b.Get(k)
		same = same && ok && reflect.DeepEqual(v, w)
		return !same
	})
	return same
}

// checkLock checks a container against its migration, and counts what that reserves on the target.
func checkLock(t interface{ Errorf(string, ...any) }, s *State, c *Container, reserved map[string]Resources) {
	if c.Operation == "" {
		return
	}
	o := s.operations[c.Operation]
	switch {
	case o != nil && o.Kind == OpClone && o.Task.Clone == c.ID && !o.Final():
	case o != nil && o.Kind.Local():
		if o.Final() || o.Container != c.ID || c.Host != o.From || c.Generation != o.Generation {
			t.Errorf("container %d (%s, %d) is locked by %+v", c.ID, c.Host, c.Generation, o)
		}
	case o == nil || o.Final() || o.Container != c.ID:
		t.Errorf("container %d is locked by %+v", c.ID, o)
	case o.Status == OpRunning:
		if c.Host != o.From || c.Generation != o.Generation || s.hosts[o.To] == nil {
			t.Errorf("container %d (%s, %d) does not match its migration %+v", c.ID, c.Host, c.Generation, o)
		}
		reserved[o.To] = reserved[o.To].Add(c.Need())
	case c.Host != o.To || c.Generation != o.Generation+1:
		t.Errorf("container %d (%s, %d) does not match its committed migration %+v", c.ID, c.Host, c.Generation, o)
	}
}

// drawCommand draws a command that is often, not always, acceptable.
func drawCommand(t *rapid.T, s *State, step int) Command {
	id := rapid.IntRange(101, 104).Draw(t, "id")
	host := rapid.SampledFrom([]string{"h1", "h2", "h3", "h4"}).Draw(t, "host")
	op := fmt.Sprintf("m%d", rapid.IntRange(0, 40).Draw(t, "op"))
	owner, generation := host, uint64(1)
	if c := s.Container(id); c != nil && rapid.IntRange(0, 9).Draw(t, "forge") < 9 {
		owner, generation = c.Host, c.Generation
		if c.Operation != "" {
			op = c.Operation
			if rapid.Bool().Draw(t, "go on") {
				return rapid.SampledFrom([]Command{
					CommitMigration{op},
					FinishMigration{Operation: op, Result: MoveResult{Restarted: step%2 == 0}, At: at(step)},
					AbortMigration{Operation: op, At: at(step)},
					EndTask{Operation: op, At: at(step)},
				}).Draw(t, "next")
			}
		}
	}
	limits := Limits{
		RAM:      rapid.Int64Range(0, 24).Draw(t, "ram") * 100 * mib,
		MilliCPU: rapid.Int64Range(0, 20).Draw(t, "cpu") * 100, CPUUnits: 1024,
		Disk: rapid.Int64Range(0, 40).Draw(t, "disk") * gib,
	}
	name := rapid.SampledFrom([]string{"", "web", "db", "ct103"}).Draw(t, "name")
	c := create(rapid.SampledFrom([]int{0, 0, id}).Draw(t, "ctid"), host)
	c.Container.Limits, c.Container.Name = limits, name
	c.Container.Rules = Rules{
		Group:     rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "group"),
		Guarantee: rapid.Int64Range(0, 8).Draw(t, "guarantee") * 100 * mib,
	}
	if c.Container.Rules.Group != "" {
		c.Container.Rules.MaxPerHost = rapid.IntRange(0, 2).Draw(t, "max per host")
	}
	room := int64(rapid.IntRange(0, 4).Draw(t, "max containers"))
	c.IP = rapid.SampledFrom([]string{"", "none", "10.77.0.12", "10.77.0.1"}).Draw(t, "ip")
	desired := rapid.SampledFrom([]Desired{WantRunning, WantStopped, WantDestroyed}).Draw(t, "desired")
	tok, plan := fmt.Sprintf("x%d", step%5), fmt.Sprintf("d%d", step/20)
	return rapid.SampledFrom([]Command{
		c, c, c,
		CreateContainers{
			Specs: []Container{c.Container, {Template: "deb", Limits: limits, Desired: WantRunning}},
			Items: []NewContainer{{Spec: step % 3, Host: host, IP: c.IP}, {Name: name, Spec: step % 2, Waits: true}, {Host: host}},
		},
		CreateContainers{
			Specs: []Container{c.Container},
			Items: []NewContainer{{Host: host, IP: c.IP}, {Host: host}, {Name: name, Host: host}, {Host: host}, {Host: host}},
			Parts: [][]int{{3, 2}, {1, 4}, {5}, {3, 1}}[step%4],
		},
		PlaceContainer{ID: id, Host: host, At: at(step)},
		SetDesired{ID: id, Desired: desired, Restart: step%3 == 0},
		SetContainer{ID: id, Limits: &limits, Labels: map[string]string{name: "x"}},
		SetContainer{ID: id, Name: &name},
		SetContainer{ID: id, Rules: &c.Container.Rules},
		SetHost{Name: host, MaxContainers: &room, Reserve: &Resources{RAM: room * 100 * mib}},
		AddNetwork{Network{Name: "inner", Kind: NetworkOverlay, Pools: []AddressPool{{Prefix: "10.9.0.0/24", First: "10.9.0.2", Last: "10.9.0.9"}}}},
		DropNetwork{"inner"},
		AddPool{"", AddressPool{Prefix: "fd00::/64", First: "fd00::1", Last: "fd00::4"}},
		SetContainer{ID: id, IP: &c.IP},
		SetContainer{ID: id, IPAdd: []string{rapid.SampledFrom([]string{autoAddress, autoAddress6, "10.77.0.13", "fd00::2"}).Draw(t, "ip-add")}},
		SetContainer{ID: id, IPDel: []string{"10.77.0.13"}},
		SetPolicy{Policy{Placement: Pack, RAMPercent: 100 + room*20}},
		ReportContainer{ID: id, Host: owner, Generation: generation, State: Running, Restarted: step%4 == 0},
		ReportVerdict{ID: id, Host: owner, Generation: generation, Verdict: NewVerdict(make([]Blocker, step%11))},
		RemoveContainer{id, owner, generation},
		begin(op, id, owner, host, generation), begin(op, id, owner, host, generation),
		CommitMigration{op},
		CommitMigration{op},
		AbortMigration{Operation: op, At: at(step)},
		FinishMigration{Operation: op, Result: MoveResult{Restarted: step%2 == 0}, At: at(step)},
		SetHostState{Name: host, State: rapid.SampledFrom([]HostState{HostActive, HostActive, HostActive, HostCordoned, HostParking}).Draw(t, "state")},
		RemoveHost{Name: host},
		AddToken{Token{ID: tok, Hash: "h", Created: at(step), Expires: at(step + 13)}},
		AddHost{Host: testHost(1 + step%4), TokenID: tok, At: at(step)},
		PutTemplate{Template{Name: "deb", Digest: digest(string("ab"[step%2])), Hosts: []string{host}}},
		TemplateOn{digest("a"), host},
		TemplateOff{digest("a"), host},
		DropTemplate{"deb"},
		BeginPlan{Operation{ID: plan, Kind: OpDrain, Host: host, Steps: make([]Move, 2)}},
		StepPlan{Operation: plan, Step: step % 3, Migration: op, Status: "done"},
		SetPlan{Operation: plan, Status: rapid.SampledFrom([]OperationStatus{OpRunning, OpPaused, OpDone}).Draw(t, "plan")},
		ExtendPlan{Operation: plan, Known: 2, Steps: make([]Move, step%2)},
		EndPlan{plan, OpDone, "", at(step)},
		drawTask(t, Operation{ID: op, Container: id, From: owner, Generation: generation}, c.Container),
		EndTask{Operation: op, Error: name, At: at(step)},
		TrashContainer{id, at(step + 1)},
		RestoreContainer{id, name},
	}).Draw(t, "command")
}

// drawTask draws the beginning of a local operation.
func drawTask(t *rapid.T, op Operation, clone Container) Command {
	op.Kind = rapid.SampledFrom(localKinds()).Draw(t, "kind")
	op.Task = &Task{Snapshot: rapid.SampledFrom([]string{"", "one"}).Draw(t, "snapshot"), Memory: rapid.Bool().Draw(t, "memory")}
	if op.Kind == OpReinstall && rapid.Bool().Draw(t, "other template") {
		op.Task.Template = "deb"
	}
	return BeginTask{Operation: op, Clone: clone}
}

// Whatever commands arrive in whatever order, the invariants hold, refused ones change nothing, older states never
// change, nothing is overcommitted, and a replica that reads commands or a snapshot from the wire is the same.
func TestAnySequenceOfCommands(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewState()
		for _, c := range threeHosts() {
			s, _, _ = s.Apply(c)
		}
		replica := s
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			c := drawCommand(t, s, step)
			before := snapshotOf(t, s)
			next, _, err := s.Apply(c)
			if snapshotOf(t, s) != before {
				t.Fatalf("%T changed the old state", c)
			}
			if err != nil && next != s {
				t.Fatalf("%T was refused (%v) and yet returned another state", c, err)
			}
			checkInvariants(t, next)
			checkRoomFor(t, s, next)
			checkOwners(t, c, s, next)
			replica = sendTo(t, replica, c)
			s = next
		}
		text := snapshotOf(t, s)
		if snapshotOf(t, replica) != text {
			t.Fatal("a replica that read the commands from the wire differs")
		}
		restored, err := ReadState(strings.NewReader(text))
		if err != nil || snapshotOf(t, restored) != text {
			t.Fatalf("the restored snapshot differs (error %v)", err)
		}
	})
}

func snapshotOf(t *rapid.T, s *State) string {
	var b strings.Builder
	if err := s.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func sendTo(t *rapid.T, s *State, c Command) *State {
	b, err := Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = Decode(b); err != nil {
		t.Fatal(err)
	}
	s, _, _ = s.Apply(c)
	return s
}

// checkRoomFor: what is reserved may grow up to what a host offers and no further.
func checkRoomFor(t *rapid.T, old, s *State) {
	for _, h := range s.Hosts() {
		more := s.Reserved(h.Name).Sub(old.Reserved(h.Name)).Positive()
		if free := old.Free(h.Name).Positive(); !free.Fits(more) {
			t.Errorf("host %s had %+v free and gave %+v more", h.Name, free, more)
		}
	}
}

// checkOwners: only a commit changes an owner, and it raises the generation by one; generations never fall.
func checkOwners(t *rapid.T, c Command, old, s *State) {
	for _, now := range s.Containers() {
		was := old.Container(now.ID)
		if was == nil {
			continue
		}
		_, commit := c.(CommitMigration)
		_, placed := c.(PlaceContainer)
		handed := was.Host != now.Host
		if handed && !commit && !(placed && was.Waits()) {
			t.Errorf("%T moved container %d from %s to %s", c, now.ID, was.Host, now.Host)
		}
		if (handed && now.Generation != was.Generation+1) || (!handed && now.Generation != was.Generation) {
			t.Errorf("%T changed the generation of container %d from %d to %d", c, now.ID, was.Generation, now.Generation)
		}
		if now.Epoch < was.Epoch || (was.Desired == WantDestroyed && now.Desired != WantDestroyed) {
			t.Errorf("%T took back what was wanted of container %d", c, now.ID)
		}
	}
}

// The property test is worth nothing if its commands are all refused. What is drawn is different each time, so it is
// drawn until every command has been accepted, or until that cannot be chance any more.
func TestDrawnCommandsReachTheInterestingStates(t *testing.T) {
	const rounds = 50
	reached := map[string]bool{}
	missing := func() (names []string) {
		for _, c := range everyCommand() {
			switch c.(type) {
			case InitCluster, UpdateHost, SetVoter, RevokeToken, SetAutomation: // not drawn
				continue
			}
			if name := fmt.Sprintf("%T", c); !reached[name] {
				names = append(names, name)
			}
		}
		return names
	}
	for round := 0; round < rounds && len(missing()) > 0; round++ {
		rapid.Check(t, func(t *rapid.T) {
			s := NewState()
			for _, c := range threeHosts() {
				s, _, _ = s.Apply(c)
			}
			for step := range 60 {
				c := drawCommand(t, s, step)
				next, _, err := s.Apply(c)
				if err == nil && next != s {
					reached[fmt.Sprintf("%T", c)] = true
				}
				s = next
			}
		})
	}
	if names := missing(); len(names) > 0 {
		t.Errorf("never accepted: %v", names)
	}
}
