package cluster

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// table holds the containers and what is derived from them, so that a command costs the same however many there are.
// It is persistent: a change returns another table that shares what did not change.
type table struct {
	byID      tree[*Container]
	byName    tree[*Container]
	byHost    tree[*Container] // host, 0, CTID
	use       tree[hostUse]    // by host
	addresses tree[int]        // who has an address
	uids      tree[int]        // how many have a range
	digests   tree[int]        // how many containers use a template, or have a snapshot that does
	groups    tree[crowd]      // group, 0, host
	n         int              // containers

	// Nothing below is free. They only save time: the lowest free one is the same without them.
	lowUID uint32
	low    map[netip.Prefix]netip.Addr // by pool
}

// hostUse is what containers, and migrations on their way, take of a host.
type hostUse struct {
	reserved   Resources
	containers int // owned, without those on their way
}

func newTable() table {
	return table{
		byID: newTree[*Container](), byName: newTree[*Container](), byHost: newTree[*Container](),
		use: newTree[hostUse](), addresses: newTree[int](), uids: newTree[int](), digests: newTree[int](),
		groups: newTree[crowd](),
	}
}

// number is a key that sorts as numbers do.
func number(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func onHost(host string, id int) []byte {
	return binary.BigEndian.AppendUint32(append([]byte(host), 0), uint32(id))
}

func (t *table) get(id int) *Container {
	if id < 0 || id > maxCTID {
		return nil
	}
	c, _ := t.byID.get(number(uint32(id)))
	return c
}

func (t *table) named(name string) *Container {
	c, _ := t.byName.get([]byte(name))
	return c
}

func (t *table) len() int { return t.n }

// all returns the containers by CTID, on those of one host.
func (t *table) all() []*Container { return list(t.byID.root(), t.len()) }

func (t *table) on(host string) []*Container {
	it := t.byHost.root().Iterator()
	it.SeekPrefix(append([]byte(host), 0))
	var out []*Container
	for _, c, ok := it.Next(); ok; _, c, ok = it.Next() {
		out = append(out, c)
	}
	return out
}

func list(root *iradix.Node[*Container], n int) []*Container {
	out := make([]*Container, 0, n)
	root.Walk(func(_ []byte, c *Container) bool {
		out = append(out, c)
		return false
	})
	return out
}

func (t *table) usage(host string) hostUse {
	u, _ := t.use.get([]byte(host))
	return u
}

// claim is the part of a container in what is derived: on its host, and on the one that it is on its way to.
type claim struct {
	c  *Container
	to string // empty: it stays
}

// begin makes the changes up to end in place. A table that is a copy of what it was before begin is as it was then.
func (t *table) begin() {
	t.byID.begin()
	t.byName.begin()
	t.byHost.begin()
	t.use.begin()
	t.addresses.begin()
	t.uids.begin()
	t.digests.begin()
	t.groups.begin()
}

func (t *table) end() {
	t.byID.end()
	t.byName.end()
	t.byHost.end()
	t.use.end()
	t.addresses.end()
	t.uids.end()
	t.digests.end()
	t.groups.end()
}

// replace takes one container's claim out and puts another one in; either may be of nil.
func (t *table) replace(old, now claim) {
	if old.c != nil {
		t.release(old)
	}
	if now.c != nil {
		t.take(now)
	}
}

func (t *table) take(k claim) {
	c := k.c
	t.n++
	t.byID.put(number(uint32(c.ID)), c)
	if !c.InTrash() {
		t.byName.put([]byte(c.Name), c)
	}
	t.byHost.put(onHost(c.Host, c.ID), c)
	for _, d := range c.digests() {
		t.count(&t.digests, []byte(d), 1)
	}
	t.reserve(k, 1)
	t.count(&t.uids, number(c.UIDBase), 1)
	for _, a := range c.bareAddresses() {
		t.addresses.put(a.AsSlice(), c.ID)
	}
}

func (t *table) release(k claim) {
	c := k.c
	t.n--
	t.byID.drop(number(uint32(c.ID)))
	if !c.InTrash() {
		t.byName.drop([]byte(c.Name))
	}
	t.byHost.drop(onHost(c.Host, c.ID))
	for _, d := range c.digests() {
		t.count(&t.digests, []byte(d), -1)
	}
	t.reserve(k, -1)
	t.count(&t.uids, number(c.UIDBase), -1)
	t.lowUID = min(t.lowUID, c.UIDBase)
	for _, a := range c.bareAddresses() {
		t.addresses.drop(a.AsSlice())
		t.maybeFree(a)
	}
}

func (t *table) count(in *tree[int], key []byte, by int) {
	n, _ := in.get(key)
	if n += by; n == 0 {
		in.drop(key)
		return
	}
	in.put(key, n)
}

// reserve adds a claim to what its hosts have reserved, or takes it away.
func (t *table) reserve(k claim, sign int) {
	change := func(host string, containers int) {
		u, need := t.usage(host), k.c.Need()
		if sign < 0 {
			u.reserved = u.reserved.Sub(need)
		} else {
			u.reserved = u.reserved.Add(need)
		}
		u.containers += sign * containers
		if !k.c.InTrash() {
			t.crowded(k.c, host, sign)
		}
		if u == (hostUse{}) {
			t.use.drop([]byte(host))
			return
		}
		t.use.put([]byte(host), u)
	}
	if k.c.Waits() {
		return // what waits takes no room
	}
	change(k.c.Host, 1)
	if k.to != "" {
		change(k.to, 0)
	}
}

// digests are those of the templates that the container and its snapshots lie on.
func (c *Container) digests() []string {
	out := []string{c.Digest}
	for _, s := range c.Snapshots {
		if !slices.Contains(out, s.Digest) {
			out = append(out, s.Digest)
		}
	}
	return out
}

func (c *Container) bareAddresses() []netip.Addr {
	var out []netip.Addr
	for _, n := range c.AllNICs() {
		for _, text := range n.Addresses {
			if p, err := netip.ParsePrefix(text); err == nil {
				out = append(out, p.Addr())
			}
		}
	}
	return out
}

// noneBelow notes that no address of a pool below this one is free.
func (t *table) noneBelow(pool netip.Prefix, a netip.Addr) {
	if t.low[pool] == a {
		return
	}
	low := maps.Clone(t.low)
	if low == nil {
		low = map[netip.Prefix]netip.Addr{}
	}
	low[pool] = a
	t.low = low
}

// maybeFree notes that an address may be free now.
func (t *table) maybeFree(a netip.Addr) {
	for pool, low := range t.low {
		if pool.Contains(a) && a.Less(low) {
			t.noneBelow(pool, a)
			return // pools do not overlap
		}
	}
}

// holder says which container has an address, "" when none has.
func (t *table) holder(a netip.Addr) string {
	if id, ok := t.addresses.get(a.AsSlice()); ok {
		return fmt.Sprintf("container %d", id)
	}
	return ""
}

// putContainer records a container as it is now.
func (s *State) putContainer(c *Container) {
	s.containers.replace(s.claim(s.containers.get(c.ID)), s.claim(c))
	s.noteChange(c.ID)
	s.touch()
}

// claim is made from the operation that has the container locked: it must be recorded before the container is.
func (s *State) claim(c *Container) claim {
	if c == nil {
		return claim{}
	}
	if op := s.operations[c.Operation]; op != nil && op.To != c.Host {
		return claim{c, op.To}
	}
	return claim{c: c}
}

func (s *State) dropContainer(c *Container) {
	s.containers.replace(s.claim(c), claim{})
	s.noteChange(c.ID)
	s.touch()
}
