package engine

import (
	"context"
	"slices"
	"testing"

	"github.com/vzcluster/vzcluster/runtime"
)

// notes is what was done to a container.
type notes []string

type noting struct {
	runtime.Cgroups
	*notes
}

func (n noting) PIDs(int) ([]int, error)           { return []int{7}, nil }
func (n noting) Freeze(context.Context, int) error { return n.note("freeze") }
func (n noting) Thaw(context.Context, int) error   { return n.note("thaw") }

func (n *notes) note(what string) error {
	*n = append(*n, what)
	return nil
}

type closing struct {
	runtime.Network
	*notes
}

func (c closing) Close(int) error { return c.note("close") }

// calls makes connections at the first freezes.
type calls struct {
	runtime.Checkpointer
	left int
}

func (c *calls) Connecting(int) (bool, error) {
	c.left--
	return c.left >= 0, nil
}

// TestFreezeAtAGoodMoment lets a container go on that was met while a connection was being made, and ends frozen also
// when that never passes.
func TestFreezeAtAGoodMoment(t *testing.T) {
	for busy, want := range map[int][]string{
		0:    {"freeze", "close"},
		2:    {"freeze", "thaw", "freeze", "thaw", "freeze", "close"},
		1000: append(slices.Repeat([]string{"freeze", "thaw"}, freezeTries-1), "freeze", "close"),
	} {
		var did notes
		e := &Engine{Cgroups: noting{notes: &did}, Network: closing{notes: &did}, Checkpoints: &calls{left: busy}}
		if err := e.Freeze(t.Context(), 101); err != nil || !slices.Equal(did, want) {
			t.Errorf("busy %d times: %v, %v", busy, did, err)
		}
	}
}
