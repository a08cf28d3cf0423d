package cluster

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
)

// FirstCTID is the lowest container id.
const FirstCTID = 101

// State is everything that the cluster has agreed on. It is persistent: Apply leaves it as it is and returns another
// one that shares what did not change, so a State may be read by any number of goroutines without a lock.
type State struct {
	settings   *Settings
	hosts      map[string]*Host
	containers table
	templates  map[string]*Template // by name
	replaced   map[string]*Template // by digest: their name has moved on, but containers still use them
	operations map[string]*Operation
	tokens     map[string]*Token
	moves      map[int]*MoveResult // the last finished move of each container
	policy     Policy
	networks   map[string]*Network // without the default one

	automation *Automation // nil: none

	nextID     int    // the counter that hands out CTIDs
	highID     int    // the highest CTID ever used
	generation uint64 // the highest generation that a removed container ever had

	last    *change // of a container
	changed bool    // while a command is applied: whether it changed anything
	// Computed when first asked for, once per State.
	hostList      func() []*Host
	hostAddresses func() map[netip.Addr]string
	list          func() []*Container
}

// NewState returns the empty state, before init.
func NewState() *State {
	s := &State{
		hosts:      map[string]*Host{},
		containers: newTable(),
		templates:  map[string]*Template{},
		replaced:   map[string]*Template{},
		operations: map[string]*Operation{},
		tokens:     map[string]*Token{},
		moves:      map[int]*MoveResult{},
		networks:   map[string]*Network{},
		nextID:     FirstCTID,
		last:       &change{},
	}
	s.hostsChanged()
	s.touch()
	s.changed = false
	return s
}

// Apply returns the state after a command and the command's result. It is deterministic and has no side effect. After
// an error, and when nothing changed, next is s itself. The result is shared like everything a State hands out.
func (s *State) Apply(c Command) (next *State, result any, err error) {
	n := *s
	n.changed = false
	result, err = c.apply(&n)
	if err != nil {
		return s, nil, err
	}
	if !n.changed {
		return s, result, nil
	}
	n.changed = false
	return &n, result, nil
}

// touch notes a change: what was derived is derived anew.
func (s *State) touch() {
	s.changed = true
	if s.containers.byID.txn != nil {
		return // it is done once, at the end
	}
	containers := s.containers
	s.list = sync.OnceValue(containers.all)
}

// hostsChanged notes that what is derived from the hosts is out of date.
func (s *State) hostsChanged() {
	hosts := s.hosts
	s.hostList = sync.OnceValue(func() []*Host {
		list := slices.Collect(maps.Values(hosts))
		SortHosts(list)
		return list
	})
	s.hostAddresses = sync.OnceValue(func() map[netip.Addr]string { return addressesOf(hosts) })
	s.containers.low = nil // a host may have given its address back
}

func (s *State) putHost(h *Host) {
	put(s, &s.hosts, h.Name, h)
	s.hostsChanged()
}

// put and drop replace a map by a changed copy, so that older States keep theirs.
func put[K comparable, V any](s *State, m *map[K]V, k K, v V) {
	*m = maps.Clone(*m)
	(*m)[k] = v
	s.touch()
}

func drop[K comparable, V any](s *State, m *map[K]V, keys ...K) {
	if len(keys) == 0 {
		return
	}
	*m = maps.Clone(*m)
	for _, k := range keys {
		delete(*m, k)
	}
	s.touch()
}

// Settings returns the cluster-wide facts, nil before init.
func (s *State) Settings() *Settings { return s.settings }

// Host returns a host by name, nil when there is none.
func (s *State) Host(name string) *Host { return s.hosts[name] }

// Hosts returns all hosts by name.
func (s *State) Hosts() []*Host { return slices.Clone(s.hostList()) }

// Container returns a container by CTID, nil when there is none.
func (s *State) Container(id int) *Container { return s.containers.get(id) }

// Find returns a container by CTID or name, nil when there is none.
func (s *State) Find(nameOrID string) *Container {
	if id, err := strconv.Atoi(nameOrID); err == nil {
		return s.containers.get(id)
	}
	return s.containers.named(nameOrID)
}

// Containers returns all containers by CTID.
func (s *State) Containers() []*Container { return slices.Clone(s.list()) }

// On returns the containers that a host owns, by CTID.
func (s *State) On(host string) []*Container { return s.containers.on(host) }

// Waiting returns the containers that no host has room for, by CTID.
func (s *State) Waiting() []*Container { return s.containers.on("") }

// Count is how many containers there are.
func (s *State) Count() int { return s.containers.len() }

// CountOn is how many containers a host owns.
func (s *State) CountOn(host string) int { return s.containers.usage(host).containers }

// Template returns a template by name, nil when there is none.
func (s *State) Template(name string) *Template { return s.templates[name] }

// TemplateByDigest returns a template by digest, also one whose name has moved on while containers use it; nil when
// there is none: then no host needs its copy.
func (s *State) TemplateByDigest(digest string) *Template {
	for _, t := range s.Templates() {
		if t.Digest == digest {
			return t
		}
	}
	return s.replaced[digest]
}

// Templates returns the templates that a container can be created from, by name.
func (s *State) Templates() []*Template {
	return slices.SortedFunc(maps.Values(s.templates), func(a, b *Template) int { return cmp.Compare(a.Name, b.Name) })
}

// Operation returns an operation by id, nil when there is none (or it ended long ago).
func (s *State) Operation(id string) *Operation { return s.operations[id] }

// Operations returns all operations by start.
func (s *State) Operations() []*Operation {
	return slices.SortedFunc(maps.Values(s.operations), func(a, b *Operation) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
}

// ActiveMigration returns the migration that has the container locked (running or committed), nil when there is none.
func (s *State) ActiveMigration(ct int) *Operation {
	if op := s.lock(ct); op != nil && op.Kind == OpMigrate {
		return op
	}
	return nil
}

// ActiveTask returns the local operation that is to be carried out on the container, nil when there is none. What a clone
// makes waits for one of another container.
func (s *State) ActiveTask(ct int) *Operation {
	if op := s.lock(ct); op != nil && op.Kind.Local() && op.Container == ct {
		return op
	}
	return nil
}

func (s *State) lock(ct int) *Operation {
	if c := s.containers.get(ct); c != nil {
		return s.operations[c.Operation]
	}
	return nil
}

// LastMove returns what the container's last finished migration measured, nil when it never moved.
func (s *State) LastMove(ct int) *MoveResult { return s.moves[ct] }

// Token returns a join token by id, nil when there is none.
func (s *State) Token(id string) *Token { return s.tokens[id] }

// Tokens returns the join tokens by creation.
func (s *State) Tokens() []*Token {
	return slices.SortedFunc(maps.Values(s.tokens), func(a, b *Token) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
}

// Reserved is what a host's containers may use, stopped ones and migrations on their way to it included.
func (s *State) Reserved(host string) Resources { return s.containers.usage(host).reserved }

// Policy is how the cluster places containers.
func (s *State) Policy() Policy { return s.policy }

// Free is what a host offers without what is reserved; parts may be negative when the capacity shrank.
func (s *State) Free(host string) Resources {
	h := s.hosts[host]
	if h == nil {
		return Resources{}
	}
	return s.policy.Offer(h).Sub(s.Reserved(host))
}
