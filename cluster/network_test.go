package cluster

import (
	"errors"
	"slices"
	"testing"
)

// dual is a state with both pools and a container that has one address of each.
func dual(t *testing.T) (*State, *Container) {
	t.Helper()
	s := must(t, NewState(), threeHosts()...)
	s = must(t, s, AddPool{"", AddressPool{Prefix: "fd00::/64", First: "fd00::10", Last: "fd00::12"}})
	s = must(t, s, create(0, "h1"))
	return s, s.Containers()[0]
}

func TestDualStackAddresses(t *testing.T) {
	s, c := dual(t)
	if want := []string{"10.77.0.10/24", "fd00::10/64"}; !slices.Equal(c.Addresses, want) {
		t.Fatalf("the container has %v, want one of each pool: %v", c.Addresses, want)
	}
	ip := func(v string) *string { return &v }
	for _, step := range []struct {
		set  SetContainer
		want []string
	}{
		{SetContainer{IP: ip("auto")}, []string{"10.77.0.10/24", "fd00::10/64"}}, // keeps what it has
		{SetContainer{IPAdd: []string{"auto6"}}, []string{"10.77.0.10/24", "fd00::10/64", "fd00::11/64"}},
		{SetContainer{IPDel: []string{"fd00::10", "10.77.0.10/24"}}, []string{"fd00::11/64"}},
		{SetContainer{IPAdd: []string{"10.77.0.11", "auto4"}}, []string{"fd00::11/64", "10.77.0.11/24", "10.77.0.10/24"}},
		{SetContainer{IP: ip("10.77.0.12,fd00::12")}, []string{"10.77.0.12/24", "fd00::12/64"}},
		{SetContainer{IP: ip("none")}, []string{}},
		{SetContainer{IPAdd: []string{"auto"}}, []string{"10.77.0.10/24", "fd00::10/64"}}, // what was taken away is free again
	} {
		step.set.ID = c.ID
		s = must(t, s, step.set)
		if got := s.Container(c.ID).Addresses; !slices.Equal(got, step.want) {
			t.Fatalf("after %+v it has %v, want %v", step.set, got, step.want)
		}
	}
}

func TestAddressesThatAreRefused(t *testing.T) {
	s, c := dual(t)
	s = must(t, s, create(0, "h1"))
	ip := func(v string) *string { return &v }
	for _, r := range []struct {
		set  SetContainer
		want error
	}{
		{SetContainer{IPAdd: []string{"fd00::11"}}, ErrConflict}, // the other container's
		{SetContainer{IP: ip("10.77.0.11")}, ErrConflict},
		{SetContainer{IPAdd: []string{"fd00::10"}}, ErrConflict}, // it has that already
		{SetContainer{IPAdd: []string{"none"}}, ErrInvalid},
		{SetContainer{IP: ip("auto,none")}, ErrInvalid},
		{SetContainer{IPDel: []string{"10.77.0.99"}}, ErrInvalid},
		{SetContainer{IPAdd: []string{"fd01::1"}}, ErrInvalid}, // of no pool
		{SetContainer{IPAdd: []string{"fd00::12/48"}}, ErrInvalid},
		{SetContainer{IPAdd: []string{"auto6", "auto6"}}, ErrConflict}, // only one is left
		{SetContainer{IPDel: []string{"10.77.0.10"}, IPAdd: []string{"bad"}}, ErrInvalid},
	} {
		r.set.ID = c.ID
		next, _, err := s.Apply(r.set)
		if !errors.Is(err, r.want) || next != s {
			t.Errorf("%+v: %v, want %v and nothing changed", r.set, err, r.want)
		}
	}
}

func TestPools(t *testing.T) {
	s, _ := dual(t)
	overlay := Network{Name: "inner", Kind: NetworkOverlay, Pools: []AddressPool{{Prefix: "10.9.0.0/24", First: "10.9.0.2", Last: "10.9.0.9"}}}
	s = must(t, s, AddNetwork{overlay})
	if n := s.Network("inner"); n == nil || n.VNI == 0 {
		t.Fatalf("the network is %+v, want one with a number", n)
	}
	s = must(t, s, AddNetwork{overlay}) // again
	for _, r := range []struct {
		c    Command
		want error
	}{
		{AddPool{"", AddressPool{Prefix: "fd01::/64", First: "fd01::1", Last: "fd01::2"}}, ErrConflict}, // a second one of IPv6
		{AddPool{"inner", AddressPool{Prefix: "fd00::/48", First: "fd00::1", Last: "fd00::2"}}, ErrConflict},
		{AddPool{"nosuch", AddressPool{Prefix: "fd01::/64", First: "fd01::1", Last: "fd01::2"}}, ErrNotFound},
		{AddPool{"inner", AddressPool{Prefix: "fd01::/64", First: "fd02::1", Last: "fd01::2"}}, ErrInvalid},
		{AddNetwork{Network{Name: "other", Kind: NetworkVLAN, VLAN: 4095}}, ErrInvalid},
		{AddNetwork{Network{Name: "other", Kind: NetworkVLAN, VLAN: 5, VNI: 5}}, ErrInvalid},
		{AddNetwork{Network{Name: "other", Kind: NetworkBridge, Bridge: "a name that is long"}}, ErrInvalid},
		{AddNetwork{Network{Name: "other", Kind: NetworkOverlay, VNI: 1000}}, ErrConflict},
		{AddNetwork{Network{Name: "other", Kind: "mesh"}}, ErrInvalid},
		{AddNetwork{Network{Name: DefaultNetwork, Kind: NetworkVLAN, VLAN: 5}}, ErrConflict},
		{AddNetwork{Network{Name: "inner", Kind: NetworkVLAN, VLAN: 5}}, ErrConflict},
		{DropNetwork{DefaultNetwork}, ErrConflict},
		{DropNetwork{"nosuch"}, ErrNotFound},
	} {
		if next, _, err := s.Apply(r.c); !errors.Is(err, r.want) || next != s {
			t.Errorf("%+v: %v, want %v and nothing changed", r.c, err, r.want)
		}
	}
	s = must(t, s, DropNetwork{"inner"})
	if s.Network("inner") != nil {
		t.Error("a network that was dropped is still there")
	}
}
