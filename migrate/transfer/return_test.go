package transfer

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// twoSided sends one pass, with what either side knows.
func twoSided(t *testing.T, src, dst string, prev, have *Manifest, final bool) (next, got *Manifest, stats Stats) {
	t.Helper()
	var stream bytes.Buffer
	next, _, err := send(context.Background(), &stream, src, prev, final)
	must(t, err)
	got, stats, err = Receive(context.Background(), &stream, dst, have, Limits{})
	must(t, err)
	return next, got, stats
}

// A layer that comes back is compared with the copy that was kept: only what was changed in between crosses the wire.
func TestReturn(t *testing.T) {
	needRoot(t)
	here, there := layers(t)
	tricky(t, here)
	write(t, filepath.Join(here, "db"), strings.Repeat("0123456789abcdef", 1<<20))
	must(t, unix.Setxattr(filepath.Join(here, "etc/plain"), origin, []byte("handle"), 0))
	must(t, unix.Setxattr(filepath.Join(here, "links/a"), origin, []byte("handle"), 0))
	for i := range 500 {
		write(t, filepath.Join(here, fmt.Sprintf("many/d%d/f%d", i%10, i)), strings.Repeat("x", 1000))
	}
	sent, got, first := twoSided(t, here, there, nil, nil, false)
	write(t, filepath.Join(here, "many/late"), "in the second pass")
	edit(t, filepath.Join(here, "db"), 9<<20, "in the second pass")
	sent, got, _ = twoSided(t, here, there, sent.old(), got, true)
	same(t, here, there)

	// Now it runs there.
	got.old()
	edit(t, filepath.Join(there, "db"), 5<<20, "one page")
	write(t, filepath.Join(there, "many/d3/f3"), "changed")
	must(t, os.Remove(filepath.Join(there, "many/d4/f4")))
	must(t, os.Rename(filepath.Join(there, "many/d5"), filepath.Join(there, "many/renamed")))
	must(t, os.Remove(filepath.Join(there, "links/b")))
	write(t, filepath.Join(there, "new/file"), "new")

	waitTick(t, here)
	must(t, unix.Setxattr(here, origin, []byte("of a mount"), 0)) // as a mount does
	untouched, err := sent.Adopt(context.Background(), here)
	must(t, err)
	if !untouched {
		t.Fatal("a layer that nobody touched is not adopted")
	}
	if n, _ := unix.Getxattr(filepath.Join(here, "etc/plain"), origin, nil); n > 0 {
		t.Error("an adopted layer still says where a file was copied from")
	}
	back, _, stats := twoSided(t, there, here, got, sent, false)
	same(t, there, here)
	if limit := first.Bytes * 15 / 100; stats.Bytes > limit || stats.Bytes == 0 {
		t.Errorf("coming back took %d bytes, want at most %d", stats.Bytes, limit)
	}
	if _, _, stats = twoSided(t, there, here, back.old(), sent, true); stats.Bytes != 0 {
		t.Errorf("the frozen pass sent %d bytes again", stats.Bytes)
	}
	same(t, there, here)
}

// A kept layer that somebody touched is no base.
func TestAdoptRefuses(t *testing.T) {
	for name, touch := range map[string]func(root string) error{
		"written": func(root string) error { return os.WriteFile(filepath.Join(root, "a/f"), []byte("yy"), 0o644) },
		"same size and time": func(root string) error {
			p := filepath.Join(root, "a/f")
			st, err := os.Stat(p)
			if err != nil {
				return err
			}
			if err := os.WriteFile(p, []byte("z"), 0o644); err != nil {
				return err
			}
			return os.Chtimes(p, st.ModTime(), st.ModTime())
		},
		"removed": func(root string) error { return os.Remove(filepath.Join(root, "a/f")) },
		"added":   func(root string) error { return os.WriteFile(filepath.Join(root, "a/g"), nil, 0o644) },
		"mode":    func(root string) error { return os.Chmod(filepath.Join(root, "a"), 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := layers(t)
			write(t, filepath.Join(src, "a/f"), "x")
			m, _ := pass(t, src, dst, nil)
			waitTick(t, src)
			must(t, touch(src))
			if ok, err := m.Adopt(context.Background(), src); err != nil || ok {
				t.Errorf("adopted: %v, %v", ok, err)
			}
		})
	}
}

// waitTick returns when the kernel gives files another time than before.
func waitTick(t *testing.T, dir string) {
	t.Helper()
	now := func() int64 {
		p := filepath.Join(filepath.Dir(dir), "tick")
		must(t, os.WriteFile(p, nil, 0o644))
		var st unix.Stat_t
		must(t, unix.Stat(p, &st))
		return st.Ctim.Nano()
	}
	for was := now(); now() == was; {
	}
}

// A pass that broke off anywhere is gone on from there: what is complete is not sent again, and what is not leaves no
// trace.
func TestBrokenPassGoesOn(t *testing.T) {
	needRoot(t)
	draw := rand.New(rand.NewPCG(3, uint64(os.Getpid())))
	src, dst := layers(t)
	tricky(t, src)
	for i := range 60 {
		write(t, filepath.Join(src, fmt.Sprintf("many/d%d/f%d", i%7, i)), strings.Repeat("x", 70_000))
	}
	var prev, have *Manifest
	for i := range 40 {
		var stream bytes.Buffer
		next, _, err := Send(context.Background(), &stream, src, prev)
		must(t, err)
		cut := draw.IntN(stream.Len())
		got, _, err := Receive(context.Background(), bytes.NewReader(stream.Bytes()[:cut]), dst, have, Limits{})
		if err == nil {
			t.Fatal("a part of a pass was taken for a pass")
		}
		if have = got; prev != nil || have.Len() > 0 { // else it broke before it began
			if prev = next.Cut(have.Ended()); prev == nil {
				t.Fatalf("cannot go on after %d entries", have.Ended())
			}
		}
		for j := range 3 {
			churn(src, i*3+j)
		}
	}
	m, have, _ := twoSided(t, src, dst, prev, have, false)
	same(t, src, dst)
	if _, _, stats := twoSided(t, src, dst, m.old(), have, true); stats.Bytes != 0 {
		t.Errorf("what is complete was sent again: %+v", stats)
	}
}

func TestCompleteFilesAreNotSentAgain(t *testing.T) {
	src, dst := layers(t)
	for i := range 100 {
		write(t, filepath.Join(src, fmt.Sprintf("f%02d", i)), strings.Repeat("x", 70_000))
	}
	var stream bytes.Buffer
	next, _, err := Send(context.Background(), &stream, src, nil)
	must(t, err)
	half := bytes.NewReader(stream.Bytes()[:stream.Len()/2])
	have, _, err := Receive(context.Background(), half, dst, nil, Limits{})
	if err == nil || have.Ended() < 40 {
		t.Fatalf("%d entries are complete: %v", have.Ended(), err)
	}
	if next.Cut(101+1) != nil || next.Cut(-1) != nil {
		t.Error("a receiver may claim more than it was sent")
	}
	_, _, stats := twoSided(t, src, dst, next.old().Cut(have.Ended()), have, false)
	same(t, src, dst)
	if stats.Bytes > 60*70_000 {
		t.Errorf("%d bytes were sent again", stats.Bytes)
	}
}
