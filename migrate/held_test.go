package migrate

import (
	"bytes"
	"slices"
	"testing"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// frames are what a fake host holds.
type frames [][]byte

func (f frames) Take() [][]byte { return f }
func (f frames) Close()         {}

func (a *agent) Hold(runtime.Spec) (runtime.Held, error) {
	defer a.enter()()
	if !a.here().frozen {
		a.w.t.Error("frames are held for a container that runs")
	}
	return a.w.frames, nil
}

func (a *agent) Replay(_ runtime.Spec, held [][]byte) error {
	defer a.enter()()
	if !a.here().open {
		a.w.t.Error("frames are replayed to a container that is not open")
	}
	for _, f := range held {
		a.w.replayed = append(a.w.replayed, bytes.Clone(f))
	}
	return nil
}

// What was sent to the container while it was nowhere reaches it, in order, however much it was.
func TestHeldFramesFollow(t *testing.T) {
	r := newRun(t, cluster.ModeLive)
	for i := range 40 {
		r.frames = append(r.frames, bytes.Repeat([]byte{byte(i)}, 60<<10))
	}
	r.through("")
	if r.container().Host != "b" {
		t.Fatal("the container did not move")
	}
	if !slices.EqualFunc(r.replayed, r.frames, bytes.Equal) {
		t.Errorf("%d frames were held, %d replayed", len(r.frames), len(r.replayed))
	}
}

func TestSplitFrames(t *testing.T) {
	for _, body := range []string{"\x00", "\x00\x00\x00\x05abcd", "\xff\xff\xff\xffa", "\x00\x00\x00\x01a\x00"} {
		if _, err := splitFrames([]byte(body)); err == nil {
			t.Errorf("%q was taken", body)
		}
	}
}
